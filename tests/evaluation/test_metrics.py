"""Known values, calibration of models whose calibration is known, and what is refused."""

import json

import numpy as np
import pytest
from scipy.special import softmax

from finetune.evaluation.intervals import interval, mcnemar, wilson
from finetune.evaluation.metrics import (
    apply_temperature,
    confusion,
    ece_null,
    expected_calibration_error,
    fit_temperature,
    measure,
    per_class,
    per_photo,
    reliability_curve,
    summarize,
    top_confusions,
)

PROBABILITIES = np.array([[0.9, 0.1], [0.4, 0.6], [0.2, 0.8], [0.3, 0.7]])
LABELS = np.array([0, 0, 1, 1])


def calibrated(n: int, classes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Labels drawn from the very probabilities that the model states."""
    rng = np.random.default_rng(seed)
    probabilities = softmax(rng.normal(0, 2, (n, classes)), axis=1)
    return probabilities, (rng.random((n, 1)) > probabilities.cumsum(axis=1)[:, :-1]).sum(axis=1)


def test_summary_of_four_photos():
    summary = summarize(PROBABILITIES, LABELS)
    assert summary["n"] == 4
    assert summary["accuracy"] == 0.75
    assert summary["loss"] == pytest.approx(-np.log([0.9, 0.4, 0.8, 0.7]).mean())
    assert summary["balanced_accuracy"] == 0.75
    assert summary["macro_f1"] == pytest.approx((2 / 3 + 0.8) / 2)
    assert summary["auc"] == 1.0
    assert summary["ece"] == pytest.approx((0.1 + 0.6 + 0.2 + 0.3) / 4)
    assert json.loads(json.dumps(summary)) == summary


def test_wilson_interval_of_a_published_example():
    """81 of 263: 0.2553 to 0.3662 (Newcombe 1998, Statistics in Medicine 17:857, table I, method
    3).
    """
    labels = np.zeros(263, dtype=int)
    probabilities = np.where(np.arange(263)[:, None] < 81, [1.0, 0.0], [0.0, 1.0])
    assert summarize(probabilities, labels)["accuracy_interval"] == pytest.approx(
        [0.2553, 0.3662], abs=5e-5
    )


@pytest.mark.parametrize(("size", "accuracy"), [(2, 0.9), (5, 0.9), (5, 0.97), (10, 0.9)])
def test_intervals_of_grouped_photos_hold_the_truth_95_times_in_100(size, accuracy):
    """1,000 photos whose groups are all right or all wrong; taken as independent: in 84 to 28 %."""
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(1000 // size), size)
    drawn = [rng.random(1000 // size)[groups] < accuracy for _ in range(1000)]
    bounds = np.array([interval(correct, groups) for correct in drawn])
    held = np.mean((bounds[:, 0] <= accuracy) & (accuracy <= bounds[:, 1]))
    assert 0.93 <= held <= 0.975


@pytest.mark.parametrize(("groups", "size"), [(3, 200), (5, 200), (8, 100), (20, 50)])
def test_few_groups_of_many_photos_have_an_interval_that_holds(groups, size):
    """Accuracies of groups are drawn around 90 %; without Student's t in 80 to 92 of 100."""
    rng = np.random.default_rng(0)
    names = np.repeat(np.arange(groups), size)
    drawn = [rng.random(len(names)) < rng.beta(18, 2, groups)[names] for _ in range(600)]
    bounds = np.array([interval(correct, names) for correct in drawn])
    assert 0.93 <= np.mean((bounds[:, 0] <= 0.9) & (bounds[:, 1] >= 0.9)) <= 0.98


def test_an_interval_of_groups_is_never_narrower_and_of_alone_photos_wilson_s():
    correct = np.arange(40) >= 4
    assert interval(correct) == interval(correct, np.arange(40)) == wilson(36, 40)
    low, high = interval(correct, np.arange(40) // 4)
    assert low < wilson(36, 40)[0] < wilson(36, 40)[1] < high
    assert interval(np.ones(40, bool), np.arange(40) // 4) == wilson(10, 10)


def test_certain_and_wrong_costs_a_finite_loss():
    assert summarize(np.array([[0.0, 1.0]]), np.array([0]))["loss"] == pytest.approx(-np.log(1e-7))


def test_auc_needs_every_class():
    probabilities, labels = calibrated(300, 3)
    assert 0.5 < summarize(probabilities, labels)["auc"] <= 1
    some = labels < 2
    summary = summarize(probabilities[some], labels[some])
    assert summary["auc"] is None
    assert 0 < summary["balanced_accuracy"] < 1


def test_float32_softmax_is_accepted():
    probabilities, labels = calibrated(500, 10)
    single = summarize(probabilities.astype(np.float32), labels)
    assert single["loss"] == pytest.approx(summarize(probabilities, labels)["loss"], rel=1e-5)


@pytest.mark.parametrize("classes", [2, 5])
def test_a_calibrated_model_has_no_calibration_error(classes):
    probabilities, labels = calibrated(50_000, classes)
    assert expected_calibration_error(probabilities, labels) < 0.01
    assert expected_calibration_error(apply_temperature(probabilities, 0.3), labels) > 0.1


def test_calibration_error_weighs_bins_by_photos():
    """Three photos at 0.9, all right: off by 0.1. One at 0.6, wrong: off by 0.6."""
    probabilities = np.array([[0.9, 0.1]] * 3 + [[0.6, 0.4]])
    assert expected_calibration_error(probabilities, np.array([0, 0, 0, 1])) == pytest.approx(
        (3 * 0.1 + 0.6) / 4
    )


def test_reliability_curve_counts_every_photo_once():
    probabilities, labels = calibrated(2000, 2)
    probabilities[0] = [1.0, 0.0]
    curve = reliability_curve(probabilities, labels, bins=10)
    assert list(curve.columns) == ["confidence", "accuracy", "n"]
    assert curve["n"].sum() == 2000
    assert len(curve) == 5, "two classes: the top label has at least one half"
    assert curve["confidence"].is_monotonic_increasing
    assert curve["confidence"].between([0.5, 0.6, 0.7, 0.8, 0.9], [0.6, 0.7, 0.8, 0.9, 1.0]).all()


@pytest.mark.parametrize("temperature", [0.4, 1.0, 3.0])
def test_temperature_is_recovered(temperature):
    """Sharpened or softened by a known factor, a calibrated model asks for that factor back."""
    probabilities, labels = calibrated(20_000, 3)
    distorted = apply_temperature(probabilities, 1 / temperature)
    assert fit_temperature(distorted, labels) == pytest.approx(temperature, rel=0.05)


def test_temperature_lowers_the_loss_and_keeps_the_ranking():
    probabilities, labels = calibrated(1000, 4)
    overconfident = apply_temperature(probabilities, 0.3)
    cooled = apply_temperature(overconfident, fit_temperature(overconfident, labels))
    assert summarize(cooled, labels)["loss"] < summarize(overconfident, labels)["loss"]
    assert (cooled.argmax(axis=1) == overconfident.argmax(axis=1)).all()
    np.testing.assert_allclose(cooled.sum(axis=1), 1)
    with pytest.raises(ValueError, match="allowed: above 0"):
        apply_temperature(probabilities, 0)


def test_a_temperature_is_fitted_only_where_it_helps():
    """A perfect validation split has no best temperature, and a small calibrated one only noise to
    fit.
    """
    assert fit_temperature(np.array([[0.9, 0.1], [0.2, 0.8]]), np.array([0, 1])) == 1.0
    scaled = [fit_temperature(*calibrated(60, 2, seed)) != 1.0 for seed in range(20)]
    assert sum(scaled) < 10
    probabilities, labels = calibrated(200, 3)
    assert fit_temperature(apply_temperature(probabilities, 0.2), labels) > 3


def test_two_hundred_cats_and_twelve_dogs():
    """All called cat: 94 % accuracy, and the other figures say what that is worth."""
    labels = np.repeat([0, 1], [200, 12])
    summary = summarize(np.tile([0.9, 0.1], (212, 1)), labels)
    assert summary["accuracy"] == summary["majority_baseline"] == pytest.approx(200 / 212)
    assert summary["balanced_accuracy"] == 0.5
    assert summary["zero_recall"] == [1]
    assert summarize(PROBABILITIES, LABELS)["zero_recall"] == []


def test_calibration_error_of_calibrated_models_is_under_its_null_95_times_in_100():
    below = []
    for seed in range(100):
        probabilities, labels = calibrated(400, 3, seed)
        null = ece_null(probabilities.max(axis=1))
        below.append(expected_calibration_error(probabilities, labels) <= null)
    assert 0.89 <= np.mean(below) < 1
    assert ece_null(np.full(1000, 0.98)) < 0.013 < ece_null(np.full(1000, 0.7))
    probabilities, labels = calibrated(1000, 3)
    wrong = summarize(apply_temperature(probabilities, 0.3), labels)
    assert wrong["ece"] > 3 * wrong["ece_null"]


def test_mcnemar_of_published_examples():
    """Discordant pairs 9 and 2: 134 / 2048 by hand; none at all say nothing."""
    assert mcnemar(9, 2) == mcnemar(2, 9) == pytest.approx(134 / 2048)
    assert mcnemar(0, 0) == 1.0


def test_top_confusions_are_the_mistakes_by_number():
    matrix = np.array([[9, 1, 0], [3, 9, 0], [0, 0, 9]])
    assert top_confusions(matrix, ["a", "b", "c"]) == [
        {"true": "b", "predicted": "a", "photos": 3},
        {"true": "a", "predicted": "b", "photos": 1},
    ]
    measured = measure(PROBABILITIES, LABELS, ["cats", "dogs"])
    assert measured["top_confusions"] == [{"true": "cats", "predicted": "dogs", "photos": 1}]
    assert json.loads(json.dumps(measured)) == measured


def test_tables_by_class():
    table = per_class(PROBABILITIES, LABELS, ["cats", "dogs"]).set_index("class")
    assert table.loc["cats"].tolist() == pytest.approx([1.0, 0.5, 2 / 3, 2])
    assert table.loc["dogs"].tolist() == pytest.approx([2 / 3, 1.0, 0.8, 2])
    assert confusion(PROBABILITIES, LABELS).tolist() == [[1, 1], [0, 2]]


def test_a_class_without_photos_keeps_its_row():
    probabilities = np.array([[0.8, 0.1, 0.1], [0.1, 0.8, 0.1]])
    assert per_class(probabilities, np.array([0, 1]), ["a", "b", "c"])["n"].tolist() == [1, 1, 0]
    assert confusion(probabilities, np.array([0, 1])).shape == (3, 3)


def test_per_photo():
    photos = per_photo(PROBABILITIES, LABELS)
    assert photos["correct"].tolist() == [True, False, True, True]
    assert photos["predicted"].tolist() == [0, 1, 1, 1]
    assert photos["confidence"].tolist() == [0.9, 0.6, 0.8, 0.7]
    np.testing.assert_allclose(photos["loss"], -np.log([0.9, 0.4, 0.8, 0.7]))


@pytest.mark.parametrize(
    ("probabilities", "labels", "message"),
    [
        (PROBABILITIES, LABELS[:3], "same photos"),
        (PROBABILITIES[:0], LABELS[:0], "at least one photo"),
        (PROBABILITIES[:, 0], LABELS, r"\(n, classes\)"),
        (PROBABILITIES[:, :1], LABELS, "two classes"),
        (PROBABILITIES, np.array([0, 1, 2, 1]), "from 0 to 2; allowed: integers from 0 to 1"),
        (PROBABILITIES, np.array([0, -1, 1, 1]), "from -1"),
        (PROBABILITIES, LABELS.astype(float), "float64"),
        (np.array([[3.0, -2.0]]), np.array([0]), "not logits"),
        (PROBABILITIES * 2, LABELS, "rows sum to 2"),
        (np.array([[np.nan, 1.0]]), np.array([0]), "nan"),
    ],
)
def test_what_does_not_fit_is_refused(probabilities, labels, message):
    with pytest.raises(ValueError, match=message):
        summarize(probabilities, labels)


def test_class_names_must_match_the_columns():
    with pytest.raises(ValueError, match="3 class names for 2 columns"):
        per_class(PROBABILITIES, LABELS, ["a", "b", "c"])
