"""How many photos and seeds a comparison needs: for planning. After the data, read the
intervals.
"""

import math

from scipy.stats import norm
from scipy.stats import t as student

ALPHA = 0.05
POWER = 0.8
MARGIN = 0.01  # a difference of accuracy under it does not matter; recipes and --margin change it


def photos_needed(
    gap: float,
    share: float,
    seeds: int = 1,
    seed_sd: float = 0.0,
    recipes: int = 2,
    power: float = POWER,
) -> float:
    """Test photos with which a true gap between two recipes is found: normal approximation.

    Args:
        gap: true difference of accuracy, a fraction above 0.
        share: fraction of photos that one of the two models alone gets right; at least the gap.
            It is each pair's own: ``only_a`` and ``only_b`` of an earlier comparison. Averaging
            over seeds can only lower it, so that the figure errs on the safe side.
        seeds: of each recipe.
        seed_sd: sd of a recipe's accuracy from seed to seed, a fraction; 0 for fixed recipes.
        recipes: compared at once; the level is shared out among their pairs (Bonferroni), and the
            seeds' variance is known from all of them.
        power: chance of finding it.

    Returns:
        A whole number of photos; infinite where the seeds alone hide the gap: see ``seeds_needed``.
    """
    share = max(share, gap)
    allowed = (gap / _sigmas(recipes, power)) ** 2 - 2 * (
        _inflated(seed_sd, seeds, recipes) ** 2
    ) / seeds
    # Fewer discordant photos than these are not significant even if all of them favour one side.
    fewest = math.ceil(math.log2(1 / _level(recipes))) / share
    return math.ceil(max((share - gap**2) / allowed, fewest)) if allowed > 0 else math.inf


def seeds_needed(
    gap: float, share: float, photos: int, seed_sd: float, recipes: int = 2, power: float = POWER
) -> float:
    """Seeds of each recipe with which a gap is found on so many photos; infinite if none suffice.

    Arguments are as for ``photos_needed``.
    """
    for seeds in range(1, 1001):
        if photos_needed(gap, share, seeds, seed_sd, recipes, power) <= photos:
            return seeds
    return math.inf


def detectable_gap(
    photos: int,
    share: float,
    seeds: int = 1,
    seed_sd: float = 0.0,
    recipes: int = 2,
    power: float = POWER,
) -> float:
    """The smallest true gap (fraction) that so many photos find: the inverse of ``photos_needed``.

    NaN where no gap is found.
    """

    def missing(gap: float) -> float:
        return photos_needed(gap, share, seeds, seed_sd, recipes, power) - photos

    if missing(1.0) > 0:
        return math.nan
    low = 1e-6
    high = 1.0
    for _ in range(40):  # ``missing`` may be infinite, which root finders do not take
        middle = (low + high) / 2
        low, high = (middle, high) if missing(middle) > 0 else (low, middle)
    return high


def _level(recipes: int) -> float:
    """Of each side of each pair."""
    return ALPHA / math.comb(recipes, 2) / 2


def _sigmas(recipes: int, power: float) -> float:
    """How many standard errors a gap must measure."""
    return float(norm.isf(_level(recipes)) + norm.isf(1 - power))


def _inflated(seed_sd: float, seeds: int, recipes: int) -> float:
    """The sd of seeds with what it costs that it must be estimated from few of them."""
    if seeds == 1:
        return seed_sd
    level = _level(recipes)
    return seed_sd * float(student.isf(level, recipes * (seeds - 1)) / norm.isf(level))
