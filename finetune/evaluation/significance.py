"""Which recipes differ for real: one test over photos and seeds, for all pairs of recipes at once.

Photos and seeds are crossed random factors, as cases and readers are in radiology (Obuchowski and
Rockette 1995, Communications in Statistics 24:285; Gallas 2007, Academic Radiology 14:S66):
another test set would hold other photos, and another training run would give another model.

1. **Statistic.** The difference of two recipes' accuracies, each averaged over its seeds, over the
   square root of its variance: that of the photos plus that of the seeds' skills. The latter is
   pooled over the recipes of one strategy; a recipe whose seeds scatter more keeps its own.
2. **Null distribution.** The sign of every photo (or group of photos) is flipped at random, the
   same flips for all recipes, and every mean gets a drawn seed effect. The variance of the seeds
   is known from few of them and is therefore drawn, too: variance x df / chi-squared.
3. **Many pairs.** Step-down max-T over all pairs (Westfall and Young 1993): in a matrix of equal
   recipes the chance of any "better" is at most 5 %. The intervals are simultaneous and come from
   the same draws: all hold at once, whichever pair is looked at afterwards.

Two recipes without randomness, or with ``assumed=0`` and one run each, get McNemar's exact test up
to Monte Carlo error. One run of a random recipe says nothing about other seeds, so that a standard
deviation of ``ASSUMED_SD`` is taken for granted. Claims are about recipes where the seeds leave
``ENOUGH`` degrees of freedom, and about "these trained models" elsewhere.

``docs/honesty.md`` shows how often all this is wrong, in simulation.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import chi2, norm

from finetune.evaluation.planning import ALPHA

ASSUMED_SD = 0.003  # of a random recipe's accuracy from seed to seed, where no recipe has two
ENOUGH = 8  # degrees of freedom of the seeds' variance that allow a claim about recipes
RESAMPLES = 1999


@dataclass(frozen=True)
class Design:
    """What the rows and columns of a table of results are.

    Attributes:
        fixed: recipes that give the same model every time, see ``strategies.is_deterministic``.
        kinds: recipe -> its strategy; recipes of one kind share the variance of their seeds.
            A recipe that is missing is of the kind "".
        groups: (photos,) what each photo shows (an animal, a patient, a burst): photos of one group
            count as one draw. None: photos are independent.
        assumed: sd of the accuracies (fraction) of a random recipe's seeds, if none can be had.
    """

    fixed: Collection[str] = ()
    kinds: Mapping[str, str] | None = None
    groups: np.ndarray | None = None
    assumed: float = ASSUMED_SD


@dataclass(frozen=True)
class Crossed:
    """The recipes' means, and draws of where they would lie if no recipe differed: see ``cross``.

    Attributes:
        names: of the recipes.
        mean: float (recipes,), over photos and seeds.
        parts: float (photos or groups, recipes); sums to ``mean`` but for a shared constant.
        share: float (photos or groups,), of the photos; the sum is 1.
        seeds: float (recipes,), variance of each mean that comes from its seeds' skills.
        drawn: float32 (resamples, recipes).
        known: bool (recipes,), whether a claim may be about the recipe and not its models alone.
        least: variance of a difference that an interval does not go below.
    """

    names: list[str]
    mean: np.ndarray
    parts: np.ndarray
    share: np.ndarray
    seeds: np.ndarray
    drawn: np.ndarray
    known: np.ndarray
    least: float

    def contrasts(self, weights: np.ndarray) -> pd.DataFrame:
        """Test weighted sums of the means, all at once.

        Args:
            weights: float (recipes, contrasts), the sum of each column is 0.

        Returns:
            One row per contrast: difference, low and high (simultaneous 95 %), p (step-down max-T).
        """
        difference = self.mean @ weights
        by_photo = self.parts @ weights
        seeds = self.seeds @ weights**2
        photos = (by_photo**2).sum(axis=0)  # flipping signs leaves it as it is
        scale = np.sqrt(photos + seeds)
        scale = np.where(scale > 0, scale, np.inf)
        null = np.abs(self.drawn @ weights.astype(np.float32)) / scale.astype(np.float32)
        p = _step_down(np.abs(difference) / scale, null)
        # The spread around the estimate. Few discordant photos do not know their own spread.
        around = ((by_photo - self.share[:, None] * difference) ** 2).sum(axis=0)
        spread = np.maximum(around, self.least / 2 * (weights**2).sum(axis=0))
        # What is not found holds 0: its spread is that of the test.
        spread = np.where(p <= ALPHA, spread, np.maximum(spread, photos))
        reach = _critical(null) * np.sqrt(spread + seeds)
        return pd.DataFrame({"difference": difference, **_bounds(difference, reach, p), "p": p})


def cross(
    tables: Mapping[str, np.ndarray],
    design: Design = Design(),
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Crossed:
    """Prepare the test of recipes that were measured on the same photos.

    Args:
        tables: recipe -> (seeds, photos), bool (right or wrong) or float (losses).
        design: what rows and columns are.
        seed, resamples: of the draws.
    """
    n = next(iter(tables.values())).shape[1]
    index = (
        np.arange(n) if design.groups is None else np.unique(design.groups, return_inverse=True)[1]
    )
    summed = [_by_group(table / n, index) for table in tables.values()]
    parts = np.stack([rows.mean(axis=0) for rows in summed], axis=1)
    rng = np.random.default_rng(seed)
    flips = rng.integers(0, 2, (resamples, len(parts)), dtype=np.int8).astype(np.float32) * 2 - 1
    skill, drawn, known = _seeds(list(tables), summed, design, rng, resamples)
    mean = parts.sum(axis=0)
    parts = parts - parts.mean(axis=1, keepdims=True)  # what all share tells nothing apart
    noise = rng.standard_normal(drawn.shape, dtype=np.float32) * np.sqrt(drawn)
    share = np.bincount(index) / n
    # One photo more on either side keeps intervals from shrinking to nothing.
    hits = all(table.dtype == np.bool_ for table in tables.values())
    least = 2 * float(share @ share) / len(share) if hits else 0.0
    drawn = flips @ parts.astype(np.float32) + noise
    return Crossed(list(tables), mean, parts, share, skill, drawn, known, least)


def _seeds(
    names: list[str],
    summed: list[np.ndarray],
    design: Design,
    rng: np.random.Generator,
    resamples: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each mean: variance by its seeds' skills (recipes,), draws of it (resamples, recipes).

    Skill is what the seeds' accuracies vary by beyond the luck of each model with single photos.
    The third array says whether there are seeds enough.
    """
    count = np.array([len(rows) for rows in summed])
    random = np.array([name not in design.fixed for name in names])
    kind = np.array([(design.kinds or {}).get(name, "") for name in names])
    df = (count - 1) * random
    total = np.array(
        [rows.sum(axis=1).var(ddof=1) if d else 0 for rows, d in zip(summed, df, strict=True)]
    )
    luck = np.array(
        [rows.var(axis=0, ddof=1).sum() if d else 0 for rows, d in zip(summed, df, strict=True)]
    )
    skill = np.zeros(len(names))
    drawn = np.zeros((resamples, len(names)))
    known = ~random
    for one in np.unique(kind[random]):
        mine = random & (kind == one)
        own_df = df * mine
        weight = own_df if own_df.any() else df  # a kind without replicates borrows the others'
        if not weight.any():
            skill[mine] = design.assumed**2
            drawn[:, mine] = design.assumed**2
            continue
        pooled = np.full(len(names), total @ weight / weight.sum())
        limit = chi2.isf(ALPHA, np.maximum(df, 1)) / np.maximum(df, 1)
        pooled = np.where(total > pooled * limit, total, pooled)[mine]
        chance = luck @ weight / weight.sum()
        factor = weight.sum() / rng.chisquare(weight.sum(), (resamples, 1))
        skill[mine] = np.maximum(pooled - chance, 0)
        drawn[:, mine] = np.maximum(pooled * factor - chance, 0)
        known[mine] = own_df.sum() >= ENOUGH
    return skill / count, (drawn / count).astype(np.float32), known


