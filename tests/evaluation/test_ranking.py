"""Groups that a test cannot tell apart, and an order that timing noise does not change."""

import numpy as np
import pandas as pd
import pytest

from finetune.evaluation.ranking import cheapest_first, seed_summary, tie_groups


def pairs_of(*rows: tuple[str, str, str | None]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["a", "b", "better"], dtype=object)


def right(**mistakes: int) -> dict[str, np.ndarray]:
    return {name: np.arange(100) >= wrong for name, wrong in mistakes.items()}


def test_the_leader_s_group_holds_what_it_does_not_beat():
    pairs = pairs_of(("a", "b", None), ("a", "c", "a"), ("b", "c", "b"))
    groups = tie_groups(right(a=1, b=2, c=9), pairs, {"a": 9.0, "b": 3.0, "c": 1.0})
    assert groups["recipe"].tolist() == ["b", "a", "c"], "the cheapest of a group comes first"
    assert groups["group"].tolist() == [1, 1, 2]
    assert groups["accuracy"].tolist() == [0.98, 0.99, 0.91]
    assert groups["cost"].tolist() == [3, 9, 1]


def test_ties_are_not_transitive():
    """c beats b, yet both are tied with the leader."""
    pairs = pairs_of(("a", "b", None), ("a", "c", None), ("b", "c", "c"))
    groups = tie_groups(right(a=1, b=9, c=2), pairs, dict.fromkeys("abc", 1.0))
    assert groups["group"].tolist() == [1, 1, 1]


def test_accuracy_is_the_mean_over_seeds():
    hits = {"a": np.array([[True, True], [True, False]]), "b": np.array([[False, True]] * 2)}
    groups = tie_groups(hits, pairs_of(("a", "b", None)), {"a": 1.0, "b": 1.0})
    assert groups.set_index("recipe")["accuracy"].to_dict() == {"a": 0.75, "b": 0.5}


def test_costs_within_a_fifth_are_equal_and_the_simpler_recipe_comes_first():
    size = {"small": 10, "large": 99, "slow": 1}
    for noise in (0.92, 1.0, 1.08):
        cost = {"small": 100.0, "large": 100.0 * noise, "slow": 130.0}
        assert cheapest_first(list(cost), cost, size) == ["small", "large", "slow"]
    twins = {"float32": 10.0, "float16": 11.9}
    assert cheapest_first(list(twins), twins, dict.fromkeys(twins, 5)) == ["float16", "float32"]
    unknown = {"a": np.inf, "b": 1.0}
    assert cheapest_first(list(unknown), unknown, {}) == ["b", "a"]


def test_every_recipe_needs_a_cost():
    for cost in ({"a": 1.0}, {"a": 1.0, "b": np.nan}):
        with pytest.raises(ValueError, match="no cost for b"):
            tie_groups(right(a=1, b=2), pairs_of(("a", "b", None)), cost)


def test_seed_summary():
    table = seed_summary({"a": [0.9, 0.92, 0.94], "b": [0.8]})
    assert table.loc["a"].tolist() == pytest.approx([0.92, 0.02, 3])
    assert table.loc["b", "mean"] == 0.8
    assert np.isnan(table.loc["b", "sd"])
