"""The corrected resampled t-test: its figures by another way, and its level in a simulation."""

import numpy as np
import pytest
from scipy import stats

from finetune.evaluation.folds import compare_folds, resampled_t, with_folds


def test_without_its_correction_it_is_the_ordinary_t_test():
    """Dividing by a variance that is larger by (1/n + 1/(k-2)) n shrinks t by its root."""
    values = np.array([0.02, -0.01, 0.05, 0.03, 0.00, 0.04, 0.01, 0.02, -0.02, 0.06])
    plain = stats.ttest_1samp(values, 0.0)
    t = plain.statistic / np.sqrt(1 + 10 / 3)
    found = resampled_t(values, folds=5)
    assert found["p"] == pytest.approx(2 * stats.t(9).sf(t))
    low, high = plain.confidence_interval()
    stretched = (high - low) / 2 * np.sqrt(1 + 10 / 3)
    assert found["high"] - found["mean"] == pytest.approx(stretched)
    assert found["low"] == pytest.approx(0.02 - stretched)


def test_values_computed_by_hand():
    """Mean 0.02, variance 0.0001; (1/3 + 1/1) * 0.0001 has the root 0.011547; t = 1.7321."""
    found = resampled_t(np.array([0.01, 0.02, 0.03]), folds=3)
    assert found["mean"] == pytest.approx(0.02)
    assert found["p"] == pytest.approx(0.22540, abs=1e-5)
    assert resampled_t(np.zeros(5), folds=5)["p"] == 1.0
    assert resampled_t(np.full(5, 0.25), folds=5)["p"] == 1.0, "no variance is no certainty"


def accuracies(rng, folds: int = 5, n: int = 100) -> tuple[np.ndarray, np.ndarray]:
    """Two recipes of equal worth: nearest class mean on one of two halves of alike features."""
    labels = rng.permutation(np.arange(n) % 2)
    features = rng.normal(size=(n, 8)) + 0.5 * labels[:, None]
    found = []
    for half in (features[:, :4], features[:, 4:]):
        hits = []
        for fold in range(folds):
            tested = np.arange(n) % folds == fold
            trained = ~tested & (np.arange(n) % folds != (fold + 1) % folds)
            means = [half[trained & (labels == label)].mean(axis=0) for label in (0, 1)]
            distances = [((half[tested] - mean) ** 2).sum(axis=1) for mean in means]
            hits.append(((distances[1] < distances[0]) == labels[tested]).mean())
        found.append(np.array(hits))
    return found[0], found[1]


def test_its_level_holds_where_recipes_are_equal():
    rng = np.random.default_rng(0)
    worlds = [np.subtract(*accuracies(rng)) for _ in range(600)]
    p = np.array([resampled_t(values, folds=5)["p"] for values in worlds])
    plain = [stats.ttest_1samp(values, 0.0).pvalue for values in worlds if np.var(values)]
    assert (p <= 0.05).mean() <= 0.05
    assert np.mean(np.array(plain) <= 0.05) > (p <= 0.05).mean()


def test_recipes_are_compared_with_the_best_for_all_pairs():
    rng = np.random.default_rng(1)
    base = rng.normal(0.8, 0.02, 10)
    values = {"a": base, "b": base + rng.normal(0.1, 0.01, 10), "c": base + 0.001}
    found = compare_folds(values, folds=5)
    assert {row["best"] for row in found.values()} == {"b"}
    assert found["b"]["p"] == 1.0
    assert found["b"]["difference"] == 0.0
    own = resampled_t(values["a"] - values["b"], 5)
    assert found["a"]["p"] == pytest.approx(3 * own["p"])
    reach = (own["high"] - own["low"]) / 2 * stats.t(9).isf(0.025 / 3) / stats.t(9).isf(0.025)
    low, high = found["a"]["difference_interval"]
    assert (low, high) == pytest.approx((own["mean"] - reach, own["mean"] + reach))


def test_interval_and_p_agree_whatever_the_number_of_pairs():
    rng = np.random.default_rng(2)
    for recipes in (2, 4, 8):
        values = {str(i): rng.normal(0.8 + 0.01 * i, 0.01, 5) for i in range(recipes)}
        for row in compare_folds(values, folds=5).values():
            low, high = row["difference_interval"]
            assert (low > 0 or high < 0) == (row["p"] < 0.05)


def test_folds_that_all_differ_alike_are_no_certainty():
    """0.95 - 0.90 and 0.90 - 0.85 differ in their last bit."""
    first = np.array([0.95, 0.90, 1.0, 0.85, 0.95])
    found = compare_folds({"a": first, "b": first - 0.05}, folds=5)["b"]
    assert found["difference"] == pytest.approx(-0.05)
    assert (found["difference_interval"], found["p"]) == ([-1.0, 1.0], 1.0)
    assert compare_folds({"a": first}, folds=5)["a"]["difference_interval"] == [0, 0]


def test_recipes_that_are_not_ranked_are_not_compared_with():
    def row(name, values):
        return {
            "split": "s",
            "recipe": name,
            "folds": {"folds": 3, "repeats": 1, "per_fold": values},
        }

    rows = [row("a", [0.8, 0.9, 0.7]), row("b", [0.7, 0.7, 0.7]), row("left-out", [1.0, 1.0, 0.9])]
    ranking = [{"split": "s", "recipe": name} for name in "ab"]
    found = with_folds(ranking, rows)
    assert {entry["folds"]["best"] for entry in found} == {"a"}
