"""Cross-validated figures and what they can tell apart.

The folds of a cross-validation share most of their training photos, so that their results are not
independent and an ordinary t-test claims too much. Its variance is corrected by the share of test
photos: Nadeau and Bengio 2003, "Inference for the generalization error", Machine Learning 52,
239-281; for repeated folds Bouckaert and Frank 2004, PAKDD, 3-12.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

_EQUAL = 1e-9  # accuracies that are equal differ in their last bits


def resampled_t(values: np.ndarray, folds: int, tests: int = 1) -> dict[str, float]:
    """The corrected resampled t-test that a mean over folds is 0.

    Args:
        values: float (repeats * folds,), one per fold; 2 or more.
        folds: of each repeat: one tests and one chooses, so that the test photos are
            1 / (folds - 2) of those that train.
        tests: how many are made at once; interval and p allow for as many (Bonferroni).

    Returns:
        mean, low and high (95 % interval of the mean) and p (two-sided). Where all folds are equal,
        few photos hide a variance that cannot be estimated: p is then 1, the interval a point.
    """
    n = len(values)
    mean = float(np.mean(values))
    if np.ptp(values) < _EQUAL:
        return {"mean": mean, "low": mean, "high": mean, "p": 1.0}
    error = float(np.sqrt((1 / n + 1 / (folds - 2)) * np.var(values, ddof=1)))
    reach = float(stats.t.isf(0.025 / tests, n - 1)) * error
    p = float(2 * tests * stats.t.sf(abs(mean) / error, n - 1))
    return {"mean": mean, "low": mean - reach, "high": mean + reach, "p": min(1.0, p)}


def compare_folds(accuracies: Mapping[str, np.ndarray], folds: int) -> dict[str, dict[str, Any]]:
    """Each recipe against the most accurate one, on the same folds.

    Args:
        accuracies: recipe -> float (repeats * folds,), fractions, the same folds in the same order.
        folds: of each repeat.

    Returns:
        recipe -> accuracy (mean over folds), best (name of the most accurate), difference to it,
        difference_interval (95 %) and p; both allow for all pairs (Bonferroni), for the best was
        chosen on these figures. Where all folds differ alike nothing is known: -1 to 1, and p is 1.
    """
    best = max(accuracies, key=lambda name: float(np.mean(accuracies[name])))
    pairs = max(1, len(accuracies) * (len(accuracies) - 1) // 2)
    found = {}
    for name, values in accuracies.items():
        against = resampled_t(values - accuracies[best], folds, pairs)
        reach = [against["low"], against["high"]]
        if name != best and reach[0] == reach[1]:  # no variance is no certainty
            reach = [-1.0, 1.0]
        found[name] = {
            "accuracy": float(np.mean(values)),
            "best": best,
            "difference": against["mean"],
            "difference_interval": reach,
            "p": against["p"],
        }
    return found


def with_folds(
    ranking: Sequence[Mapping[str, Any]], rows: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """The ranking of a comparison, with ``compare_folds`` beside what each recipe has.

    Recipes are compared where all their seeds went through the same folds.

    Args:
        ranking: rows with split and recipe.
        rows: those of the trials, with split, recipe and, where there are any, folds.
    """
    keys = [(row["split"], row["recipe"]) for row in ranking]
    found: dict[tuple, dict[str, list]] = {}
    for row in rows:
        if row.get("folds") and (row["split"], row["recipe"]) in keys:
            key = (row["split"], row["folds"]["folds"], row["folds"]["repeats"])
            values = row["folds"]["per_fold"]
            found.setdefault(key, {}).setdefault(row["recipe"], []).append(values)
    compared = {
        (split, name): {"folds": folds, "repeats": repeats, **result}
        for (split, folds, repeats), recipes in found.items()
        for name, result in compare_folds(
            {name: np.mean(values, axis=0) for name, values in recipes.items()}, folds
        ).items()
    }
    extra = [{"folds": compared[key]} if key in compared else {} for key in keys]
    return [{**row, **more} for row, more in zip(ranking, extra, strict=True)]
