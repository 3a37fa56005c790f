"""`finetune evaluate`: how good a classifier is on photos of its classes that lie elsewhere."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.errors import DataError, UsageError
from finetune.files import commit, commit_csv, commit_json, expanded, locked
from finetune.progress import SILENT, Reporter, count

if TYPE_CHECKING:
    import numpy as np

    from finetune.data.dataset import Dataset
    from finetune.evaluation.overlays import Tile
    from finetune.runs.classifier import Classifier

SPLITS = ("test", "validation", "train", "all")
_LISTED = 25  # photos of the highest loss that are in the table
_SHOWN = 12  # of these, on the contact sheet
_PER_ROW = 4
_USED = {
    "train": "These are the photos that the model was trained on",
    "validation": "These photos chose the model's settings and its best epoch",
    "all": "Among these are the photos that the model was trained on",
}


def evaluate(
    model: "Path | str | Classifier",
    data: Path | str,
    *,
    split: str | None = None,
    skip_bad: bool = False,
    precision: str = "auto",
    out: Path | str | None = None,
    reporter: Reporter = SILENT,
) -> dict[str, Any]:
    """Measure a classifier on labelled photos of its classes.

    Args:
        model: a run folder, a ``.keras`` file or an open Classifier.
        data: class folders, as such or in split folders, a table of photos, or a data set's name;
            classes are matched by name.
        split: one of ``SPLITS``; test if missing. Without splits all photos are used.
        skip_bad: leave out photos that cannot be decoded.
        precision: of the network's arithmetic: auto, float32, bfloat16 or int8.
        out: the folder for ``metrics.json``, ``predictions.csv``, ``confusion.png`` and
            ``top_losses.csv`` and ``.png``; ``evaluations/RUN-DATA`` if missing, with ``-SPLIT``
            for any split but test.
        reporter: gets progress, and is warned of classes without photos and of photos that the
            model knows from its training.

    Returns:
        What ``evaluate --json`` prints.

    Raises:
        DataError: there are no photos, bad ones, or photos of unknown classes.
        UsageError: ``out`` holds an evaluation of other photos or of another model, or the folder
            has no splits.
    """
    from finetune.data import catalog
    from finetune.files import sha256_of
    from finetune.runs.classifier import opened

    if split not in (*SPLITS, None):
        raise UsageError(f"split is '{split}'; allowed are {', '.join(SPLITS)}.")
    classifier, data = opened(model), str(data)
    dataset = catalog.resolve_labelled(data, classifier.classes, split)
    used = split or "test" if dataset.photos[0].split else "all"
    _warn_of_absence(classifier, dataset, reporter)
    out = Path(out) if out else _default_out(classifier.path, dataset.name, split)
    file = classifier.path / "model.keras" if classifier.path.is_dir() else classifier.path
    digests = {"model": sha256_of(file)}
    with locked(out):
        _check_free(out, digests)  # before minutes of work
        dataset, probabilities = _score(classifier, dataset, skip_bad, precision, reporter)
        digests = {"photos": dataset.digest, **digests}
        _check_free(out, digests)
        measures = _measures(dataset, probabilities)
        known = _known(classifier, data, used, dataset, probabilities)
        warnings = _warnings(classifier, dataset, measures, known)
        result = {
            "run": str(classifier.path),
            "data": data,
            "split": used,
            "out": str(out),
            **measures,
            "known": known,
            "warnings": warnings,
            "bad": len(dataset.excluded),
            "digests": digests,
        }
        _write(out, dataset, probabilities, result)
    for warning in warnings:
        reporter.warn(warning)
    return result


def _default_out(model: Path, data: str, split: str | None) -> Path:
    suffix = f"-{split}" if split not in (None, "test") else ""
    return Path("evaluations", f"{model.resolve().name.removesuffix('.keras')}-{data}{suffix}")


def _warn_of_absence(classifier: "Classifier", dataset: "Dataset", reporter: Reporter) -> None:
    found = {photo.label for photo in dataset.photos}
    absent = [name for index, name in enumerate(classifier.classes) if index not in found]
    if absent:
        names = ", ".join(absent[:10])
        reporter.warn(
            f"No photos of {len(absent)} of the model's {len(classifier.classes)} classes: {names}."
        )


def _known(
    classifier: "Classifier", data: str, used: str, dataset: "Dataset", probabilities: "np.ndarray"
) -> dict[str, Any]:
    """What ``runs.known.known`` finds; where it cannot tell, the place of the photos may."""
    import numpy as np

    from finetune.runs.known import known

    labels = np.array([photo.label for photo in dataset.photos])
    contents = [photo.sha256 for photo in dataset.photos]
    found = known(classifier.path, contents, probabilities, labels)
    recipe = classifier.recipe
    if not found["photos"] and recipe and used in _USED and _place(recipe.data) == _place(data):
        text = f"{_USED[used]}; the figures do not tell how it does on new photos."
        return {**found, "flatters": True, "text": text}
    return found


def _warnings(
    classifier: "Classifier", dataset: "Dataset", measures: dict[str, Any], known: dict[str, Any]
) -> list[str]:
    """What makes the figures worth less than they look."""
    from finetune.data.audit import few_warning, imbalance_warning
    from finetune.evaluation.caveats import caveats

    counts = {row["class"]: row["n"] for row in measures["per_class"] if row["n"]}
    balanced = bool(classifier.recipe and classifier.recipe.is_balanced)
    return [
        *([known["text"]] if known["flatters"] else []),
        *imbalance_warning(counts, measures["majority_baseline"], balanced, "test"),
        *few_warning(counts),
        *caveats(measures),
    ]


def _place(data: str) -> str | Path:
    from finetune.data import catalog

    return data if data in catalog.NAMES else expanded(data).resolve()


def _score(
    classifier: "Classifier", dataset: "Dataset", skip_bad: bool, precision: str, reporter: Reporter
) -> tuple["Dataset", "np.ndarray"]:
    """The photos that can be decoded, and float32 (n, classes) of them, from one pass over all."""
    import numpy as np

    rows = []
    bad = []
    with reporter.stage("photos classified", len(dataset.photos)) as advance:
        for photo, found in classifier.score(dataset.photos, precision):
            advance(1)
            if isinstance(found, str):
                bad.append((photo, found))
            else:
                rows.append(found)
    listing = "\n".join(f"  {photo.path}: {reason}" for photo, reason in bad)
    if not rows:
        raise DataError(f"None of {count(len(bad), 'photo')} can be decoded:\n{listing}")
    told = f"{len(bad)} of {len(dataset.photos):,} photos cannot be decoded"
    if bad and not skip_bad:
        raise DataError(
            f"{told}:\n{listing}\nMend or remove them, or leave them out with --skip-bad."
        )
    if bad:
        reporter.warn(f"{told} and are left out:\n{listing}")
    left_out = {photo for photo, _ in bad}
    kept = tuple(photo for photo in dataset.photos if photo not in left_out)
    excluded = tuple((photo.file, reason) for photo, reason in bad)
    return replace(dataset, photos=kept, excluded=excluded), np.stack(rows)


def _check_free(out: Path, digests: dict[str, str]) -> None:
    """Only an older evaluation of the same model on the same photos may be replaced."""
    metrics = out / "metrics.json"
    if not metrics.exists():
        return
    try:
        found = json.loads(metrics.read_text(encoding="utf-8")).get("digests", {})
    except (ValueError, AttributeError, RecursionError) as error:
        raise UsageError(
            f"{metrics} cannot be read ({error}). Choose another --out, or delete the folder."
        ) from error
    other = [name for name in digests if found.get(name) != digests[name]]
    if other:
        raise UsageError(
            f"{out} holds results for other {' and another '.join(other)}. Choose another --out, "
            "or delete the folder."
        )


def _measures(dataset: "Dataset", probabilities: "np.ndarray") -> dict[str, Any]:
    import numpy as np

    from finetune.evaluation.metrics import confusion, measure, per_photo

    labels = np.array([photo.label for photo in dataset.photos])
    groups = np.array([photo.group or photo.sha256 for photo in dataset.photos])
    photos = per_photo(probabilities, labels)
    worst = np.argsort(-photos["loss"].to_numpy(), kind="stable")[:_LISTED]
    top_losses = [
        {
            "file": dataset.photos[i].file,
            "class": dataset.classes[labels[i]],
            "predicted": dataset.classes[photos["predicted"][i]],
            "probability": float(probabilities[i, labels[i]]),
            "confidence": float(photos["confidence"][i]),
            "loss": float(photos["loss"][i]),
        }
        for i in worst
    ]
    return {
        **measure(probabilities, labels, dataset.classes, groups),
        "confusion": confusion(probabilities, labels).tolist(),
        "top_losses": top_losses,
    }


def _write(
    out: Path, dataset: "Dataset", probabilities: "np.ndarray", result: dict[str, Any]
) -> None:
    """Write the folder; ``metrics.json`` goes first and comes last: it belongs to what is there."""
    import numpy as np
    import pandas as pd

    from finetune.evaluation import plots
    from finetune.evaluation.overlays import contact_sheet

    (out / "metrics.json").unlink(missing_ok=True)
    table = pd.DataFrame(probabilities, columns=list(dataset.classes))
    names = [dataset.classes[photo.label] for photo in dataset.photos]
    table.insert(0, "class", names, allow_duplicates=True)
    table.insert(0, "file", [photo.file for photo in dataset.photos], allow_duplicates=True)
    commit_csv(out / "predictions.csv", table)
    worst = pd.DataFrame(result["top_losses"]).drop(columns="confidence")
    commit_csv(out / "top_losses.csv", worst)
    matrix = np.array(result["confusion"])
    counted = f"{result['split']} photos".removeprefix("all ")
    commit(
        out / "confusion.png", lambda file: plots.confusion(matrix, dataset.classes, file, counted)
    )
    tiles = _tiles(dataset, result["top_losses"][:_SHOWN])
    sheet = contact_sheet(tiles, title="true → predicted, highest loss first")
    commit(out / "top_losses.png", lambda file: sheet.save(file, "PNG"))
    commit_json(out / "metrics.json", result)


def _tiles(dataset: "Dataset", top_losses: Sequence[dict[str, Any]]) -> list[list["Tile"]]:
    """The photos themselves, each with its true and its predicted class, four in a row."""
    from finetune.evaluation.overlays import TILE, Tile, open_photo, percent

    files = {photo.file: photo.path for photo in dataset.photos}
    tiles = []
    for photo in top_losses:
        picture = open_photo(files[photo["file"]].read_bytes(), TILE)
        verdict = f"{photo['class']} → {photo['predicted']} {percent(photo['confidence'])}"
        tiles.append(Tile(picture, [verdict, Path(photo["file"]).name]))
    return [tiles[start : start + _PER_ROW] for start in range(0, len(tiles), _PER_ROW)]
