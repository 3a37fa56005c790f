"""How good one run is: accuracy, log loss, calibration and the tables per class.

Everywhere ``probabilities`` is a float array of shape (n, classes) whose rows sum to 1, and
``labels`` an int array of shape (n,) with values from 0 to classes - 1. Both are checked;
ValueError says what does not fit.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax
from sklearn.metrics import (
    confusion_matrix,
    f1_score,
    precision_recall_fscore_support,
    recall_score,
    roc_auc_score,
)

from finetune.evaluation.intervals import interval

# Keras's epsilon: a photo that is wrong with certainty costs 16.1 nats and not infinitely many.
CLIP = 1e-7
BINS = 15
TEMPERATURES = (0.05, 20.0)
_FOLDS = 5  # of the validation photos, to see whether a temperature helps
_NULL_DRAWS = 500


def summarize(
    probabilities: np.ndarray, labels: np.ndarray, groups: np.ndarray | None = None
) -> dict[str, Any]:
    """One run's measures as plain Python values, ready for JSON.

    Args:
        groups: (n,) what each photo shows, see ``interval``.

    Returns:
        n (photos); accuracy and accuracy_interval (95 %, ``interval``), majority_baseline (accuracy
        of always naming the most frequent class), balanced_accuracy (mean recall over the classes
        that occur), macro_f1 and auc as fractions 0-1; zero_recall (indexes of classes with photos
        of which none was recognised); loss (mean negative log likelihood, nats); ece (fraction) and
        ece_null (what the ECE of a perfectly calibrated model stays under 95 times in 100). auc is
        that of class 1 for two classes, the macro average of one-versus-rest for more, and None
        where it is undefined because a class has no photo.
    """
    probabilities, labels = _checked(probabilities, labels)
    photos = per_photo(probabilities, labels)
    predicted = photos["predicted"]
    n = len(labels)
    present, counts = np.unique(labels, return_counts=True)
    recalls = recall_score(labels, predicted, labels=present, average=None, zero_division=0)
    return {
        "n": n,
        "accuracy": float(photos["correct"].mean()),
        "accuracy_interval": list(interval(photos["correct"].to_numpy(), groups)),
        "majority_baseline": float(counts.max() / n),
        "loss": float(photos["loss"].mean()),
        "balanced_accuracy": float(recalls.mean()),
        "zero_recall": present[recalls == 0].tolist(),
        "macro_f1": float(f1_score(labels, predicted, average="macro", zero_division=0)),
        "ece": expected_calibration_error(probabilities, labels),
        "ece_null": ece_null(photos["confidence"].to_numpy()),
        "auc": _auc(probabilities, labels) if len(present) == probabilities.shape[1] else None,
    }


def measure(
    probabilities: np.ndarray,
    labels: np.ndarray,
    classes: Sequence[str],
    groups: np.ndarray | None = None,
) -> dict[str, Any]:
    """``summarize``, with per_class and top_confusions as lists of dicts, for metrics.json."""
    table = per_class(probabilities, labels, classes)
    return {
        **summarize(probabilities, labels, groups),
        "per_class": table.to_dict("records"),
        "top_confusions": top_confusions(confusion(probabilities, labels), classes),
    }


def per_photo(probabilities: np.ndarray, labels: np.ndarray) -> pd.DataFrame:
    """One row per photo: predicted (int), confidence (fraction), correct (bool), loss (nats)."""
    probabilities, labels = _checked(probabilities, labels)
    predicted = probabilities.argmax(axis=1)
    of_label = probabilities[np.arange(len(labels)), labels]
    return pd.DataFrame(
        {
            "predicted": predicted,
            "confidence": probabilities.max(axis=1),
            "correct": predicted == labels,
            "loss": -np.log(np.clip(of_label, CLIP, 1.0)),
        }
    )


def reliability_curve(
    probabilities: np.ndarray, labels: np.ndarray, bins: int = BINS
) -> pd.DataFrame:
    """Confidence against accuracy: Guo et al. 2017, "On Calibration of Modern Neural Networks".

    Args:
        bins: number of equal-width bins over the confidence 0-1, each open below and closed above.

    Returns:
        One row per bin that holds photos, in rising order: confidence and accuracy (means,
        fractions), n (photos).
    """
    photos = per_photo(probabilities, labels)
    bin_of_photo = pd.cut(photos["confidence"], np.linspace(0.0, 1.0, bins + 1))
    return (
        photos.groupby(bin_of_photo, observed=True)
        .agg(confidence=("confidence", "mean"), accuracy=("correct", "mean"), n=("correct", "size"))
        .reset_index(drop=True)
    )


def expected_calibration_error(
    probabilities: np.ndarray, labels: np.ndarray, bins: int = BINS
) -> float:
    """Mean distance of confidence and accuracy over the bins, by photos (Guo et al. 2017, eq. 3).

    Noise makes it positive for every model: compare it with ``ece_null``.
    """
    curve = reliability_curve(probabilities, labels, bins)
    return float(np.average((curve["confidence"] - curve["accuracy"]).abs(), weights=curve["n"]))


def ece_null(confidence: np.ndarray, bins: int = BINS) -> float:
    """The 95 % point of the calibration error that a perfectly calibrated model shows by chance.

    Simulated with a fixed seed: each photo is right with the probability that the model states.

    Args:
        confidence: (n,) probability of the predicted class, 0-1.
    """
    rng = np.random.default_rng(0)
    edges = np.linspace(0.0, 1.0, bins + 1)
    bin_of_photo = np.digitize(confidence, edges[1:-1], right=True)
    errors = [
        np.abs(np.bincount(bin_of_photo, confidence - (rng.random(len(confidence)) < confidence)))
        for _ in range(_NULL_DRAWS)
    ]
    return float(np.quantile([error.sum() for error in errors], 0.95) / len(confidence))


def fit_temperature(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """The temperature of the lowest log loss (Guo et al. 2017, 4.2) where it helps; elsewhere 1.

    Whether it helps is seen by cross-validation on the same photos: fitted on four fifths, it must
    lower the log loss of the others. If every photo is right, the loss has no minimum above T = 0,
    and 1 is returned.

    Args:
        probabilities, labels: of the validation split, never of the test split.

    Returns:
        0.05 to 20.
    """
    probabilities, labels = _checked(probabilities, labels)
    if (probabilities.argmax(axis=1) == labels).all():
        return 1.0
    fold = np.random.default_rng(0).permutation(len(labels)) % _FOLDS
    held_out = 0.0
    for number in np.unique(fold):
        inside = fold == number
        temperature = _best_temperature(probabilities[~inside], labels[~inside])
        held_out += inside.sum() * _scaled_loss(probabilities[inside], labels[inside], temperature)
    if held_out / len(labels) >= _scaled_loss(probabilities, labels, 1.0):
        return 1.0
    return _best_temperature(probabilities, labels)


def apply_temperature(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """softmax(log p / T), float64: T above 1 softens, below 1 sharpens; the ranking stays.

    Raises:
        ValueError: the temperature is not positive.
    """
    if not temperature > 0:
        raise ValueError(
            f"temperature is {temperature}; allowed: above 0; take it from fit_temperature"
        )
    return softmax(np.log(np.clip(probabilities, CLIP, 1.0)) / temperature, axis=1)


def per_class(
    probabilities: np.ndarray, labels: np.ndarray, classes: Sequence[str]
) -> pd.DataFrame:
    """One row per class: its name, precision, recall and f1 (0 where undefined), n (photos)."""
    probabilities, labels = _checked(probabilities, labels)
    if len(classes) != probabilities.shape[1]:
        raise ValueError(
            f"{len(classes)} class names for {probabilities.shape[1]} columns of probabilities; "
            "allowed: one name per column, in its order; pass the list from classes.json"
        )
    predicted = probabilities.argmax(axis=1)
    table = precision_recall_fscore_support(
        labels, predicted, labels=range(len(classes)), zero_division=0
    )
    return pd.DataFrame(
        {
            "class": list(classes),
            **dict(zip(("precision", "recall", "f1", "n"), table, strict=True)),
        }
    )


def confusion(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Photos by true class (rows) and predicted class (columns): int (classes, classes)."""
    probabilities, labels = _checked(probabilities, labels)
    return confusion_matrix(
        labels, probabilities.argmax(axis=1), labels=range(probabilities.shape[1])
    )


