"""The promises about errors are kept in simulation; the rest against known values and other implementations."""

import re
import time

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binom, binomtest, bootstrap

from finetune.evaluation.metrics import per_photo
from finetune.evaluation.power import mcnemar_power
from finetune.evaluation.significance import (
    compare_pairs,
    representative,
    seed_summary,
    tie_groups,
    verdict,
)

PHOTOS = 1000


@pytest.fixture(autouse=True)
def quick_holm(monkeypatch):
    """multipletests collects garbage at every call: 0.1 s, which the simulations would pay thousands of times."""
    monkeypatch.setattr("gc.collect", lambda: 0)


def compare(correct: np.ndarray, seed_accuracies: np.ndarray | None = None) -> pd.DataFrame:
    """Recipes r0, r1, ... from a bool array (recipes, photos). Few resamples: the verdicts do not depend on them."""
    hits = {f"r{i}": row for i, row in enumerate(correct)}
    losses = {name: np.where(row, 0.1, 2.0) for name, row in hits.items()}
    seeds = None if seed_accuracies is None else dict(zip(hits, seed_accuracies, strict=True))
    return compare_pairs(hits, losses, seeds, resamples=2)


def two_recipes(only_a: int, only_b: int, photos: int = PHOTOS) -> dict[str, np.ndarray]:
    """Both are right on all photos except those that are counted."""
    a, b = np.ones(photos, dtype=bool), np.ones(photos, dtype=bool)
    b[:only_a] = False
    a[only_a : only_a + only_b] = False
    return {"a": a, "b": b}


def losses_of(correct: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: np.where(hits, 0.1, 2.0) for name, hits in correct.items()}


def at_most(hits: int, trials: int) -> float:
    """Upper end of the exact one-sided 95 % interval of a simulated share."""
    return binomtest(hits, trials, alternative="less").proportion_ci(0.95).high


def at_least(hits: int, trials: int) -> float:
    return binomtest(hits, trials, alternative="greater").proportion_ci(0.95).low


def paired_gap(rng: np.random.Generator, gap: float, discordant: float = 0.06) -> np.ndarray:
    """Two recipes, bool (2, photos): expected discordant share and accuracy gap as given."""
    luck = rng.random(PHOTOS)
    only_a, only_b = luck < (discordant + gap) / 2, luck > 1 - (discordant - gap) / 2
    return np.array([~only_b, ~only_a])


def trained(
    rng: np.random.Generator, recipes: int, seeds: int, seed_sd: float, gap: float = 0.0
) -> np.ndarray:
    """bool (recipes, seeds, photos): photos differ in difficulty, seeds in skill, and each model has its own luck.

    Every recipe has the same expectation for every photo, except that the first is better by ``gap``.
    """
    easiness = rng.normal(4.5, 2.6, PHOTOS)
    skill = rng.normal(0, seed_sd, (recipes, seeds, 1))
    skill[0] += gap
    return easiness + skill + rng.normal(0, 0.8, (recipes, seeds, PHOTOS)) > 0


def matrices_with_a_verdict(
    trials: int, recipes: int, seeds: int, seed_sd: float, second_lock: bool = True
) -> int:
    rng = np.random.default_rng(0)
    count = 0
    for _ in range(trials):
        correct = trained(rng, recipes, seeds, seed_sd)
        pairs = compare(correct[:, 0], correct.mean(axis=2) if second_lock else None)
        count += pairs["better"].notna().any()
    return count


def test_null_of_two_recipes_with_60_discordant_photos():
    rng = np.random.default_rng(0)
    hits = sum(compare(paired_gap(rng, gap=0.0))["better"].notna().any() for _ in range(1500))
    assert at_most(hits, 1500) <= 0.05
    assert hits > 0, "a test that never rejects would pass as well"


def test_three_points_at_60_discordant_photos_are_found():
    rng = np.random.default_rng(0)
    hits = sum(compare(paired_gap(rng, gap=0.03))["better"][0] == "r0" for _ in range(500))
    assert at_least(hits, 500) >= 0.8
    assert hits / 500 == pytest.approx(mcnemar_power(PHOTOS, 0.06, 0.03), abs=0.02)


