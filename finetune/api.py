"""The commands as functions: ``import finetune as ft; run = ft.run(data="photos"); run.predict("photo.jpg")``.

Everything heavy is imported when it is first needed. Errors are those of ``finetune.errors``; progress is silent unless
``progress=True``, and then goes to stderr.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.backend import load_keras
from finetune.errors import DataError
from finetune.progress import Reporter
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
    from finetune.commands import run as runs

    options: dict[str, Any] = {"data": data, "backbone": backbone, "strategy": strategy, "head": head}
    options |= {"weights": weights, "image_size": image_size, "epochs": epochs, "seed": seed}
    found = runs.run(recipe, **options, settings=settings, out=out, reporter=Reporter(quiet=not progress))  # type: ignore[arg-type]
    return Run(found.run, progress)


def compare(
    *recipes: Place, out: Place = "compared", photos: bool = True, progress: bool = False
) -> dict[str, Any]:
    """Run many recipes and say which differences are real: ``finetune compare``; returns what its ``--json`` prints.

    Cells run in a process of their own, which imports the calling script: call this below ``if __name__ == "__main__"``.
    """
    from finetune.commands.compare import compare as run_all

    return run_all(*recipes, out=out, photos=photos, reporter=Reporter(quiet=not progress))


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
    from finetune.commands.extract_features import extract_features as extract

    reporter = Reporter(quiet=not progress)
    return extract(
        data, backbone=backbone, weights=weights, image_size=image_size, cut=cut, pooling=pooling, out=out, reporter=reporter
    )


def ensemble(*runs: Place | Run, out: Place, blend: str = "mean", progress: bool = False) -> Run:
    """Combine finished runs into one classifier: ``finetune ensemble``; its comparison is the result of the new run."""
    from finetune.runs.members import read_members

    load_keras()
    from finetune.commands import ensemble as ensembles

    folders = [run.path if isinstance(run, Run) else Path(run) for run in runs]
    members = read_members(folders, reserved=list(ensembles.ROWS.values()))
    ensembles.ensemble(members, Path(out), Reporter(quiet=not progress), blend)
    return Run(out, progress)


def _path(place: Place | None) -> Path | None:
    return None if place is None else Path(place)