def top_confusions(
    matrix: np.ndarray, classes: Sequence[str], limit: int = 10
) -> list[dict[str, Any]]:
    """The most frequent mistakes: dicts with true and predicted (class names) and photos.

    Args:
        matrix: from :func:`confusion`.
    """
    wrong = matrix - np.diag(np.diag(matrix))
    order = np.argsort(-wrong, axis=None, kind="stable")[:limit]
    pairs = [divmod(int(place), len(wrong)) for place in order]
    return [
        {"true": classes[row], "predicted": classes[column], "photos": int(wrong[row, column])}
        for row, column in pairs
        if wrong[row, column]
    ]


def _best_temperature(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """The loss is convex in 1/T, hence it has one minimum."""
    if not len(labels):
        return 1.0
    found = minimize_scalar(
        lambda log_t: _scaled_loss(probabilities, labels, np.exp(log_t)),
        bounds=np.log(TEMPERATURES),
        method="bounded",
    )
    return float(np.exp(found.x))


def _scaled_loss(probabilities: np.ndarray, labels: np.ndarray, temperature: float) -> float:
    """Mean log loss (nats) after temperature scaling."""
    logs = log_softmax(np.log(np.clip(probabilities, CLIP, 1.0)) / temperature, axis=1)
    return float(-logs[np.arange(len(labels)), labels].mean())


def _auc(probabilities: np.ndarray, labels: np.ndarray) -> float:
    scores = probabilities[:, 1] if probabilities.shape[1] == 2 else probabilities
    return float(roc_auc_score(labels, scores, multi_class="ovr", average="macro"))


def _checked(probabilities: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """float64 rows with sum 1 (files hold rounded digits), and the labels."""
    probabilities, labels = np.asarray(probabilities, dtype=np.float64), np.asarray(labels)
    shape = probabilities.shape
    if len(shape) != 2 or shape[0] == 0 or shape[1] < 2 or labels.shape != shape[:1]:
        raise ValueError(
            f"probabilities have shape {shape} and labels {labels.shape}; allowed: (n, classes) "
            "and (n,) with at least one photo and two classes; pass both for the same photos"
        )
    if labels.dtype.kind not in "iu" or labels.min() < 0 or labels.max() >= shape[1]:
        raise ValueError(
            f"labels are {labels.dtype} from {labels.min()} to {labels.max()}; allowed: integers "
            f"from 0 to {shape[1] - 1}; pass class indexes"
        )
    totals = probabilities.sum(axis=1, keepdims=True)
    # Written so that NaN fails too.
    if not (np.all(probabilities >= 0) and np.all(np.abs(totals - 1) < 1e-3)):
        raise ValueError(
            f"probabilities run from {probabilities.min():g} to {probabilities.max():g} and rows "
            f"sum to {totals.min():g} to {totals.max():g}; allowed: 0 to 1 with sum 1; pass the "
            "softmax's output, not logits"
        )
    return probabilities / totals, labels