def test_null_of_six_recipes():
    hits = matrices_with_a_verdict(600, recipes=6, seeds=1, seed_sd=0.0)
    assert at_most(hits, 600) <= 0.05


def test_null_of_six_recipes_with_three_seeds_of_unequal_skill():
    """Seeds whose accuracies scatter by 0.7 points: McNemar alone takes one lucky seed for a better recipe.

    3,000 trials gave 4.0 % with the second lock (standard error 0.4) and 400 gave 43 % without.
    """
    assert matrices_with_a_verdict(400, recipes=6, seeds=3, seed_sd=0.15) / 400 <= 0.05
    unlocked = matrices_with_a_verdict(100, recipes=6, seeds=3, seed_sd=0.15, second_lock=False)
    assert at_least(unlocked, 100) > 0.05


def test_a_better_recipe_with_three_seeds_is_found_among_six():
    rng = np.random.default_rng(0)
    found = 0
    for _ in range(100):
        correct = trained(rng, recipes=6, seeds=3, seed_sd=0.1, gap=1.2)
        pairs = compare(correct[:, 0], correct.mean(axis=2))
        found += (pairs["better"] == "r0").sum()
    assert at_least(found, 500) >= 0.8


def test_mcnemar_holm_and_counts_of_a_known_table():
    correct = two_recipes(15, 4)
    pair = compare_pairs(correct, losses_of(correct), resamples=200).iloc[0]
    assert (pair["only_a"], pair["only_b"]) == (15, 4)
    assert pair["difference"] == pytest.approx(0.011)
    assert pair["p"] == pair["p_holm"] == pytest.approx(binomtest(4, 19).pvalue)
    assert pair["better"] == "a"
    assert np.isnan(pair["p_seeds"])


def test_identical_recipes():
    hits = np.arange(50) % 7 > 0
    correct = {"a": hits, "b": hits.copy()}
    pair = compare_pairs(
        correct, losses_of(correct), {"a": [0.8, 0.8], "b": [0.8, 0.8]}, resamples=100
    ).iloc[0]
    assert pair["p"] == pair["p_holm"] == pair["p_seeds"] == 1
    assert pair["better"] is None
    assert (
        pair[["difference", "low", "high", "loss_difference", "loss_low", "loss_high"]].tolist()
        == [0] * 6
    )


def test_holm_adjusts_over_all_pairs():
    """r0 - r1 has p = 2 / 2^8 = 0.0078 and so has r0 - r2: three pairs make 0.0234 of the smallest."""
    correct = np.ones((3, 200), dtype=bool)
    correct[1, :8] = correct[2, 8:16] = False
    pairs = compare(correct)
    assert pairs["p"].tolist() == pytest.approx([2 / 2**8, 2 / 2**8, 1])
    assert pairs["p_holm"].tolist() == pytest.approx([6 / 2**8, 6 / 2**8, 1])
    assert pairs["better"].tolist() == ["r0", "r0", None]
    more = np.vstack([correct, np.ones((2, 200), dtype=bool)])
    assert compare(more)["better"].isna().all(), "ten pairs: 0.078"


def test_seeds_can_only_take_a_verdict_away():
    correct = two_recipes(30, 5)
    losses = losses_of(correct)

    def better(a: list[float], b: list[float]) -> str | None:
        return compare_pairs(correct, losses, {"a": a, "b": b}, resamples=2)["better"][0]

    assert better([0.98], [0.95, 0.951]) == "a", "one seed: the photos decide alone"
    assert better([0.98, 0.981, 0.979], [0.95, 0.951, 0.949]) == "a"
    assert better([0.98, 0.98], [0.95, 0.95]) == "a", "training is deterministic"
    assert better([0.98, 0.95, 0.96], [0.955, 0.975, 0.96]) is None, "another seed would reverse it"
    assert better([0.95, 0.951, 0.949], [0.98, 0.981, 0.979]) is None, (
        "photos and seeds contradict each other"
    )


