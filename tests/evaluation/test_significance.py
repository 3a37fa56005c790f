"""One test over photos and seeds: known values, and a sample of the simulation in
docs/honesty.md.
"""

import time

import numpy as np
import pytest
from scipy.stats import binomtest, norm

from benchmarks.honesty import PHOTOS, judged, pair_weights, simulate, two_locks
from finetune.evaluation.metrics import per_photo
from finetune.evaluation.pairs import compare_pairs
from finetune.evaluation.planning import ALPHA
from finetune.evaluation.significance import Design, cross

INDEPENDENT = Design()
MATRICES = 100
FIXED = frozenset(f"r{i}" for i in range(36))


def two_recipes(only_a: int, only_b: int, photos: int = PHOTOS) -> dict[str, np.ndarray]:
    """Both are right on all photos except those that are counted."""
    a = np.ones(photos, dtype=bool)
    b = np.ones(photos, dtype=bool)
    b[:only_a] = False
    a[only_a : only_a + only_b] = False
    return {"a": a, "b": b}


def losses_of(correct: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: np.where(hits, 0.1, 2.0) for name, hits in correct.items()}


def compared(correct: dict[str, np.ndarray], design: Design, resamples: int = 999):
    return compare_pairs(correct, losses_of(correct), design, resamples=resamples)


def above_five_percent(hits: int, trials: int) -> bool:
    """Whether a simulated share is more than 5 % beyond chance (one-sided 99 %)."""
    return binomtest(hits, trials, 0.05, alternative="greater").pvalue < 0.01


def false_claims(
    recipes: int,
    seeds: int,
    sd,
    design: Design = INDEPENDENT,
    group: int = 1,
    matrices: int = MATRICES,
) -> int:
    rng = np.random.default_rng([recipes, seeds, group])
    found = 0
    for number in range(matrices):
        matrix = simulate(rng, recipes, seeds, sd, group=group)
        found += bool((judged(matrix, design, number)["p"] <= ALPHA).any())
    return found


# Levels and power, a sample


@pytest.mark.parametrize(
    ("recipes", "seeds", "sd"), [(2, 3, 1.2), (6, 1, 0.3), (6, 2, 0.7), (12, 3, 1.2)]
)
def test_equal_recipes_are_called_better_in_one_matrix_of_twenty(recipes, seeds, sd):
    assert not above_five_percent(false_claims(recipes, seeds, sd), MATRICES)


def test_a_strategy_may_mix_recipes_that_scatter_and_that_do_not():
    assert not above_five_percent(false_claims(12, 3, [1.2] * 3 + [0.0] * 9), MATRICES)


def test_photos_in_groups_count_once():
    groups = np.arange(PHOTOS) // 5
    told = Design(fixed=FIXED, groups=groups)
    assert not above_five_percent(false_claims(6, 1, 0, told, group=5), MATRICES)
    untold = false_claims(6, 1, 0, Design(fixed=FIXED), group=5, matrices=60)
    assert above_five_percent(untold, 60), "without groups the simulation finds the error"


def test_the_former_rules_fail_the_same_simulation():
    rng = np.random.default_rng(0)
    wrong = sum(bool(two_locks(simulate(rng, 12, 3, 1.2)).any()) for _ in range(60))
    assert above_five_percent(wrong, 60)


def test_power_is_not_below_the_former_rules():
    rng = np.random.default_rng(1)
    now = 0.0
    before = 0.0
    for number in range(60):
        matrix = simulate(rng, 6, 3, 0.3, gap=2)
        now += (judged(matrix, seed=number)["p"][:5] <= ALPHA).mean() / 60
        before += two_locks(matrix)[:5].mean() / 60
    assert now > before + 0.05


def test_simultaneous_intervals_hold_all_at_once():
    rng = np.random.default_rng(2)
    truth = -0.02 * (np.arange(6) < 1) @ pair_weights(6)
    held = 0
    for number in range(MATRICES):
        pairs = judged(simulate(rng, 6, 3, 0.3, gap=2), seed=number)
        held += bool(((pairs["low"] <= truth) & (truth <= pairs["high"])).all())
    assert not above_five_percent(MATRICES - held, MATRICES)