def _step_down(size: np.ndarray, null: np.ndarray) -> np.ndarray:
    """Adjusted p: size (contrasts,) against null (resamples, contrasts), both above 0."""
    order = np.argsort(-size, kind="stable")
    largest = np.maximum.accumulate(null[:, order[::-1]], axis=1)[:, ::-1]  # this and all weaker
    reached = (largest >= size[order] * (1 - 1e-5)).sum(axis=0)  # float32 sums are not exact
    p = np.empty(len(size))
    p[order] = np.maximum.accumulate((1 + reached) / (1 + len(null)))
    return p


def _critical(null: np.ndarray) -> float:
    """What the largest of a row exceeds in 5 % of them, at least as for a single normal one."""
    if not null.size:
        return 0.0
    largest = np.sort(null.max(axis=1))
    return max(float(largest[-max(1, int(ALPHA * (1 + len(null))))]), norm.isf(ALPHA / 2))


def _bounds(difference: np.ndarray, reach: np.ndarray, p: np.ndarray) -> dict[str, np.ndarray]:
    """Interval and p agree: the interval of what a later step found ends at 0 at the latest."""
    found = p <= ALPHA
    low = difference - reach
    high = difference + reach
    low = np.where(found & (difference > 0), np.maximum(low, 0), low)
    high = np.where(found & (difference < 0), np.minimum(high, 0), high)
    return {"low": low, "high": high}


def _by_group(table: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Sums of (seeds, photos) over the photos of each group: (seeds, groups)."""
    return np.stack([np.bincount(index, row) for row in table])
