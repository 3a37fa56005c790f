"""What makes a measured accuracy worth less than it looks, in sentences for a newcomer."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from finetune.progress import count

_WIDE = 0.10  # of an interval, 0-1
_NAMED = 10  # classes


def caveats(measured: Mapping[str, Any]) -> list[str]:
    """Sentences on classes of which nothing was recognised, and on a wide interval.

    Args:
        measured: from ``metrics.measure``, of test photos.
    """
    found = []
    missed = unrecognised(measured)
    if missed:
        more = f" and {len(missed) - _NAMED} more" if len(missed) > _NAMED else ""
        subject = "this class" if len(missed) == 1 else "these classes"
        names = ", ".join(map(repr, missed[:_NAMED]))
        found.append(
            f"No test photo of {subject} was recognised (recall 0): {names}{more}. "
            "Accuracy hides it: "
            f"always naming the most frequent class has {100 * measured['majority_baseline']:.1f} "
            f"%; balanced accuracy is {100 * measured['balanced_accuracy']:.1f} %."
        )
    low, high = measured["accuracy_interval"]
    if high - low > _WIDE:
        found.append(
            "The 95 % interval of the test accuracy is wider than 10 points: "
            f"{count(measured['n'], 'test photo')} cannot tell more."
        )
    return found


def unrecognised(measured: Mapping[str, Any]) -> list[str]:
    """Names of the classes with recall 0."""
    return [measured["per_class"][index]["class"] for index in measured["zero_recall"]]


def unseen(
    files: Sequence[str], probabilities: np.ndarray, labels: np.ndarray, known: Sequence[str]
) -> dict[str, Any]:
    """Accuracy without the photos that are known from another split.

    Args:
        files: (n,) names; probabilities (n, classes); labels int (n,).
        known: the files to leave out.

    Returns:
        n (photos that are left) and accuracy (fraction; None where none is left).
    """
    new = ~np.isin(files, list(known))
    hits = probabilities[new].argmax(axis=1) == labels[new]
    return {"n": int(new.sum()), "accuracy": float(hits.mean()) if len(hits) else None}