def test_bootstrap_agrees_with_scipy():
    rng = np.random.default_rng(1)
    correct = {"a": rng.random(400) < 0.9, "b": rng.random(400) < 0.8}
    losses = {name: rng.gamma(2.0, 0.2, 400) for name in correct}
    pair = compare_pairs(correct, losses, resamples=10_000).iloc[0]
    for values, columns in ((correct, ["low", "high"]), (losses, ["loss_low", "loss_high"])):
        difference = values["a"].astype(float) - values["b"]
        interval = bootstrap(
            (difference,), np.mean, method="percentile", n_resamples=10_000, rng=2
        ).confidence_interval
        assert pair[columns].tolist() == pytest.approx(
            list(interval), abs=0.06 * (interval.high - interval.low)
        )


def test_bootstrap_is_repeatable():
    correct = two_recipes(9, 7)
    first, again, other = (
        compare_pairs(correct, losses_of(correct), seed=seed) for seed in (3, 3, 4)
    )
    pd.testing.assert_frame_equal(first, again)
    assert not first[["loss_low"]].equals(other[["loss_low"]])


def test_forty_recipes_take_seconds():
    rng = np.random.default_rng(0)
    correct = {f"r{i}": rng.random(PHOTOS) < 0.97 for i in range(40)}
    seeds = {name: rng.normal(0.97, 0.003, 3) for name in correct}
    start = time.perf_counter()
    pairs = compare_pairs(correct, losses_of(correct), seeds)
    groups = tie_groups(correct, pairs, dict.fromkeys(correct, 1.0))
    assert verdict(pairs, groups, PHOTOS)
    assert len(pairs) == 780
    assert time.perf_counter() - start < 5


def test_tie_groups_put_the_cheapest_first():
    correct = np.ones((5, 300), dtype=bool)
    correct[1, :1] = correct[2, 1:3] = False
    correct[3, 100:130] = correct[4, 130:161] = False
    hits = {f"r{i}": row for i, row in enumerate(correct)}
    groups = tie_groups(
        hits, compare(correct), {"r0": 9.0, "r1": 3.0, "r2": 5.0, "r3": 2.0, "r4": 1.0}
    )
    assert groups["recipe"].tolist() == ["r1", "r2", "r0", "r4", "r3"]
    assert groups["group"].tolist() == [1, 1, 1, 2, 2]
    assert groups["accuracy"][0] == 299 / 300
    assert groups["cost"][0] == 3.0


def test_ties_are_not_transitive():
    """r2 beats r1, yet both are tied with the leader r0, whose mistakes overlap with neither's."""
    pairs = pd.DataFrame(
        {"a": ["r0", "r0", "r1"], "b": ["r1", "r2", "r2"], "better": [None, None, "r2"]},
        dtype=object,
    )
    correct = {"r0": np.arange(100) > 1, "r1": np.arange(100) > 9, "r2": np.arange(100) > 2}
    assert tie_groups(correct, pairs, dict.fromkeys(correct, 1))["group"].tolist() == [1, 1, 1]


def test_tie_groups_need_a_cost_for_every_recipe():
    correct = two_recipes(3, 3)
    pairs = compare_pairs(correct, losses_of(correct), resamples=2)
    assert tie_groups(correct, pairs, {"a": np.inf, "b": 1.0})["recipe"].tolist() == ["b", "a"]
    for cost in ({"a": 1.0}, {"a": 1.0, "b": np.nan}):
        with pytest.raises(ValueError, match="no cost for b"):
            tie_groups(correct, pairs, cost)


def test_representative_is_the_median_seed():
    assert representative({0: 0.3, 1: 0.1, 2: 0.2}) == 2
    assert representative({7: 0.5}) == 7
    assert representative({0: 0.4, 1: 0.1, 2: 0.3, 3: 0.2}) == 3, "lower median"
    assert representative({0: float("nan"), 1: 0.1, 2: 0.2}) == 2, (
        "a diverged run counts as the worst"
    )
    for losses in ({}, {0: float("nan"), 1: 0.1, 2: float("inf")}):
        with pytest.raises(ValueError, match="most of them finite"):
            representative(losses)


def test_seed_summary():
    table = seed_summary({"a": [0.9, 0.92, 0.94], "b": [0.8]})
    assert table.loc["a"].tolist() == pytest.approx([0.92, 0.02, 3])
    assert table.loc["b", "mean"] == 0.8
    assert np.isnan(table.loc["b", "sd"])
    assert table["n"].tolist() == [3, 1]


