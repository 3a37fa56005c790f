"""Which recipes differ for real: paired comparison of many recipes on the same test photos.

A recipe is a group of cells that differ in nothing but the seed. Three rules decide that one beats another:

1. **Photos.** Each recipe is represented by one trained model, named before the test split is opened: the seed whose
   validation loss is the median (:func:`representative`). Two such models are compared by McNemar's exact test on the
   photos that only one of them gets right. It needs no approximation, and its null hypothesis is the plain one: both
   models are right equally often.
2. **Many pairs.** The p-values of all pairs are adjusted by Holm's method. When the models are all equally accurate,
   the chance of a matrix with any "better" in it is at most 5 %.
3. **Seeds.** McNemar's test speaks of two trained models, and of two recipes only as far as training again would give
   the same. Where both recipes ran with two seeds or more, their seeds' test accuracies must differ too, in the same
   direction, by Welch's t-test at 5 %. This is a second lock, not a second chance: it can only take verdicts away.

Why the second lock: six equal recipes with three seeds each on 1,000 photos, whose accuracy varies by 0.7 points from
seed to seed, have a false "better" in about 4 matrices of 10 under the first two rules, and in about 4 of 100 with the
third (tests/test_significance.py simulates it). At 1.2 points from seed to seed the third rule no longer suffices
(about 1 in 6): run more seeds. With a single seed a verdict is about those two trained models and no more.

Bootstrap intervals are 95 % for each pair by itself. They show the size of a difference; they do not decide.
Rows that were measured on different photos must not come here together: compare their split digests first.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from scipy.stats import ttest_ind_from_stats
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests

from finetune.evaluation.power import ALPHA, minimum_detectable_difference


def representative(validation_loss: Mapping[int, float]) -> int:
    """The seed that stands for its recipe: the one with the median validation loss, of an even number the lower median.

    Args:
        validation_loss: seed -> validation loss; NaN for a run that diverged, which counts as the worst.

    Raises:
        ValueError: there is no seed, or half of them or more diverged, so that no usable run is typical.
    """
    seeds, losses = (
        list(validation_loss),
        np.array(list(validation_loss.values()), dtype=np.float64),
    )
    middle = (len(seeds) - 1) // 2
    if not seeds or not np.isfinite(np.sort(losses)[middle]):
        raise ValueError(
            f"validation losses are {dict(validation_loss)}; allowed: at least one seed, most of them finite; "
            "leave the recipe out of the comparison as diverged"
        )
    return seeds[np.argsort(losses, kind="stable")[middle]]


def seed_summary(seed_accuracies: Mapping[str, Sequence[float]]) -> pd.DataFrame:
    """Mean, sd (ddof 1, NaN for one seed) and n (seeds) of each recipe's test accuracies, indexed by recipe."""
    table = pd.DataFrame(
        {name: pd.Series(values, dtype=np.float64) for name, values in seed_accuracies.items()}
    )
    return pd.DataFrame({"mean": table.mean(), "sd": table.std(), "n": table.count()}).rename_axis(
        "recipe"
    )


def compare_pairs(
    correct: Mapping[str, np.ndarray],
    losses: Mapping[str, np.ndarray],
    seed_accuracies: Mapping[str, Sequence[float]] | None = None,
    seed: int = 0,
    resamples: int = 2000,
) -> pd.DataFrame:
    """Compare every recipe's representative with every other's on the same photos.

    Args:
        correct: recipe -> bool (n,): whether the representative names photo i rightly. The order of photos is the same
            for all recipes.
        losses: recipe -> float (n,): its negative log likelihood of photo i, nats; the same recipes.
        seed_accuracies: recipe -> test accuracies of all its seeds, the representative's included (fractions).
        seed: of the bootstrap.
        resamples: number of bootstrap samples of the n photos, the same ones for all pairs.

    Returns:
        One row per pair (a before b in ``correct``): a, b; difference (accuracy of a minus that of b, fraction) with
        low and high (95 % paired percentile bootstrap); only_a, only_b (photos that only one gets right); p (McNemar,
        exact), p_holm; seed_difference (of the seeds' means), p_seeds (Welch), both NaN where there are no seeds to
        compare; loss_difference (nats), loss_low, loss_high; better (the winner's name, or None).

    Raises:
        ValueError: the recipes or the photos of the arguments do not match, or a loss is not finite.
    """
    hits, nats = _aligned(correct, losses, seed_accuracies)
    names = np.array(list(correct), dtype=object)
    first, second = np.triu_indices(len(names), k=1)
    parts = [
        pd.DataFrame({"a": names[first], "b": names[second]}),
        _mcnemar(hits, first, second),
        _welch(seed_accuracies or dict.fromkeys(correct, ()), first, second),
        _bootstrap(hits, nats, first, second, resamples, seed),
    ]
    pairs = pd.concat(parts, axis=1)
    a_leads, one_seed = pairs["difference"] > 0, pairs["p_seeds"].isna()
    seeds_agree = (pairs["p_seeds"] < ALPHA) & ((pairs["seed_difference"] > 0) == a_leads)
    proven = (pairs["p_holm"] < ALPHA) & (seeds_agree | one_seed)
    winner = np.where(a_leads, names[first], names[second])
    # As object: pandas's string type would turn None into NaN.
    return pairs.assign(
        better=pd.Series(np.where(proven, winner, np.array(None, dtype=object)), dtype=object)
    )


