"""Methods of training: rates and anchors of single variables, schedules, averages, mixed labels."""

import keras
import numpy as np
import pytest

from finetune.training.batches import Batches, read_views
from finetune.training.fit import Settings, fit
from finetune.training.mixing import Mix, one_hot
from finetune.training.optimizers import EMA_MOMENTUM, Schedule

RNG = np.random.default_rng(0)
X = RNG.normal(size=(24, 4, 4, 3)).astype(np.float16)
Y = (X.mean(axis=(1, 2, 3)) > 0).astype(np.int32)
SOFT = "categorical_crossentropy"


def small() -> keras.Model:
    keras.utils.set_random_seed(1)
    photo = keras.Input((4, 4, 3))
    x = keras.layers.Conv2D(4, 3, activation="relu", name="below")(photo)
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(photo, keras.layers.Dense(2, activation="softmax", name="head")(x))


def train(model, checkpoint=None, targets=Y, mix=None, epochs=2, **changes):
    settings = Settings(epochs, epochs, 8, **{"learning_rate": 1e-2, **changes})
    return fit(
        model,
        Batches(read_views([X]), targets, 8, 3, mix=mix),
        Batches(read_views([X]), one_hot(Y, 2) if targets.ndim > 1 else Y, 24),
        settings,
        "tail",
        checkpoint=checkpoint,
    )


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_a_layers_rate_scales_its_steps_and_no_others(optimizer):
    plain = small()
    start = plain.get_weights()
    train(plain, optimizer=optimizer, epochs=1)
    slow = small()
    train(slow, optimizer=optimizer, epochs=1, rates={"below": 0.0})
    np.testing.assert_array_equal(slow.get_weights()[0], start[0])
    assert (slow.get_weights()[2] != start[2]).any()
    assert (plain.get_weights()[0] != start[0]).any()


def test_a_rate_below_one_is_the_same_as_a_smaller_learning_rate_for_all():
    histories = [
        train(small(), learning_rate=5e-3),
        train(small(), rates={"below": 0.5, "head": 0.5}),
    ]
    losses = [[row["val_loss"] for row in history] for history in histories]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-6)


class Towards(keras.regularizers.Regularizer):
    def __init__(self, strength: float, first: np.ndarray):
        self.strength = strength
        self.first = first

    def __call__(self, now):
        return self.strength / 2 * keras.ops.sum((now - self.first) ** 2)


