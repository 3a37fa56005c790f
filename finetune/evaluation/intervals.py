"""What an accuracy on other photos might be, and whether two models differ: for one and for two.

For many recipes at once see ``significance``.
"""

import math

import numpy as np
from scipy.stats import binomtest, norm, t


def wilson(hits: float, n: float) -> tuple[float, float]:
    """The 95 % interval of a share, Wilson 1927 (JASA 22:209); fractions, as n may be one."""
    z = float(norm.isf(0.025))
    share = hits / n
    middle = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    reach = z / (1 + z**2 / n) * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return max(0.0, middle - reach), min(1.0, middle + reach)


def interval(correct: np.ndarray, groups: np.ndarray | None = None) -> tuple[float, float]:
    """The 95 % interval of an accuracy: Wilson's, of as many photos as there are independent ones.

    Their number is what gives the variance between groups (Kish 1965, Survey Sampling: the design
    effect), at most the number of photos; where all groups are right, it is that of the groups. Of
    few groups that variance is itself uncertain: the interval reaches further, as Student's does.

    Args:
        correct: (n,) bool, or a float 0-1 where it is a mean over seeds.
        groups: (n,) what each photo shows (an animal, a patient); None: photos are independent.
    """
    n = len(correct)
    share = float(np.mean(correct))
    effective = float(n)
    if groups is not None:
        names, index = np.unique(groups, return_inverse=True)
        off = np.bincount(index, np.asarray(correct, dtype=float) - share)
        variance = float(off @ off) * len(off) / max(1, len(off) - 1) / n**2
        if len(names) < n:
            effective = float(len(names))
            if variance > 0:
                effective = share * (1 - share) / variance / _widening(len(names)) ** 2
    effective = min(effective, float(n))
    return wilson(share * effective, effective)


def _widening(groups: int) -> float:
    """How much further 95 % reach where the variance comes from few groups: Student's t over the
    normal distribution's quantile.
    """
    return float(t.isf(0.025, groups - 1) / norm.isf(0.025)) if groups > 1 else 1.0


def mcnemar(only_a: int, only_b: int) -> float:
    """Two-sided p of McNemar's exact test (1947).

    Args:
        only_a, only_b: photos that one of two models alone gets right.
    """
    discordant = only_a + only_b
    return float(binomtest(only_a, discordant).pvalue) if discordant else 1.0