def test_thirty_six_recipes_with_five_seeds_take_about_a_second():
    matrix = simulate(np.random.default_rng(0), 36, 5, 0.3)
    correct = {f"r{i}": rows for i, rows in enumerate(matrix)}
    start = time.process_time()
    pairs = compare_pairs(correct, losses_of(correct))
    assert len(pairs) == 630
    assert time.process_time() - start < 20, "0.3 s; forty times as much is another algorithm"


# Known values


@pytest.mark.parametrize(("only_a", "only_b"), [(15, 4), (8, 0), (9, 3), (30, 25), (5, 0), (3, 3)])
def test_two_fixed_recipes_get_mcnemar_s_exact_test(only_a, only_b):
    correct = two_recipes(only_a, only_b)
    pair = compared(correct, Design(fixed={"a", "b"}), resamples=19_999).iloc[0]
    exact = binomtest(only_b, only_a + only_b).pvalue
    assert pair["p"] == pytest.approx(exact, abs=4 * np.sqrt(exact * (1 - exact) / 20_000) + 1e-4)
    assert (pair["only_a"], pair["only_b"]) == (only_a, only_b)
    assert pair["difference"] == pytest.approx((only_a - only_b) / PHOTOS)
    assert pair["scope"] == "recipes"
    assert pair["better"] == ("a" if exact < 0.05 else None)


def test_one_run_of_a_random_recipe_is_a_model_and_its_seeds_are_assumed_to_vary():
    correct = two_recipes(15, 4)
    random = compared(correct, Design()).iloc[0]
    known = compared(correct, Design(assumed=0), resamples=19_999).iloc[0]
    assert known["p"] == pytest.approx(binomtest(4, 19).pvalue, abs=0.006)
    assert random["p"] > known["p"]
    assert random["high"] - random["low"] > known["high"] - known["low"]
    assert random["scope"] == known["scope"] == "models"


def test_better_interval_and_p_agree():
    rng = np.random.default_rng(0)
    for _ in range(20):
        matrix = simulate(rng, 6, 2, 0.3, gap=2)
        pairs = compared({f"r{i}": rows for i, rows in enumerate(matrix)}, Design())
        found = pairs["better"].notna()
        assert (found == (pairs["p"] <= ALPHA)).all()
        assert (found == ((pairs["low"] >= 0) | (pairs["high"] <= 0))).all()
        assert (pairs["low"][~found] < 0).all()
        assert (pairs["low"] <= pairs["difference"]).all()
        assert (pairs["difference"] <= pairs["high"]).all()


def test_seeds_enough_make_a_claim_about_recipes():
    matrix = simulate(np.random.default_rng(0), 4, 3, 0.3)
    correct = {f"r{i}": rows for i, rows in enumerate(matrix)}
    pairs = compared(correct, Design()).set_index(["a", "b"])
    assert set(pairs["scope"]) == {"recipes"}, "four recipes with three seeds: 8 degrees"
    kinds = {"r0": "full", "r1": "full"}
    pairs = compared(correct, Design(kinds=kinds)).set_index(["a", "b"])
    assert set(pairs["scope"]) == {"models"}, "4 degrees in either kind"
    pairs = compared(correct, Design(fixed={"r0", "r1"})).set_index(["a", "b"])
    assert pairs["scope"].to_dict()["r0", "r1"] == "recipes"
    assert pairs["scope"].to_dict()["r1", "r2"] == "models"


def test_seeds_that_scatter_widen_the_interval():
    calm = simulate(np.random.default_rng(0), 2, 3, 0)
    wild = calm.copy()
    wild[0, 0, :60] = False
    wild[1, 2, :60] = False
    widths = []
    for matrix in (calm, wild):
        pair = compared({"a": matrix[0], "b": matrix[1]}, Design()).iloc[0]
        widths.append(pair["high"] - pair["low"])
    assert widths[1] > 2 * widths[0]