def test_an_anchor_is_the_gradient_of_a_penalty_in_the_loss():
    """Against plain Keras with a regularizer."""
    strength = 3.0
    ours = small()
    train(ours, epochs=1, optimizer="sgd", anchors={"head": strength})
    reference = small()
    kernel = reference.get_layer("head").kernel
    first = kernel.numpy()
    kernel.regularizer = Towards(strength, first)
    train(reference, epochs=1, optimizer="sgd")
    assert (ours.get_layer("head").kernel.numpy() != first).any()
    for a, b in zip(ours.get_weights(), reference.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_an_anchor_keeps_weights_near_where_each_training_starts():
    def distance(strength, model):
        start = model.get_weights()[0]
        train(model, epochs=6, anchors={"below": strength})
        return float(np.linalg.norm(model.get_weights()[0] - start))

    model = small()
    free, first = distance(0.0, small()), distance(10.0, model)
    assert first < 0.5 * free
    assert distance(10.0, model) < 0.5 * free, "its functions are kept, its anchor is not"


def test_schedules_warm_up_and_end_at_zero():
    def rates(*settings):
        schedule = Schedule(1.0, 10, *settings)
        return [float(schedule(step)) for step in range(11)]

    np.testing.assert_allclose(rates("constant", 4.0)[:6], [0.25, 0.5, 0.75, 1, 1, 1])
    cosine = rates("cosine", 0.2)
    assert cosine[:2] == [0.5, 1.0]
    assert cosine[-1] == pytest.approx(0, abs=1e-6)
    expected = keras.optimizers.schedules.CosineDecay(1.0, 10)
    np.testing.assert_allclose(rates("cosine"), [float(expected(i)) for i in range(11)], atol=1e-6)
    cycle = rates("one-cycle")
    assert cycle[0] == pytest.approx(0.04 + 0.96 / 3)
    assert max(cycle) == cycle[3] == pytest.approx(1)
    assert cycle[-1] == pytest.approx(0, abs=1e-6)


def test_the_average_is_what_is_measured_and_kept_and_a_resumed_run_repeats_it(tmp_path):
    steps = []

    class Steps(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            steps.append(self.model.get_weights()[0])

    model = small()
    settings = Settings(1, 1, 8, 1e-2, average="ema")
    held_out = Batches(read_views([X]), Y, 24)
    history = fit(
        model, Batches(read_views([X]), Y, 8, 3), held_out, settings, "tail", callbacks=[Steps()]
    )
    assert history[1]["val_loss"] < history[0]["val_loss"], "or nothing of it is kept"
    expected = steps[0]
    for step in steps[1:]:
        expected = EMA_MOMENTUM * expected + (1 - EMA_MOMENTUM) * step
    np.testing.assert_allclose(model.get_weights()[0], expected, atol=1e-6)
    found = model.evaluate(held_out, verbose=0, return_dict=True)
    assert found["loss"] == pytest.approx(history[1]["val_loss"], rel=1e-5)

    whole = small()
    expected_history = train(whole, average="ema", epochs=4)
    part = small()
    with pytest.raises(KeyboardInterrupt):
        fit(
            part,
            Batches(read_views([X]), Y, 8, 3),
            held_out,
            Settings(4, 4, 8, 1e-2, average="ema"),
            "tail",
            checkpoint=tmp_path / "c.npz",
            callbacks=[_Kill()],
        )
    resumed = small()
    again = train(resumed, tmp_path / "c.npz", average="ema", epochs=4)
    assert [row["val_loss"] for row in again] == [row["val_loss"] for row in expected_history]
    for a, b in zip(whole.get_weights(), resumed.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


class _Kill(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 2:
            raise KeyboardInterrupt


def test_smoothed_targets_are_of_training_alone():
    targets = one_hot(np.array([0, 2]), 4, 0.2)
    np.testing.assert_allclose(targets, [[0.85, 0.05, 0.05, 0.05], [0.05, 0.05, 0.85, 0.05]])
    plain = train(small())
    smooth = train(small(), targets=one_hot(Y, 2, 0.3), loss=SOFT)
    assert smooth[0]["val_loss"] == pytest.approx(plain[0]["val_loss"], rel=1e-6)
    assert smooth[1]["loss"] != plain[1]["loss"]
    assert smooth[0]["val_accuracy"] == pytest.approx(plain[0]["val_accuracy"])


@pytest.mark.parametrize("mix", [Mix(mixup=0.4), Mix(cutmix=1.0), Mix(0.4, 1.0)])
def test_a_mixed_photo_has_as_much_of_each_label_as_of_each_photo(mix):
    """Of photos that are 1 where their class is 1, and 0 elsewhere."""
    labels = np.arange(8) % 2
    rows = np.broadcast_to(labels[:, None, None, None], (8, 6, 6, 1)).astype(np.float32)
    shares = set()
    for seed in range(20):
        draw = np.random.default_rng(seed)
        mixed, targets, weights = mix(rows, one_hot(labels, 2), np.ones(8), draw)
        np.testing.assert_allclose(mixed.mean(axis=(1, 2, 3)), targets[:, 1], atol=1e-6)
        np.testing.assert_allclose(targets.sum(axis=1), 1, rtol=1e-6)
        np.testing.assert_allclose(weights, 1)
        shares |= set(np.round(targets[:, 1], 4))
    assert len(shares) > 5
    assert (rows[:, 0, 0, 0] == labels).all(), "what is stored is not written on"


def test_weights_of_mixed_photos_count_in_the_shares_of_the_mix():
    labels = np.arange(4) % 2
    rows = np.zeros((4, 2, 2, 1), np.float32)
    weights = np.array([3.0, 1.0, 3.0, 1.0])
    _, targets, mixed = Mix(mixup=1.0)(rows, one_hot(labels, 2), weights, np.random.default_rng(1))
    share = (mixed - 1) / 2  # what is of class 0
    np.testing.assert_allclose(targets[:, 0] * mixed, 3 * share, atol=1e-5)


def test_mixed_pixels_stay_pixels_and_batches_repeat():
    photos = RNG.integers(0, 256, (10, 4, 4, 3), np.uint8)
    targets = one_hot(np.arange(10) % 2, 2)
    one, two = (Batches(read_views([photos]), targets, 4, 7, mix=Mix(mixup=1.0)) for _ in range(2))
    for batch in (0, 1, 2, 1):
        for a, b in zip(one[batch], two[batch], strict=True):
            np.testing.assert_array_equal(a, b)
    assert one[0][0].dtype == np.uint8
    assert len(one[2][0]) == 2, "partial last batches are mixed, too"
    two.epoch = 1
    assert (one[0][0] != two[0][0]).any()


def test_mixing_trains():
    history = train(small(), targets=one_hot(Y, 2), mix=Mix(0.4, 1.0), loss=SOFT)
    assert all(np.isfinite(row["val_loss"]) for row in history)
