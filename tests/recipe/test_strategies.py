"""The table of strategies and `finetune strategies` say what recipes do."""

import json

import pytest
from conftest import finetune_here

from finetune.recipe.reading import load
from finetune.recipe.strategies import LEARNS, STRATEGIES, is_deterministic


@pytest.mark.parametrize("name", STRATEGIES)
def test_what_crosses_the_cut_is_what_the_recipe_does(name):
    """Without a word on views a recipe gets what the table names first; the second is there if
    fresh views may stream.
    """
    row, recipe = STRATEGIES[name], load(None, {"strategy": name})
    first, _, second = row.crosses.partition(" or ")
    assert first.startswith("fresh views" if recipe.views == "fresh" else "stored ")
    assert bool(second) == row.streams
    if second:
        other = load(
            None, {"strategy": name, "augment": "none" if recipe.views == "fresh" else "light"}
        )
        assert second.startswith("fresh views" if other.views == "fresh" else "stored ")


def test_the_list_has_every_strategy_with_its_cut():
    rows = json.loads(finetune_here("strategies", "--json").stdout)
    assert list(rows) == list(STRATEGIES)
    assert [row["cut"] for row in rows.values()] == [
        LEARNS[s.learns][0] for s in STRATEGIES.values()
    ]
    assert rows["top-blocks"]["defaults"]["learning_rate"] == 1e-5
    text = finetune_here("strategies")
    assert text.returncode == 0, text.stderr
    for name, row in rows.items():
        assert (
            f"{name}: {row['summary']}\n  cut: {row['cut']}; what crosses it: {row['crosses']}; "
            in text.stdout
        )


@pytest.mark.parametrize(
    ("strategy", "solver", "views", "fixed"),
    [
        ("cached-features", "lbfgs", 0, True),
        ("cached-features", "lbfgs", 4, True),
        ("cached-features", "keras", 0, False),
        ("frozen-base", "keras", "fresh", False),
        ("frozen-base", "lbfgs", 0, True),
        ("top-blocks", "lbfgs", 0, False),
        ("full", "lbfgs", 0, False),
    ],
)
def test_a_convex_fit_on_stored_views_is_declared_deterministic(strategy, solver, views, fixed):
    assert is_deterministic(strategy, solver, views) == fixed
