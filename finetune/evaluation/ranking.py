"""The order of recipes: groups that the test cannot tell apart, the cheapest first."""

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import pandas as pd

_LIKE = 1.2  # costs within 20 % are equal: timing noise decides nothing


def tie_groups(
    correct: Mapping[str, np.ndarray],
    pairs: pd.DataFrame,
    cost: Mapping[str, float],
    size: Mapping[str, float] | None = None,
) -> pd.DataFrame:
    """Rank recipes in groups whose leader is not shown to be better.

    The most accurate recipe leads group 1, which holds every recipe that it does not beat; the most
    accurate of the others leads group 2; and so on. A group answers one question only: which
    recipes may be as good as this leader? Two of its members may well beat one another.

    Args:
        correct, pairs: what ``compare_pairs`` took and returned.
        cost: recipe -> any cost, smaller is cheaper; infinite where unknown.
        size: recipe -> trainable parameters.

    Returns:
        One row per recipe: group (from 1), recipe, accuracy (fraction, mean over its seeds), cost.
        Inside a group the order is that of ``cheapest_first``.

    Raises:
        ValueError: a recipe has no cost, or NaN.
    """
    if missing := [name for name in correct if not cost.get(name, np.nan) >= -np.inf]:
        raise ValueError(
            f"no cost for {', '.join(missing)}; allowed: one number per recipe; pass infinity if "
            "it is unknown"
        )
    accuracy = {name: float(np.mean(hits)) for name, hits in correct.items()}
    beats = {(row.better, row.b if row.better == row.a else row.a) for row in pairs.itertuples()}
    remaining = sorted(correct, key=lambda name: (-accuracy[name], name))
    rows: list[tuple[int, str, float, float]] = []
    group = 0
    while remaining:
        group += 1
        tied = [name for name in remaining if (remaining[0], name) not in beats]
        ordered = cheapest_first(tied, cost, size or {})
        rows += [(group, name, accuracy[name], cost[name]) for name in ordered]
        remaining = [name for name in remaining if name not in tied]
    return pd.DataFrame(rows, columns=["group", "recipe", "accuracy", "cost"])


def cheapest_first(
    names: Collection[str], cost: Mapping[str, float], size: Mapping[str, float]
) -> list[str]:
    """Names by cost. Costs within 20 % are equal: then by size, then by name.

    A cost that is missing from ``size`` counts as the largest.
    """
    left = sorted(names, key=lambda name: (cost[name], name))
    ordered: list[str] = []
    while left:
        alike = [name for name in left if cost[name] <= _LIKE * cost[left[0]]]
        ordered += sorted(alike, key=lambda name: (size.get(name, np.inf), name))
        left = left[len(alike) :]
    return ordered


def seed_summary(accuracies: Mapping[str, Sequence[float]]) -> pd.DataFrame:
    """Mean, sd (ddof 1, NaN for one seed) and n (seeds) of test accuracies, indexed by recipe."""
    table = pd.DataFrame(
        {name: pd.Series(values, dtype=float) for name, values in accuracies.items()}
    )
    columns = {"mean": table.mean(), "sd": table.std(), "n": table.count()}
    return pd.DataFrame(columns).rename_axis("recipe")