def tie_groups(
    correct: Mapping[str, np.ndarray], pairs: pd.DataFrame, cost: Mapping[str, float]
) -> pd.DataFrame:
    """Rank recipes in groups that the test photos cannot tell apart.

    The most accurate recipe leads group 1, which holds every recipe that it does not beat; the most accurate of the
    others leads group 2; and so on. "Not told apart" is not transitive: two members of a group are each tied with its
    leader, yet one may beat the other, and a recipe of group 2 may be tied with a member of group 1 other than the
    leader. A group therefore answers one question only: which recipes may be as good as this leader?

    Args:
        correct, pairs: what :func:`compare_pairs` took and returned.
        cost: recipe -> any cost, smaller is cheaper; infinite where unknown.

    Returns:
        One row per recipe: group (from 1), recipe, accuracy (fraction), cost. Inside a group the cheapest comes first.

    Raises:
        ValueError: a recipe has no cost, or NaN.
    """
    if missing := [name for name in correct if not cost.get(name, np.nan) >= -np.inf]:
        raise ValueError(
            f"no cost for {', '.join(missing)}; allowed: one number per recipe; pass infinity if unknown"
        )
    accuracy = {name: float(np.mean(hits)) for name, hits in correct.items()}
    beats = {(row.better, row.b if row.better == row.a else row.a) for row in pairs.itertuples()}
    remaining = sorted(correct, key=lambda name: (-accuracy[name], cost[name], name))
    rows: list[tuple[int, str, float, float]] = []
    group = 0
    while remaining:
        group += 1
        tied = [name for name in remaining if (remaining[0], name) not in beats]
        rows += [
            (group, name, accuracy[name], cost[name]) for name in sorted(tied, key=cost.__getitem__)
        ]
        remaining = [name for name in remaining if name not in tied]
    return pd.DataFrame(rows, columns=["group", "recipe", "accuracy", "cost"])


def verdict(pairs: pd.DataFrame, groups: pd.DataFrame, photos: int) -> str:
    """The comparison in one plain sentence; p is Holm's, the interval the pair's own bootstrap.

    Args:
        pairs, groups: from :func:`compare_pairs` and :func:`tie_groups`.
        photos: size of the test split.
    """
    if len(groups) == 1:
        return f"{groups['recipe'][0]} is the only recipe: there is nothing to compare it with"
    tied, beaten = groups[groups["group"] == 1], groups[groups["group"] > 1]
    if beaten.empty:
        return f"the test photos cannot tell {_listed(tied['recipe'])} apart; {_detection_limit(pairs, photos)}"
    leader, runner_up = (
        tied["recipe"][tied["accuracy"].idxmax()],
        beaten["recipe"][beaten["accuracy"].idxmax()],
    )
    sentence = f"{leader} beats {runner_up} by {_difference(pairs, leader, runner_up)}"
    if len(beaten) > 1:
        sentence += f", and {len(beaten) - 1} more"
    if len(tied) > 1:
        sentence += f"; the test photos cannot tell it from {_listed(tied['recipe'][tied['recipe'] != leader])}"
    return sentence


def _aligned(
    correct: Mapping[str, np.ndarray],
    losses: Mapping[str, np.ndarray],
    seed_accuracies: Mapping[str, Sequence[float]] | None,
) -> tuple[np.ndarray, np.ndarray]:
    """bool and float64 arrays of shape (photos, recipes), in the order of ``correct``."""
    others = [losses] if seed_accuracies is None else [losses, seed_accuracies]
    if not correct or any(set(correct) != set(other) for other in others):
        raise ValueError(
            f"recipes are {[list(mapping) for mapping in (correct, *others)]}; allowed: the same names, at least one, "
            "in correct, losses and seed_accuracies; pass every recipe in each"
        )
    shapes = {name: (np.shape(correct[name]), np.shape(losses[name])) for name in correct}
    first = np.shape(next(iter(correct.values())))
    if (
        len(first) != 1
        or first[0] == 0
        or any(shape != (first, first) for shape in shapes.values())
    ):
        raise ValueError(
            f"shapes of (correct, losses) are {shapes}; allowed: (n,) for all, n at least 1; compare on the same photos"
        )
    hits = np.column_stack([correct[name] for name in correct])
    nats = np.column_stack([losses[name] for name in correct]).astype(np.float64)
    if hits.dtype != np.bool_ or not np.isfinite(nats).all():
        raise ValueError(
            f"correct is {hits.dtype} and {np.sum(~np.isfinite(nats))} losses are not finite; allowed: bool and finite "
            "floats; take both from metrics.per_photo"
        )
    return hits, nats


