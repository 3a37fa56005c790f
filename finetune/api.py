"""The commands as functions: ``import finetune as ft; run = ft.run(data="photos"); run.predict("photo.jpg")``.

Everything heavy is imported when it is first needed. Errors are those of ``finetune.errors``; progress is silent unless
``progress=True``, and then goes to stderr.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from finetune.backend import load_keras
from finetune.errors import DataError
from finetune.progress import Reporter
from finetune.recipe.recipe import load
from finetune.runs.folder import read_result

if TYPE_CHECKING:
    import pandas as pd

    from finetune.runs.classifier import Classifier

Place = str | PathLike[str]


class Run:
    """A finished run, an ensemble, or any other saved classifier.

    Args:
        path: a run folder or a ``.keras`` file.
        progress: tell of progress on stderr.

    Raises:
        DataError: there is nothing at ``path``.
    """

    def __init__(self, path: Place, progress: bool = False):
        self.path = Path(path)
        self._reporter = Reporter(quiet=not progress)
        if not self.path.exists():
            raise DataError(f"{path} does not exist. Give a run folder, or a .keras file.")

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"

    @property
    def result(self) -> dict[str, Any]:
        """What ``finetune run --json`` printed: metrics, parameters, seconds; empty for a bare model file."""
        return read_result(self.path) or {}

    @cached_property
    def classifier(self) -> "Classifier":
        """The model, its classes and how it wants its photos."""
        load_keras()
        from finetune.runs.classifier import Classifier

        return Classifier.open(self.path)

    def predict(self, *photos: Place, top: int = 1) -> "pd.DataFrame":
        """Classify photo files and folders of photos.

        Returns:
            One row per photo: file, class, probability (0-1), for ``top`` above 1 also class_2, probability_2 and so on,
            and bad: why a photo could not be decoded, None for the others. ``commands.predict.predict`` is the same as a
            stream, for more photos than a table should hold.

        Raises:
            DataError: a path does not exist.
        """
        classifier = self.classifier
        import pandas as pd

        from finetune.commands.predict import predict

        rows = []
        for found in predict(classifier, [Path(photo) for photo in photos], top):
            row: dict[str, Any] = {"file": found.file, "class": None, "probability": None}
            for rank, (name, probability) in enumerate(found.top, start=1):
                suffix = f"_{rank}" if rank > 1 else ""
                row |= {f"class{suffix}": name, f"probability{suffix}": probability}
            rows.append({**row, "bad": found.bad})
        return pd.DataFrame(rows)

    def evaluate(
        self, data: Place, split: str | None = None, out: Place | None = None
    ) -> dict[str, Any]:
        """Measure on other labelled photos; see ``commands.evaluate.evaluate``."""
        classifier = self.classifier
        from finetune.commands.evaluate import evaluate

        return evaluate(classifier, str(data), self._reporter, split, _path(out))

    def explain(
        self,
        *photos: Place,
        layers: Sequence[str] = (),
        class_name: str | None = None,
        out: Place = "explained",
    ) -> dict[str, Any]:
        """Draw what speaks for a class over photos; see ``commands.explain.explain``."""
        classifier = self.classifier
        from finetune.commands.explain import explain

        paths = [Path(photo) for photo in photos]
        return explain(classifier, paths, layers, class_name, Path(out), reporter=self._reporter)

    def export(self, format: str, out: Place | None = None) -> dict[str, Any]:
        """Write the classifier as keras, saved-model, onnx, openvino or tflite; see ``commands.export.export``."""
        classifier = self.classifier
        from finetune.commands.export import default_out, export

        return export(classifier, format, _path(out) or default_out(self.path, format))


def run(
    recipe: Place | Mapping[str, Any] | None = None,
    *,
    out: Place | None = None,
    settings: Sequence[str] = (),
    progress: bool = False,
    data: Place | None = None,
    backbone: str | None = None,
    strategy: str | None = None,
    head: str | None = None,
    weights: Place | None = None,
    image_size: int | None = None,
    epochs: int | None = None,
    seed: int | None = None,
) -> Run:
    """Train one recipe, from photos to a saved classifier: ``finetune run``.

    Args:
        recipe: a YAML file, or a mapping of its keys.
        out: the run folder; a new one in ``runs/`` if missing.
        settings: texts ``KEY=VALUE`` for any other key of a recipe, dotted.
        progress: tell of progress on stderr.
        data, backbone, strategy, head, weights, image_size, epochs, seed: as the command's options.

    Raises:
        FinetuneError: see its subclasses.
    """
    options = {
        "data": data and str(data),
        "backbone": backbone,
        "strategy": strategy,
        "head": head,
        "seed": seed,
    }
    options |= {"weights": weights and str(weights), "image_size": image_size, "epochs": epochs}
    given = {key: value for key, value in options.items() if value is not None}
    if isinstance(recipe, Mapping):
        resolved = load(None, {**recipe, **given}, list(settings))
    else:
        resolved = load(_path(recipe), given, list(settings))
    load_keras()
    from finetune.commands import run as runs

    name = f"{resolved.strategy}-{resolved.backbone}-{datetime.now():%Y%m%d-%H%M%S-%f}"
    folder = _path(out) or Path("runs", name)
    runs.run(resolved, folder, Reporter(quiet=not progress))
    return Run(folder, progress)


def compare(
    *recipes: Place, out: Place = "compared", photos: bool = True, progress: bool = False
) -> dict[str, Any]:
    """Run many recipes and say which differences are real: ``finetune compare``; returns what its ``--json`` prints.

    Cells run in a process of their own, which imports the calling script: call this below ``if __name__ == "__main__"``.
    """
    from finetune.commands.compare import compare as run_all
    from finetune.recipe.matrix import collect

    return run_all(
        collect([Path(path) for path in recipes]), Path(out), Reporter(quiet=not progress), photos
    )


def extract_features(
    data: Place | None = None,
    *,
    backbone: str | None = None,
    weights: Place | None = None,
    image_size: int | None = None,
    cut: str | None = None,
    pooling: str = "gap",
    out: Place = "features",
    progress: bool = False,
) -> dict[str, Any]:
    """Write ``features.npy`` and ``index.csv``: ``finetune extract-features``; returns what its ``--json`` prints."""
    chosen: dict[str, Any] = {
        "data": data and str(data),
        "backbone": backbone,
        "weights": weights and str(weights),
    }
    resolved = load(None, {**chosen, "image_size": image_size, "strategy": "cached-features"})
    load_keras()
    from finetune.commands.extract_features import extract_features as extract

    return extract(resolved, cut, pooling, Path(out), Reporter(quiet=not progress))


def ensemble(
    *runs: Place | Run,
    out: Place,
    blend: Literal["mean", "weighted"] = "mean",
    progress: bool = False,
) -> Run:
    """Combine finished runs into one classifier: ``finetune ensemble``."""
    from finetune.commands import ensemble as ensembles

    folders = [run.path if isinstance(run, Run) else Path(run) for run in runs]
    ensembles.ensemble(*folders, blend=blend, out=Path(out), reporter=Reporter(quiet=not progress))
    return Run(out, progress)


def _path(place: Place | None) -> Path | None:
    return None if place is None else Path(place)
