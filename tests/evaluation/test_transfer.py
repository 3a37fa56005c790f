"""Scores, probes, curve and suspects against values that are computed in another way."""

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.stats import multivariate_normal

from finetune.evaluation.transfer import (
    folds,
    h_score,
    label_suspects,
    learning_curve,
    linear_probe,
    log_me,
    neighbours_correct,
    outliers,
    reduced,
)


def blobs(n: int = 120, d: int = 6, classes: int = 3, apart: float = 1.5, seed: int = 0):
    generator = np.random.default_rng(seed)
    labels = np.arange(n) % classes
    centres = generator.normal(size=(classes, d)) * apart
    return (centres[labels] + generator.normal(size=(n, d))).astype(np.float32), labels


@pytest.mark.parametrize("shape", [(60, 5), (30, 50)])
def test_log_me_is_the_largest_evidence_of_a_gaussian(shape):
    """y ~ N(0, I / beta + F F' / alpha), its two precisions found by a general optimiser."""
    features, labels = blobs(*shape)
    wide = features.astype(np.float64)

    def evidence(logs, y):
        covariance = np.eye(len(y)) / np.exp(logs[1]) + wide @ wide.T / np.exp(logs[0])
        return -multivariate_normal(np.zeros(len(y)), covariance).logpdf(y) / len(y)

    bounds = [(-5, 12)] * 2
    starts = [(0, 2), (6, 4)]
    found = [
        max(-minimize(evidence, s, (1.0 * (labels == c),), bounds=bounds).fun for s in starts)
        for c in range(3)
    ]
    assert log_me(features, labels) == pytest.approx(np.mean(found), abs=2e-3)


def test_h_score_is_the_trace_of_whitened_variance_between_classes():
    features, labels = blobs()
    means = np.array([features[labels == c].mean(axis=0) for c in labels])
    expected = np.trace(np.linalg.pinv(np.cov(features.T)) @ np.cov(means.T))
    assert h_score(features, labels, shrinkage=0.0) == pytest.approx(expected, rel=1e-5)
    assert 0 < h_score(features, labels) < expected < 2


def test_scores_rank_features_by_what_they_know():
    by_apart = [blobs(apart=apart) for apart in (0.0, 0.5, 1.0, 3.0)]
    for score in (log_me, h_score):
        found = [score(*pair) for pair in by_apart]
        assert found == sorted(found), score
    noise = np.random.default_rng(1).normal(size=(40, 200)).astype(np.float32)
    assert h_score(noise, np.arange(40) % 2) < 0.5, (
        "more features than photos, and no class in them"
    )


def test_folds_keep_groups_together_and_hold_out_each_photo_once():
    features, labels = blobs()
    groups = np.arange(120) // 6
    parts = folds(labels, groups)
    held = np.concatenate([test for _, test in parts.pairs])
    assert sorted(held) == list(range(120))
    for fitted, test in parts.pairs:
        assert not set(groups[fitted]) & set(groups[test])
    probe = linear_probe(reduced(features), labels, parts)
    np.testing.assert_allclose(probe.probabilities.sum(axis=1), 1, atol=1e-6)


def test_probes_are_near_chance_on_noise_and_right_where_classes_are_apart():
    for apart, low, high in ((0.0, 0.15, 0.5), (4.0, 0.98, 1.0)):
        features, labels = blobs(300, apart=apart)
        parts = folds(labels, np.arange(300))
        assert low <= linear_probe(reduced(features), labels, parts).correct.mean() <= high
        assert low <= neighbours_correct(features, labels, parts).mean() <= high


def test_the_learning_curve_rises_and_its_band_holds_what_twice_the_photos_give():
    features, labels = blobs(2000, d=40, classes=2, apart=0.25, seed=3)
    whole = reduced(features)
    half = np.arange(0, 1000)
    curve = learning_curve(whole[half], labels[half], folds(labels[half], half), 0.1, half)
    assert [point.photos for point in curve] == [50, 100, 200, 400, 800, 1600]
    assert [point.extrapolated for point in curve] == [False] * 5 + [True]
    assert curve[0].accuracy < curve[4].accuracy <= curve[5].accuracy
    each = np.arange(2000)
    more = learning_curve(whole, labels, folds(labels, each), 0.1, each)[4]
    assert more.photos == 1600
    assert curve[5].interval[0] - 0.02 <= more.accuracy <= curve[5].interval[1] + 0.02


@pytest.mark.parametrize("rare", [6, 9])
def test_a_learning_curve_of_a_rare_class_begins_where_there_are_two_classes(rare):
    features, labels = blobs(300 + rare, d=8, classes=2, apart=2.0)
    labels = (np.arange(300 + rare) >= 300).astype(int)
    each = np.arange(300 + rare)
    curve = learning_curve(reduced(features), labels, folds(labels, each), 0.1, each)
    assert curve[-1].extrapolated
    assert curve[0].photos >= 300 // (2 * rare)


def test_photos_of_one_group_widen_the_band_of_the_learning_curve():
    """Ten copies of each photo tell no more than one."""
    features, labels = blobs(100, classes=2, apart=0.25, seed=3)
    groups = np.arange(100)
    copied = [np.repeat(each, 10, axis=0) for each in (reduced(features), labels, groups)]
    parts = folds(copied[1], copied[2])
    point = learning_curve(*copied[:2], parts, 0.1, copied[2])[-2]
    alone = learning_curve(*copied[:2], parts, 0.1, np.arange(1000))[-2]
    assert np.diff(point.interval) > 2 * np.diff(alone.interval)


def test_exchanged_labels_and_a_strange_photo_are_found():
    features, labels = blobs(300, apart=4.0)
    wrong = labels.copy()
    wrong[:9] = (labels[:9] + 1) % 3
    probe = linear_probe(reduced(features), wrong, folds(wrong, np.arange(300)))
    found = label_suspects(probe.probabilities, wrong)
    assert {suspect.row for suspect in found} <= set(range(9))
    assert len(found) >= 8
    assert all(suspect.looks_like == labels[suspect.row] for suspect in found)
    features[17] = -20 * features.mean(axis=0)
    assert next(outliers(features))[0] == 17


def test_features_of_any_scale_are_reduced_to_the_same():
    features, labels = blobs()
    parts = folds(labels, np.arange(120))
    found = [
        linear_probe(reduced(features * np.float32(scale)), labels, parts).correct.mean()
        for scale in (1.0, 1e-12, 1e12)
    ]
    assert found[0] == found[1] == found[2] > 0.6
    for score in (log_me, h_score):
        assert score(features * np.float32(1e-12), labels) == pytest.approx(score(features, labels))
    nothing = np.zeros((120, 3), np.float32)
    assert not reduced(nothing).any()
    assert h_score(nothing, labels) == 0
    assert log_me(nothing, labels) < log_me(features, labels)
