"""`finetune evaluate`: how good a classifier is on photos of its classes that lie in another folder. Needs TensorFlow."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from finetune.commands.predict import as_text, score
from finetune.data import catalog
from finetune.data.dataset import Dataset, find_bad, read_labelled
from finetune.errors import DataError, UsageError
from finetune.evaluation import plots
from finetune.evaluation.metrics import confusion, measure, per_photo
from finetune.evaluation.overlays import TILE, Tile, contact_sheet, open_photo, percent
from finetune.files import commit, commit_json, locked
from finetune.progress import Reporter
from finetune.runs.classifier import Classifier

_LISTED, _SHOWN, _PER_ROW = (
    25,
    12,
    4,
)  # photos of the highest loss: in the table, on the contact sheet, in its rows
_USED = {
    "train": "These are the photos that the model was trained on",
    "validation": "These photos chose the model's settings and its best epoch",
    "all": "Among these are the photos that the model was trained on",
}


def evaluate(
    classifier: Classifier,
    data: str,
    reporter: Reporter,
    split: str | None = None,
    out: Path | None = None,
    skip_bad: bool = False,
) -> dict[str, Any]:
    """Measure a classifier on labelled photos, whose classes are matched by name.

    Args:
        classifier: from ``Classifier.open``.
        data: a named data set, or a folder as ``read_labelled`` takes it.
        reporter: told of progress, of classes without photos, and of photos that the model knows from its training.
        split: train, validation, test (if missing) or all; of a folder without splits all photos are used.
        out: the folder for ``metrics.json``, ``predictions.csv``, ``confusion.png`` and ``top_losses.csv`` and ``.png``;
            ``evaluations/RUN-DATA`` if missing, with ``-SPLIT`` for any split but test.
        skip_bad: leave out photos that cannot be decoded.

    Returns:
        What ``evaluate --json`` prints.

    Raises:
        DataError: there are no photos, bad ones, or photos of unknown classes. UsageError: ``out`` holds an evaluation of
        other photos or of another model, or the folder has no splits.
    """
    dataset = read_labelled(
        _root(data), classifier.classes, split, data if data in catalog.NAMES else None
    )
    used = split or "test" if dataset.photos[0].split else "all"
    _remark(classifier, data, used, dataset, reporter)
    dataset = _without_bad(dataset, classifier, skip_bad, reporter)
    suffix = f"-{split}" if split not in (None, "test") else ""
    run = classifier.path.resolve().name.removesuffix(".keras")
    out = out or Path("evaluations", f"{run}-{dataset.name}{suffix}")
    digests = {"photos": dataset.digest, "model": _digest(classifier.path)}
    _check_free(out, digests)
    with locked(out):
        probabilities = _probabilities(classifier, dataset, reporter)
        head = {"run": str(classifier.path), "data": data, "split": used, "out": str(out)}
        result = {
            **head,
            **_measures(dataset, probabilities),
            "bad": len(dataset.excluded),
            "digests": digests,
        }
        _write(out, dataset, probabilities, result)
    return result


def _root(data: str) -> Path:
    if data in catalog.NAMES:
        return catalog.locate(data)
    folder = Path(data).expanduser()
    return (
        folder if folder.exists() else catalog.resolve(data).root
    )  # which raises, and knows the names that there are


def _remark(
    classifier: Classifier, data: str, used: str, dataset: Dataset, reporter: Reporter
) -> None:
    """Say what makes the figures less than they look."""
    recipe = classifier.recipe
    if recipe and used in _USED and _place(recipe.data) == _place(data):
        reporter.warn(f"{_USED[used]}; the figures do not tell how it does on new photos.")
    found = {photo.label for photo in dataset.photos}
    absent = [name for index, name in enumerate(classifier.classes) if index not in found]
    if absent:
        reporter.warn(
            f"No photos of {len(absent)} of the model's {len(classifier.classes)} classes: {', '.join(absent)}."
        )


def _place(data: str) -> str | Path:
    return data if data in catalog.NAMES else Path(data).expanduser().resolve()


def _without_bad(
    dataset: Dataset, classifier: Classifier, skip_bad: bool, reporter: Reporter
) -> Dataset:
    """The photos that can be decoded; the others are an error, or are left out and said."""
    with reporter.stage("photos checked", len(dataset.photos)) as advance:
        size, resize = classifier.image_size, classifier.resize
        bad = find_bad(dataset.photos, size, resize, progress=lambda *_: advance(1))
    listing = "\n".join(f"  {photo.path}: {reason}" for photo, reason in bad)
    if bad and not skip_bad:
        raise DataError(
            f"{len(bad)} of {len(dataset.photos):,} photos cannot be decoded:\n{listing}\n"
            "Mend or remove them, or leave them out with --skip-bad."
        )
    if len(bad) == len(dataset.photos):
        raise DataError(f"None of the {len(bad)} photos can be decoded:\n{listing}")
    if bad:
        reporter.warn(
            f"{len(bad)} of {len(dataset.photos):,} photos cannot be decoded and are left out:\n{listing}"
        )
    left_out = {photo for photo, _ in bad}
    photos = tuple(photo for photo in dataset.photos if photo not in left_out)
    return replace(
        dataset, photos=photos, excluded=tuple((photo.file, reason) for photo, reason in bad)
    )


def _digest(path: Path) -> str:
    """Hex sha256 of the model file."""
    with (path / "model.keras" if path.is_dir() else path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check_free(out: Path, digests: dict[str, str]) -> None:
    """Nothing is in the way but an older evaluation of the same model on the same photos, which may be replaced."""
    metrics = out / "metrics.json"
    found = json.loads(metrics.read_text()).get("digests", {}) if metrics.exists() else digests
    other = [name for name in digests if found.get(name) != digests[name]]
    if other:
        raise UsageError(
            f"{out} holds results for other {' and another '.join(other)}. Choose another --out, or delete the folder."
        )


def _probabilities(classifier: Classifier, dataset: Dataset, reporter: Reporter) -> np.ndarray:
    """Probabilities of all photos, in their order: float32 (n, classes)."""
    rows = []
    with reporter.stage("photos classified", len(dataset.photos)) as advance:
        for path, found in score(classifier, (photo.path for photo in dataset.photos)):
            if isinstance(found, str):
                raise DataError(
                    f"{path} could be decoded before and now cannot: {found}. Is the folder still changing?"
                )
            rows.append(found)
            advance(1)
    return np.stack(rows)


def _measures(dataset: Dataset, probabilities: np.ndarray) -> dict[str, Any]:
    labels = np.array([photo.label for photo in dataset.photos])
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
        **measure(probabilities, labels, dataset.classes),
        "confusion": confusion(probabilities, labels).tolist(),
        "top_losses": top_losses,
    }


def _write(out: Path, dataset: Dataset, probabilities: np.ndarray, result: dict[str, Any]) -> None:
    """Write the folder; ``metrics.json`` goes away first and comes back last, so that it always belongs to the rest."""
    (out / "metrics.json").unlink(missing_ok=True)
    classes = [as_text(name) for name in dataset.classes]
    table = pd.DataFrame(probabilities, columns=classes)
    table.insert(
        0, "class", [classes[photo.label] for photo in dataset.photos], allow_duplicates=True
    )
    table.insert(
        0, "file", [as_text(photo.file) for photo in dataset.photos], allow_duplicates=True
    )
    worst = pd.DataFrame(result["top_losses"]).drop(columns="confidence")
    for name in ("file", "class", "predicted"):
        worst[name] = worst[name].map(as_text)
    commit(out / "predictions.csv", lambda file: table.to_csv(file, index=False))
    commit(out / "top_losses.csv", lambda file: worst.to_csv(file, index=False))
    matrix, counted = (
        np.array(result["confusion"]),
        f"{result['split']} photos".removeprefix("all "),
    )
    commit(
        out / "confusion.png", lambda file: plots.confusion(matrix, dataset.classes, file, counted)
    )
    sheet = contact_sheet(
        _tiles(dataset, result["top_losses"][:_SHOWN]), title="true → predicted, highest loss first"
    )
    commit(out / "top_losses.png", lambda file: sheet.save(file, "PNG"))
    commit_json(out / "metrics.json", result)


def _tiles(dataset: Dataset, top_losses: Sequence[dict[str, Any]]) -> list[list[Tile]]:
    """The photos themselves, each with its true and its predicted class, four in a row."""
    tiles = []
    for photo in top_losses:
        picture = open_photo((dataset.root / photo["file"]).read_bytes(), TILE)
        verdict = f"{photo['class']} → {photo['predicted']} {percent(photo['confidence'])}"
        tiles.append(Tile(picture, [verdict, Path(photo["file"]).name]))
    return [tiles[start : start + _PER_ROW] for start in range(0, len(tiles), _PER_ROW)]
