"""What a number of test photos can tell apart: the power of McNemar's exact test."""

import numpy as np
from scipy.optimize import brentq
from scipy.stats import binom

ALPHA = 0.05
POWER = 0.8


def mcnemar_power(
    photos: int, discordant_share: float, difference: float, alpha: float = ALPHA
) -> float:
    """Chance that McNemar's exact test finds a true difference of accuracy (Duffy 1984, Biometrics 40:1005).

    The number of discordant photos is binomial, and so is, given that number, how many of them favour the better
    model. The power is the probability of rejection summed over both; nothing is approximated.

    Args:
        photos: size of the test split.
        discordant_share: expected fraction of photos that only one of the two gets right; at least the difference.
        difference: true accuracy of one minus that of the other, a fraction above 0.
        alpha: two-sided level.
    """
    share = max(discordant_share, difference)
    lowest, highest = binom.interval(1 - 1e-9, photos, share)
    discordant = np.arange(lowest, highest + 1)
    # Rejected when more than `limit` photos favour one side.
    limit = binom.isf(alpha / 2, discordant, 0.5)
    in_favour = (share + difference) / (2 * share)
    rejected = binom.sf(limit, discordant, in_favour) + binom.sf(limit, discordant, 1 - in_favour)
    return float(np.sum(binom.pmf(discordant, photos, share) * rejected))


def minimum_detectable_difference(
    photos: int, discordant_share: float, alpha: float = ALPHA, power: float = POWER
) -> float:
    """The smallest true difference of accuracy (fraction) that McNemar's exact test finds with the given power.

    For one pair among m, Holm's first step tests at alpha / m: pass that. Where the difference exceeds the discordant
    share, the share rises with it. NaN when the photos are too few for any difference (fewer than six at 5 %).
    """
    if mcnemar_power(photos, discordant_share, 1.0, alpha) < power:
        return float("nan")
    return float(
        brentq(
            lambda gap: mcnemar_power(photos, discordant_share, gap, alpha) - power,
            1e-9,
            1.0,
            xtol=1e-6,
        )
    )