def test_identical_recipes_count_once():
    """r2 is r1 once more: nothing changes for the others, and the two are said to be the same."""
    matrix = simulate(np.random.default_rng(3), 3, 1, 0, gap=2)
    matrix[2] = matrix[1]
    three = compared({f"r{i}": rows for i, rows in enumerate(matrix)}, Design(fixed=FIXED))
    two = compared({f"r{i}": rows for i, rows in enumerate(matrix[:2])}, Design(fixed=FIXED))
    assert three["same"].tolist() == [False, False, True]
    assert three["p"].tolist() == [two["p"][0], two["p"][0], 1.0]
    assert three["better"][2] is None
    assert three["difference"][2] == 0
    assert three["low"][2] < 0 < three["high"][2], "the same on these photos, not on all"


def test_many_pairs_are_adjusted_for():
    matrix = np.ones((5, 1, 200), dtype=bool)
    matrix[1, 0, :8] = False
    matrix[2, 0, 8:16] = False
    names = [f"r{i}" for i in range(5)]
    few = compared(dict(zip(names[:2], matrix[:2], strict=True)), Design(fixed=FIXED))
    many = compared(dict(zip(names, matrix, strict=True)), Design(fixed=FIXED))
    assert many["p"][0] > few["p"][0]
    assert (many["p"] == many["p_holm"]).all()


def test_losses_have_intervals_of_their_own():
    rng = np.random.default_rng(1)
    correct = {"a": rng.random(400) < 0.9, "b": rng.random(400) < 0.8}
    losses = {name: rng.gamma(2.0, 0.2, 400) for name in correct}
    pair = compare_pairs(correct, losses, Design(fixed=set(correct)), resamples=9_999).iloc[0]
    apart = losses["a"] - losses["b"]
    reach = norm.isf(0.025) * apart.std(ddof=1) / np.sqrt(400)
    assert pair["loss_difference"] == pytest.approx(apart.mean())
    assert pair["loss_high"] - pair["loss_difference"] == pytest.approx(reach, rel=0.05)


def test_contrasts_are_weighted_sums_of_the_means():
    matrix = simulate(np.random.default_rng(0), 4, 3, 0.3)
    crossed = cross({f"r{i}": rows for i, rows in enumerate(matrix)})
    weights = np.array([[0.5], [0.5], [-0.5], [-0.5]])
    found = crossed.contrasts(weights).iloc[0]
    mean = matrix.mean(axis=(1, 2))
    assert found["difference"] == pytest.approx((mean[:2] - mean[2:]).mean())
    assert found["low"] < found["difference"] < found["high"]


def test_draws_are_repeatable():
    correct = two_recipes(9, 7)
    first, again, other = (
        compare_pairs(correct, losses_of(correct), seed=seed) for seed in (3, 3, 4)
    )
    assert first.equals(again)
    assert first["p"][0] != other["p"][0]


def test_one_recipe_has_no_pairs():
    only = {"a": np.ones(10, dtype=bool)}
    assert compare_pairs(only, losses_of(only)).empty


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
    ("correct", "losses", "message"),
    [
        ({}, {}, "at least one"),
        ({"a": GOOD}, {"b": np.ones(3)}, "the same names"),
        ({"a": GOOD, "b": GOOD[:2]}, {"a": np.ones(3), "b": np.ones(2)}, "same photos"),
        ({"a": GOOD}, {"a": np.ones(2)}, "same photos"),
        ({"a": GOOD[:0]}, {"a": np.ones(0)}, "n at least 1"),
        ({"a": GOOD[None, None]}, {"a": np.ones((1, 1, 3))}, r"\(seeds, n\)"),
        ({"a": GOOD.astype(int)}, {"a": np.ones(3)}, "correct is int64"),
        ({"a": GOOD}, {"a": np.array([0.1, np.inf, np.nan])}, "2 losses are not finite"),
    ],
)
def test_what_does_not_fit_is_refused(correct, losses, message):
    with pytest.raises(ValueError, match=message):
        compare_pairs(correct, losses)
