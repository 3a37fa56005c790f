"""How many photos and seeds a comparison needs: for planning. After the data, read the intervals."""

import math

from scipy.stats import norm

ALPHA = 0.05
POWER = 0.8
MARGIN = 0.01  # a difference of accuracy under it does not matter; recipes and --margin change it


def photos_needed(
    gap: float,
    share: float,
    seeds: int = 1,
    seed_sd: float = 0.0,
    pairs: int = 1,
    power: float = POWER,
) -> float:
    """Test photos with which a true gap between two recipes is found: normal approximation.

    Args:
        gap: true difference of accuracy, a fraction above 0.
        share: fraction of photos that one of the two models alone gets right; at least the gap.
        seeds: of each recipe.
        seed_sd: sd of a recipe's accuracy from seed to seed, a fraction; 0 for fixed recipes.
        pairs: compared at once; the level is shared out among them (Bonferroni).
        power: chance of finding it.

    Returns:
        A whole number of photos; infinite where the seeds alone hide the gap: see ``seeds_needed``.
    """
    share = max(share, gap)
    allowed = (gap / _sigmas(pairs, power)) ** 2 - 2 * seed_sd**2 / seeds
    # Fewer discordant photos than these are not significant even if all of them favour one side.
    fewest = math.ceil(1 + math.log2(pairs / ALPHA)) / share
    return math.ceil(max((share - gap**2) / allowed, fewest)) if allowed > 0 else math.inf


def seeds_needed(
    gap: float, share: float, photos: int, seed_sd: float, pairs: int = 1, power: float = POWER
) -> float:
    """Seeds of each recipe with which a gap is found on so many photos; infinite if none suffice.

    Arguments are as for ``photos_needed``.
    """
    share = max(share, gap)
    allowed = (gap / _sigmas(pairs, power)) ** 2 - (share - gap**2) / photos
    return max(1, math.ceil(2 * seed_sd**2 / allowed)) if allowed > 0 else math.inf


def detectable_gap(
    photos: int,
    share: float,
    seeds: int = 1,
    seed_sd: float = 0.0,
    pairs: int = 1,
    power: float = POWER,
) -> float:
    """The smallest true gap (fraction) that so many photos find: the inverse of ``photos_needed``.

    NaN where no gap is found.
    """

    def missing(gap: float) -> float:
        return photos_needed(gap, share, seeds, seed_sd, pairs, power) - photos

    if missing(1.0) > 0:
        return math.nan
    low = 1e-6
    high = 1.0
    for _ in range(40):  # ``missing`` may be infinite, which root finders do not take
        middle = (low + high) / 2
        low, high = (middle, high) if missing(middle) > 0 else (low, middle)
    return high


def _sigmas(pairs: int, power: float) -> float:
    """How many standard errors a gap must measure."""
    return float(norm.isf(ALPHA / pairs / 2) + norm.isf(1 - power))