def sentence(correct: dict[str, np.ndarray]) -> str:
    pairs = compare_pairs(correct, losses_of(correct))
    return verdict(
        pairs, tie_groups(correct, pairs, {name: i for i, name in enumerate(correct)}), PHOTOS
    )


def test_verdict_of_a_winner():
    correct = two_recipes(15, 4)
    for order in (correct, dict(reversed(correct.items()))):
        assert re.fullmatch(
            r"a beats b by 1\.1 points \(0\.[23] to (1\.9|2\.0), p = 0\.019\)", sentence(order)
        )
    assert "p < 0.001" in sentence(two_recipes(60, 4))


def test_verdict_of_ties():
    """7 : 0 passes three pairs' Holm (2 / 2^7 < 0.05 / 3); 7 or more of 1,000 come in 80 % of cases at 0.9 %."""
    correct = {name: np.arange(PHOTOS) != i for i, name in enumerate("ABC")}
    tied = sentence(correct)
    assert binom.sf(6, PHOTOS, 0.009) == pytest.approx(0.8, abs=0.01)
    assert tied.startswith(
        "the test photos cannot tell A, B and C apart; differences under 0.9 points "
    )
    assert tied.endswith("with 1,000 photos")
    beaten = {name: np.arange(PHOTOS) % 20 != shift for name, shift in (("D", 3), ("E", 4))}
    assert sentence(correct | beaten).startswith("A beats D by ")
    assert sentence(correct | beaten).endswith(
        ", and 1 more; the test photos cannot tell it from B and C"
    )
    many = {f"r{i}": np.arange(PHOTOS) != i for i in range(9)}
    assert sentence(many).startswith("the test photos cannot tell r0, r1, r2 and 6 others apart")


def test_verdict_when_nothing_can_be_told():
    only = {"a": np.ones(10, dtype=bool)}
    pairs = compare_pairs(only, losses_of(only))
    assert pairs.empty
    assert "only recipe" in verdict(pairs, tie_groups(only, pairs, {"a": 1}), 10)
    few = two_recipes(2, 1, photos=5)
    pairs = compare_pairs(few, losses_of(few))
    assert verdict(pairs, tie_groups(few, pairs, {"a": 1, "b": 1}), 5).endswith(
        "too few to detect any difference"
    )


def test_arrays_from_metrics_fit():
    probabilities = np.array([[0.9, 0.1], [0.4, 0.6], [0.2, 0.8]])
    tables = {
        "a": per_photo(probabilities, np.array([0, 0, 1])),
        "b": per_photo(1 - probabilities, np.array([0, 0, 1])),
    }
    correct = {name: table["correct"] for name, table in tables.items()}
    pair = compare_pairs(correct, {name: table["loss"] for name, table in tables.items()}).iloc[0]
    assert (pair["only_a"], pair["only_b"]) == (2, 1)
    assert pair["loss_difference"] < 0


GOOD = np.array([True, False, True])


@pytest.mark.parametrize(
    ("correct", "losses", "seeds", "message"),
    [
        ({}, {}, None, "at least one"),
        ({"a": GOOD}, {"b": np.ones(3)}, None, "the same names"),
        ({"a": GOOD}, {"a": np.ones(3)}, {"b": [0.5]}, "the same names"),
        ({"a": GOOD, "b": GOOD[:2]}, {"a": np.ones(3), "b": np.ones(2)}, None, "same photos"),
        ({"a": GOOD}, {"a": np.ones(2)}, None, "same photos"),
        ({"a": GOOD[:0]}, {"a": np.ones(0)}, None, "n at least 1"),
        ({"a": GOOD[None]}, {"a": np.ones((1, 3))}, None, r"\(n,\) for all"),
        ({"a": GOOD.astype(int)}, {"a": np.ones(3)}, None, "correct is int64"),
        ({"a": GOOD}, {"a": np.array([0.1, np.inf, np.nan])}, None, "2 losses are not finite"),
    ],
)
def test_what_does_not_fit_is_refused(correct, losses, seeds, message):
    with pytest.raises(ValueError, match=message):
        compare_pairs(correct, losses, seeds)
