"""How good one run is: accuracy, log loss, calibration and the tables per class.

Everywhere ``probabilities`` is a float array of shape (n, classes) whose rows sum to 1, and ``labels`` an int array of
shape (n,) with values from 0 to classes - 1. Both are checked; ValueError says what does not fit.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.optimize import minimize_scalar
from scipy.special import softmax
from sklearn.metrics import (
    confusion_matrix,
    f1_score,
    precision_recall_fscore_support,
    recall_score,
    roc_auc_score,
)
from statsmodels.stats.proportion import proportion_confint

# Keras's epsilon: one photo that is wrong with certainty costs 16.1 nats instead of infinitely many.
CLIP = 1e-7
BINS = 15
TEMPERATURES = (0.05, 20.0)


def summarize(
    probabilities: np.ndarray, labels: np.ndarray
) -> dict[str, float | int | list[float] | None]:
    """One run's measures as plain Python values, ready for JSON.

    Returns:
        n (photos); accuracy and accuracy_interval (95 %, Wilson), balanced_accuracy (mean recall over the classes that
        occur), macro_f1 and auc as fractions 0-1; loss (mean negative log likelihood, nats); ece (fraction). auc is
        that of class 1 for two classes, the macro average of one-versus-rest for more, and None where it is undefined
        because a class has no photo.
    """
    probabilities, labels = _checked(probabilities, labels)
    photos = per_photo(probabilities, labels)
    hits, n, present = int(photos["correct"].sum()), len(labels), np.unique(labels)
    return {
        "n": n,
        "accuracy": hits / n,
        "accuracy_interval": [
            float(bound) for bound in proportion_confint(hits, n, alpha=0.05, method="wilson")
        ],
        "loss": float(photos["loss"].mean()),
        "balanced_accuracy": float(
            recall_score(
                labels, photos["predicted"], labels=present, average="macro", zero_division=0
            )
        ),
        "macro_f1": float(f1_score(labels, photos["predicted"], average="macro", zero_division=0)),
        "ece": expected_calibration_error(probabilities, labels),
        "auc": _auc(probabilities, labels) if len(present) == probabilities.shape[1] else None,
    }


def per_photo(probabilities: np.ndarray, labels: np.ndarray) -> pd.DataFrame:
    """One row per photo: predicted (int), confidence (its probability), correct (bool), loss (nats).

    The columns ``correct`` and ``loss`` are what :func:`finetune.evaluation.significance.compare_pairs` takes.
    """
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
    """Confidence against accuracy, the diagram of Guo et al. 2017, "On Calibration of Modern Neural Networks".

    Args:
        bins: number of equal-width bins over the confidence 0-1, each open below and closed above.

    Returns:
        One row per bin that holds photos, in rising order: confidence and accuracy (means, fractions), n (photos).
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
    """Mean distance of confidence and accuracy over the bins, weighted by photos: 0-1 (Guo et al. 2017, eq. 3).

    It is biased upwards by noise: a perfectly calibrated model scores around 0.02 on 1,000 photos.
    """
    curve = reliability_curve(probabilities, labels, bins)
    return float(np.average((curve["confidence"] - curve["accuracy"]).abs(), weights=curve["n"]))


def fit_temperature(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """The temperature that minimises the log loss (Guo et al. 2017, section 4.2). Fit it on validation, never on test.

    The loss is convex in 1/T, hence it has one minimum. It is sought between 0.05 and 20; when every photo is right,
    the loss falls all the way to T = 0 and the lower bound is returned.
    """
    probabilities, labels = _checked(probabilities, labels)

    def loss(log_temperature: float) -> float:
        return per_photo(apply_temperature(probabilities, np.exp(log_temperature)), labels)[
            "loss"
        ].mean()

    return float(np.exp(minimize_scalar(loss, bounds=np.log(TEMPERATURES), method="bounded").x))


def apply_temperature(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """softmax(log p / T), float64 of the same shape: T above 1 softens, below 1 sharpens; the ranking stays.

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
    """One row per class: class (its name), precision, recall and f1 (fractions, 0 where undefined), n (photos)."""
    probabilities, labels = _checked(probabilities, labels)
    if len(classes) != probabilities.shape[1]:
        raise ValueError(
            f"{len(classes)} class names for {probabilities.shape[1]} columns of probabilities; allowed: one name per "
            "column, in its order; pass the list from classes.json"
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


def _auc(probabilities: np.ndarray, labels: np.ndarray) -> float:
    scores = probabilities[:, 1] if probabilities.shape[1] == 2 else probabilities
    return float(roc_auc_score(labels, scores, multi_class="ovr", average="macro"))


def _checked(probabilities: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """float64 rows that sum to 1 exactly enough for scikit-learn (files hold rounded digits), and the labels."""
    probabilities, labels = np.asarray(probabilities, dtype=np.float64), np.asarray(labels)
    shape = probabilities.shape
    if len(shape) != 2 or shape[0] == 0 or shape[1] < 2 or labels.shape != shape[:1]:
        raise ValueError(
            f"probabilities have shape {shape} and labels {labels.shape}; allowed: (n, classes) and (n,) with at "
            "least one photo and two classes; pass both for the same photos"
        )
    if labels.dtype.kind not in "iu" or labels.min() < 0 or labels.max() >= shape[1]:
        raise ValueError(
            f"labels are {labels.dtype} from {labels.min()} to {labels.max()}; allowed: integers from 0 to "
            f"{shape[1] - 1}; pass class indexes"
        )
    totals = probabilities.sum(axis=1, keepdims=True)
    # Written so that NaN fails too.
    if not (np.all(probabilities >= 0) and np.all(np.abs(totals - 1) < 1e-3)):
        raise ValueError(
            f"probabilities run from {probabilities.min():g} to {probabilities.max():g} and rows sum to "
            f"{totals.min():g} to {totals.max():g}; allowed: 0 to 1 with sum 1; pass the softmax's output, not logits"
        )
    return probabilities / totals, labels
