"""Focal loss, balanced sampling, and a head on several cuts."""

import keras
import numpy as np
import pytest

from finetune.training.batches import Batches, balanced_order, read_views, repeats
from finetune.training.fit import Settings
from finetune.training.joined_head import fit_joined
from finetune.training.linear_head import fit_linear
from finetune.training.losses import focal, loss_of
from finetune.training.range_test import range_test

SEEDS = np.random.default_rng


def test_focal_loss_is_cross_entropy_that_counts_learned_photos_less():
    probabilities = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]], np.float32)
    of_class = np.array([0.9, 0.8, 0.4])
    for labels in (np.array([0, 1, 1]), np.array([[0], [1], [1]]), np.eye(2)[[0, 1, 1]]):
        found = np.asarray(focal(labels, probabilities))
        np.testing.assert_allclose(found, -((1 - of_class) ** 2) * np.log(of_class), rtol=1e-4)
    assert loss_of("focal") is focal


def test_balanced_order_shows_every_class_equally_often_and_rare_photos_all():
    labels = np.array([0] * 20 + [1] * 5 + [2] * 5)
    order = balanced_order(labels, SEEDS(0))
    assert np.bincount(labels[order]).tolist() == [10, 10, 10]
    assert np.bincount(order, minlength=30)[20:].tolist() == [2] * 10
    assert np.bincount(order, minlength=30)[:20].max() == 1
    epochs = {tuple(balanced_order(labels, SEEDS([0, epoch]))) for epoch in range(3)}
    assert len(epochs) == 3
    uneven = balanced_order(np.array([0] * 7 + [1] * 3 + [2]), SEEDS(0))
    assert len(uneven) == 11


def test_balanced_batches_repeat_with_seed_and_epoch():
    labels = np.array([0] * 20 + [1] * 4)
    rows = np.arange(24.0)[:, None]

    def drawn(seed: int) -> list[int]:
        def read(batches, epoch):
            return (rows[indices] for indices in batches)

        batches = Batches(read, labels, 8, seed, balanced=True)
        return [int(x) for batch in range(3) for x in batches[batch][0][:, 0]]

    assert drawn(1) == drawn(1) != drawn(2)
    assert np.bincount(labels[drawn(1)]).tolist() == [12, 12]


def test_a_photo_that_comes_again_in_an_epoch_shows_another_view():
    labels = np.array([0] * 20 + [1] * 4)
    views = [np.arange(24.0)[:, None] + 100 * view for view in range(3)]
    batches = Batches(read_views(views), labels, 8, 0, balanced=True)
    shown = [int(x) for batch in range(3) for x in batches[batch][0][:, 0]]
    rare = [divmod(value, 100) for value in shown if value % 100 >= 20]
    assert len(rare) == 12
    assert len(set(rare)) == 12, "four photos, three times each, in three views"
    assert [times.tolist() for times in repeats([np.array([4, 4]), np.array([2, 4])])] == [
        [0, 1],
        [0, 2],
    ]


@pytest.fixture(scope="module")
def cuts() -> dict[str, np.ndarray]:
    """Two cuts: the lower one is noise, at ten times the scale; the upper one knows the class."""
    draw = SEEDS(0)
    labels = draw.integers(0, 3, 120)
    upper = draw.normal(size=(120, 6)) + 2 * np.eye(6)[labels]
    lower = draw.normal(scale=10, size=(120, 40))
    return {"labels": labels, "features": np.hstack([lower, upper]).astype(np.float32)}


def test_a_cut_that_does_not_help_is_turned_down(cuts):
    features, labels = cuts["features"], cuts["labels"]
    split = (features[:70], labels[:70], features[70:], labels[70:])
    joined = fit_joined(*split, widths=[40, 6])
    assert joined.factors == (0.0, 1.0)
    assert not joined.kernel[:40].any()
    upper = fit_linear(split[0][:, 40:], split[1], split[2][:, 40:], split[3])
    assert joined.validation_loss == pytest.approx(upper.validation_loss, abs=0.01)
    raw = joined.probabilities(features[70:])
    likely = raw[np.arange(50), labels[70:]]
    assert -np.log(likely).mean() == pytest.approx(joined.validation_loss, abs=1e-4)


@pytest.mark.parametrize(("balanced", "rare"), [(True, 0.5), (False, 1 / 8)])
def test_the_range_test_shows_photos_as_training_would(balanced, rare):
    labels = np.array([0] * 14 + [1] * 2)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, "softmax")])
    shown = []

    def read(batches, epoch):
        for indices in batches:
            shown.extend(labels[indices])
            yield np.zeros((len(indices), 3), np.float32)

    settings = Settings(epochs=1, patience=1, batch_size=8, learning_rate=1e-3)
    range_test(model, read, labels, settings, balanced=balanced, steps=4)
    assert np.mean(shown) == rare