def _mcnemar(hits: np.ndarray, first: np.ndarray, second: np.ndarray) -> pd.DataFrame:
    only_a = (hits[:, first] & ~hits[:, second]).sum(axis=0)
    only_b = (hits[:, second] & ~hits[:, first]).sum(axis=0)
    # The photos that both or neither get right do not enter the test.
    p = np.array(
        [mcnemar([[0, a], [b, 0]], exact=True).pvalue for a, b in zip(only_a, only_b, strict=True)]
    )
    p_holm = multipletests(p, method="holm")[1] if len(p) else p
    difference = (only_a - only_b) / len(hits)
    return pd.DataFrame(
        {"difference": difference, "only_a": only_a, "only_b": only_b, "p": p, "p_holm": p_holm}
    )


def _welch(
    seed_accuracies: Mapping[str, Sequence[float]], first: np.ndarray, second: np.ndarray
) -> pd.DataFrame:
    mean, sd, n = seed_summary(seed_accuracies).to_numpy(dtype=np.float64).T
    a, b = (mean[first], sd[first], n[first]), (mean[second], sd[second], n[second])
    with np.errstate(
        divide="ignore", invalid="ignore"
    ):  # one seed has no sd; seeds that are all alike have sd 0
        p = ttest_ind_from_stats(*a, *b, equal_var=False).pvalue
    alike = (sd[first] == 0) & (sd[second] == 0)
    difference = mean[first] - mean[second]
    return pd.DataFrame(
        {"seed_difference": difference, "p_seeds": np.where(alike, difference == 0, p)}
    )


def _bootstrap(
    hits: np.ndarray,
    nats: np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
    resamples: int,
    seed: int,
) -> pd.DataFrame:
    """Percentile intervals, the same resamples for all pairs: scipy.stats.bootstrap would draw anew for each."""
    rng, n = np.random.default_rng(seed), len(hits)
    values, per_draw = np.hstack([hits, nats]), max(1, 2_000_000 // n)  # 16 MB of counts at a time
    sizes = [min(per_draw, resamples - start) for start in range(0, resamples, per_draw)]
    draws = np.vstack(
        [rng.multinomial(n, np.full(n, 1 / n), size=size) @ values / n for size in sizes]
    )
    accuracy, loss = np.hsplit(draws, 2)
    low, high = np.quantile(
        accuracy[:, first] - accuracy[:, second], [ALPHA / 2, 1 - ALPHA / 2], axis=0
    )
    loss_low, loss_high = np.quantile(
        loss[:, first] - loss[:, second], [ALPHA / 2, 1 - ALPHA / 2], axis=0
    )
    difference = nats.mean(axis=0)[first] - nats.mean(axis=0)[second]
    columns = {
        "low": low,
        "high": high,
        "loss_difference": difference,
        "loss_low": loss_low,
        "loss_high": loss_high,
    }
    return pd.DataFrame(columns)


def _difference(pairs: pd.DataFrame, winner: str, loser: str) -> str:
    """For example ``1.1 points (0.3 to 1.9, p = 0.01)``."""
    pair = pairs[pairs["a"].isin([winner, loser]) & pairs["b"].isin([winner, loser])].iloc[0]
    size, low, high = 100 * pair[["difference", "low", "high"]].to_numpy(dtype=np.float64)
    if pair["a"] == loser:
        size, low, high = -size, -high, -low
    p = "p < 0.001" if pair["p_holm"] < 0.001 else f"p = {pair['p_holm']:.2g}"
    return f"{size:.1f} points ({low:.1f} to {high:.1f}, {p})"


def _detection_limit(pairs: pd.DataFrame, photos: int) -> str:
    share = float((pairs["only_a"] + pairs["only_b"]).median()) / photos
    limit = minimum_detectable_difference(photos, share, ALPHA / len(pairs))
    if np.isnan(limit):
        return f"{photos:,} photos are too few to detect any difference"
    return f"differences under {100 * limit:.1f} points cannot be relied on to show with {photos:,} photos"


def _listed(names: Sequence[str], limit: int = 4) -> str:
    """``A, B and C``; a long list ends in ``and 9 others``."""
    names = list(names)
    if len(names) > limit:
        names = [*names[: limit - 1], f"{len(names) - limit + 1} others"]
    return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else names[0]
