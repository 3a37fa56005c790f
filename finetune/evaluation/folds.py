"""Cross-validated figures and what they can tell apart.

The folds of a cross-validation share most of their training photos, so that their results are not
independent and an ordinary t-test claims too much. Its variance is corrected by the share of test
photos: Nadeau and Bengio 2003, "Inference for the generalization error", Machine Learning 52,
239-281; for repeated folds Bouckaert and Frank 2004, PAKDD, 3-12.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy import stats


def resampled_t(values: np.ndarray, folds: int) -> dict[str, float]:
    """The corrected resampled t-test that a mean over folds is 0.

    Args:
        values: float (repeats * folds,), one per fold; 2 or more.
        folds: of each repeat: one tests and one chooses, so that the test photos are
            1 / (folds - 2) of those that train.

    Returns:
        mean, low and high (95 % interval of the mean) and p (two-sided), which is 1 where all folds
        are equal: few photos then hide a variance that cannot be estimated.
    """
    n = len(values)
    mean = float(np.mean(values))
    error = float(np.sqrt((1 / n + 1 / (folds - 2)) * np.var(values, ddof=1)))
    reach = float(stats.t.ppf(0.975, n - 1)) * error
    p = float(2 * stats.t.sf(abs(mean) / error, n - 1)) if error else 1.0
    return {"mean": mean, "low": mean - reach, "high": mean + reach, "p": p}


def compare_folds(accuracies: Mapping[str, np.ndarray], folds: int) -> dict[str, dict[str, Any]]:
    """Each recipe against the most accurate one, on the same folds.

    Args:
        accuracies: recipe -> float (repeats * folds,), fractions, the same folds in the same order.
        folds: of each repeat.

    Returns:
        recipe -> accuracy (mean over folds), best (name of the most accurate), difference to it,
        difference_interval (95 %) and p, which is multiplied by the number of all pairs
        (Bonferroni), for the best was chosen on these figures.
    """
    best = max(accuracies, key=lambda name: float(np.mean(accuracies[name])))
    pairs = max(1, len(accuracies) * (len(accuracies) - 1) // 2)
    found = {}
    for name, values in accuracies.items():
        against = resampled_t(values - accuracies[best], folds)
        found[name] = {
            "accuracy": float(np.mean(values)),
            "best": best,
            "difference": against["mean"],
            "difference_interval": [against["low"], against["high"]],
            "p": min(1.0, pairs * against["p"]),
        }
    return found
