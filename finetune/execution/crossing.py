"""Cross-validation of a recipe over stored rows: heads and tails are trained, no trunk."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from finetune.data.dataset import Dataset
from finetune.data.folds import cross_folds
from finetune.data.overlap import look_alikes
from finetune.data.photos import Photo
from finetune.evaluation.folds import resampled_t
from finetune.evaluation.intervals import interval
from finetune.evaluation.metrics import per_photo
from finetune.progress import Reporter, count
from finetune.recipe.recipe import Recipe

Learn = Callable[[Dataset], tuple[np.ndarray, np.ndarray]]


def check_folds(
    recipe: Recipe, dataset: Dataset, alike: Sequence[tuple[Photo, Photo]] = ()
) -> None:
    """Refuse folds that a class is too small for, before anything is trained; DataError."""
    if recipe.folds:
        next(cross_folds(dataset, alike, recipe.folds))


def cross_validate(
    recipe: Recipe, dataset: Dataset, learn: Learn, reporter: Reporter
) -> tuple[dict[str, Any], pd.DataFrame]:
    """Predict every photo out of fold, once per repeat.

    Args:
        recipe: with ``folds``.
        dataset: the photos; their splits are not used.
        learn: trains on a data set; returns probabilities and labels of its test split.
        reporter: of progress.

    Returns:
        folds, repeats, n (photos), accuracy (mean over folds) with accuracy_interval (95 %, the
        wider of what the photos and what the differences between folds allow), loss (nats, mean
        over photos) and per_fold, the accuracies in order; and a row per photo and repeat: file,
        class, repeat, fold, predicted, confidence, correct, loss.

    Raises:
        DataError: a class has too few photos.
    """
    folds = recipe.folds
    parts = []
    total = folds * recipe.repeats
    alike = look_alikes(dataset, reporter)
    if alike is None:
        reporter.warn(
            f"{count(len(dataset.photos), 'photo')} are too many to compare all: look-alikes may "
            "lie in different folds, unless groups keeps them together."
        )
    dealt = cross_folds(dataset, alike or [], folds, recipe.repeats)
    with reporter.stage("folds", total, "fold") as advance:
        for number, fold in enumerate(dealt):
            table = per_photo(*learn(fold))
            table["predicted"] = [dataset.classes[label] for label in table["predicted"]]
            tested = fold.split("test")
            place = pd.DataFrame({"file": [photo.file for photo in tested]})
            place["class"] = [dataset.classes[photo.label] for photo in tested]
            place["repeat"] = number // folds
            place["fold"] = number % folds
            parts.append(pd.concat([place, table], axis=1))
            advance(1)
    accuracies = np.array([part["correct"].mean() for part in parts])
    rows = pd.concat(parts, ignore_index=True)
    accuracy = float(accuracies.mean())
    between = resampled_t(accuracies, folds)
    hits = rows.groupby("file")["correct"].mean()
    groups = {photo.file: photo.group or photo.sha256 for photo in dataset.photos}
    low, high = interval(hits.to_numpy(), np.array([groups[file] for file in hits.index]))
    summary = {
        "folds": folds,
        "repeats": recipe.repeats,
        "n": len(dataset.photos),
        "accuracy": accuracy,
        "accuracy_interval": [
            min(low, max(0.0, between["low"])),
            max(high, min(1.0, between["high"])),
        ],
        "loss": float(rows["loss"].mean()),
        "per_fold": accuracies.tolist(),
    }
    return summary, rows
