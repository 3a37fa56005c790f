"""The one training path: order, partial batches, best weights, stopping, going on, and doing it all
again bit by bit.
"""

import threading

import keras
import numpy as np
import pytest

from finetune.errors import IntegrityError
from finetune.training.batches import Batches, read_views
from finetune.training.checkpoint import read_progress
from finetune.training.fit import Diverged, Settings, best_epoch, fit
from finetune.training.mixing import one_hot

RNG = np.random.default_rng(0)
X = RNG.normal(size=(37, 6, 6, 3)).astype(np.float16)
Y = (X.mean(axis=(1, 2, 3)) > 0).astype(np.int32)
SETTINGS = Settings(epochs=4, patience=4, batch_size=8, learning_rate=1e-2, seed=3)


def small(dropout: float = 0.3) -> keras.Model:
    keras.utils.set_random_seed(1)
    photo = keras.Input((6, 6, 3))
    x = keras.layers.Conv2D(8, 3, activation="relu")(photo)
    x = keras.layers.GlobalAveragePooling2D()(x)
    x = keras.layers.Dropout(dropout)(x)
    return keras.Model(photo, keras.layers.Dense(2, activation="softmax")(x))


def train(model, settings=SETTINGS, checkpoint=None, **kwargs):
    batches = Batches(read_views([X]), Y, settings.batch_size, settings.seed)
    return fit(
        model,
        batches,
        Batches(read_views([X]), Y, 16),
        settings,
        "tail",
        "recipe",
        checkpoint,
        **kwargs,
    )


def test_every_photo_is_seen_once_per_epoch_also_in_a_partial_last_batch():
    batches = Batches(read_views([X]), np.arange(37), 8, seed=5)
    orders = []
    for _ in range(3):
        seen = [batches[i] for i in range(len(batches))]
        assert [len(labels) for _, labels in seen] == [8, 8, 8, 8, 5]
        for rows, labels in seen:
            np.testing.assert_array_equal(rows, X[labels])
        orders.append(np.concatenate([labels for _, labels in seen]))
        assert sorted(orders[-1]) == list(range(37))
        batches.epoch += 1
    assert len({tuple(order) for order in orders}) == 3, "each epoch has an order of its own"


def test_the_rows_of_an_epoch_are_read_in_one_go():
    started = []

    def read(batches, epoch):
        started.append((epoch, len(batches)))
        return (X[indices] for indices in batches)

    batches = Batches(read, np.arange(37), 8, seed=5)
    for epoch in range(2):
        batches.epoch = epoch
        for i in range(len(batches)):
            rows, labels = batches[i]
            np.testing.assert_array_equal(rows, X[labels])
    for out_of_turn in (2, 1, 0):
        rows, labels = batches[out_of_turn]
        np.testing.assert_array_equal(rows, X[labels])
    assert started[:2] == [(0, 5), (1, 5)]
    assert started[2:] == [(1, 3), (1, 4), (1, 5)]


def test_fit_shows_keras_each_photo_once_per_epoch_in_the_order_of_the_epoch():
    seen = []

    def read(batches, epoch):
        for indices in batches:
            seen.append((epoch, tuple(indices)))
            yield X[indices]

    fit(small(), Batches(read, Y, 8, seed=3), Batches(read_views([X]), Y, 16), SETTINGS, "tail")
    for epoch in range(SETTINGS.epochs):
        batches = list(dict.fromkeys(indices for number, indices in seen if number == epoch))
        assert sum(number == epoch for number, _ in seen) == len(batches), (
            "also those that Keras draws beforehand"
        )
        expected = np.random.default_rng([3, epoch]).permutation(37)
        np.testing.assert_array_equal(np.concatenate(batches), expected)


def test_stored_views_take_turns():
    views = [np.full((5, 2), number) for number in range(3)]
    read = read_views(views)
    turns = np.stack([next(read([np.arange(5)], epoch))[:, 0] for epoch in range(3)])
    assert (np.sort(turns, axis=0) == np.array([[0], [1], [2]])).all(), (
        "each photo shows every view in three epochs"
    )
    np.testing.assert_array_equal(turns[0], [0, 1, 2, 0, 1])


def test_two_runs_are_equal_bit_by_bit():
    first, second = small(), small()
    histories = [train(first), train(second)]
    for row in (row for history in histories for row in history):
        row.pop("seconds")
    assert histories[0] == histories[1]
    for a, b in zip(first.get_weights(), second.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path):
    """Weights, optimizer, order and dropout go on where the last whole epoch ended."""
    whole, killed = small(), small()
    history = train(whole)

    class Kill(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            progress = read_progress(tmp_path / "c.npz")
            if progress and len(progress.history) == 3:  # in the third epoch
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(killed, checkpoint=tmp_path / "c.npz", callbacks=[Kill()])
    resumed = small()
    resumed_history = train(resumed, checkpoint=tmp_path / "c.npz")
    for row in [*history, *resumed_history]:
        row.pop("seconds")
    assert resumed_history == history
    for a, b in zip(whole.get_weights(), resumed.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_checkpoint_of_another_recipe_is_not_continued_and_a_broken_one_is_said(tmp_path):
    train(small(), checkpoint=tmp_path / "c.npz")
    model = small()
    batches = Batches(read_views([X]), Y, 8, 3)
    history = fit(
        model,
        batches,
        Batches(read_views([X]), Y, 16),
        SETTINGS,
        "tail",
        "another",
        tmp_path / "c.npz",
    )
    assert len(history) == 5
    (tmp_path / "c.npz").write_bytes(b"PK broken")
    with pytest.raises(IntegrityError, match="is damaged .* Delete it"):
        train(small(), checkpoint=tmp_path / "c.npz")


def test_a_checkpoint_whose_header_is_damaged_is_said(tmp_path):
    path = tmp_path / "c.npz"
    np.savez(path, progress=np.zeros(100_000, np.uint8))
    path.write_bytes(path.read_bytes().replace(b"}", b" ", 1))
    with pytest.raises(IntegrityError, match="is damaged"):
        read_progress(path)


def test_the_best_epoch_is_kept_also_if_it_is_the_one_before_training():
    model = small(0.0)
    train(model, Settings(epochs=30, patience=30, batch_size=8, learning_rate=1e-2))
    good = model.get_weights()
    history = train(model, Settings(epochs=10, patience=2, batch_size=8, learning_rate=3.0))
    losses = [row["val_loss"] for row in history]
    assert int(np.argmin(losses)) == 0, (
        "this learning rate must make it worse, or the test proves nothing"
    )
    assert len(history) == 1 + 2, "it stops when patience runs out"
    for a, b in zip(good, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_nan_is_an_error_that_names_the_learning_rate():
    model = small()
    bad = X.copy()
    bad[5] = np.nan
    with pytest.raises(Diverged, match="epoch 1 of phase tail.*learning rate is 0.01"):
        fit(
            model,
            Batches(read_views([bad]), Y, 8, 0),
            Batches(read_views([X]), Y, 16),
            SETTINGS,
            "tail",
        )


def test_schedule_decay_and_optimizer_change_training():
    plain = small(0.0)
    train(plain)
    found = []
    for change in (
        {"schedule": "cosine"},
        {"weight_decay": 0.5},
        {"optimizer": "sgd"},
        {"optimizer": "sgd", "momentum": 0.9},
    ):
        other = small(0.0)
        train(other, Settings(**{**vars(SETTINGS), **change}))
        assert any(
            (a != b).any() for a, b in zip(plain.get_weights(), other.get_weights(), strict=True)
        ), change
        found.append(other.get_weights()[0].tobytes())
    assert len(set(found)) == len(found)


@pytest.mark.parametrize("place", [0.1, 0.5])
def test_a_flipped_byte_in_a_checkpoint_is_an_integrity_error(tmp_path, place):
    path = tmp_path / "c.npz"
    train(small(), checkpoint=path)
    data = bytearray(path.read_bytes())
    data[int(len(data) * place)] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(IntegrityError, match="Delete it to train from the beginning"):
        train(small(), checkpoint=path)
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(IntegrityError, match="Delete it"):
        train(small(), checkpoint=path)


def test_a_smaller_last_batch_and_a_second_training_cost_no_trace():
    traces = []

    class Counted(keras.layers.Layer):
        def call(self, x):
            traces.append(x.shape)
            return x

    photo = keras.Input((6, 6, 3))
    x = Counted()(photo)
    outputs = keras.layers.Dense(2, activation="softmax")(keras.layers.Flatten()(x))
    model = keras.Model(photo, outputs)
    start = model.get_weights()
    first = train(model)
    traced = len(traces)
    model.set_weights(start)
    second = train(model, Settings(**{**vars(SETTINGS), "learning_rate": 1e-2}))
    assert len(traces) == traced, "the functions of the first training are used again"
    assert all(shape[0] is None for shape in traces), "batches of any size"
    for a, b in zip(first, second, strict=True):
        assert a["val_loss"] == b["val_loss"], "and the optimizer begins anew"
    model.set_weights(start)
    other = train(model, Settings(**{**vars(SETTINGS), "learning_rate": 1e-4}))
    assert other[1]["val_loss"] != first[1]["val_loss"], "at the rate that was asked for"


def test_the_best_epoch_is_the_first_of_equal_ones():
    history = [{"val_loss": loss} for loss in (0.5, 0.3, 0.4, 0.3)]
    assert best_epoch(history) == 1


def test_a_batch_is_read_while_the_one_before_it_trains():
    """Keras draws two batches beforehand; the third is read ahead only if tf.data prefetches."""
    read_already = threading.Event()
    seen = []

    def read(batches, epoch):
        for number, indices in enumerate(batches):
            if number == 2:
                read_already.set()
            yield X[indices]

    class Waits(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if batch == 1 and not seen:
                seen.append(read_already.wait(60))

    held_out = Batches(read_views([X]), Y, 16)
    fit(small(), Batches(read, Y, 8, seed=3), held_out, SETTINGS, "tail", callbacks=[Waits()])
    assert seen == [True]


def test_weights_of_photos_go_with_their_rows():
    weights = np.arange(37, dtype=np.float32)
    batches = Batches(read_views([X]), np.arange(37), 8, 5, weights)
    for batch in range(len(batches)):
        _, labels, found = batches[batch]
        np.testing.assert_array_equal(found, labels)
    assert len(Batches(read_views([X]), Y, 8, 5)[0]) == 2


def test_weights_of_photos_count_in_the_loss():
    heavy = np.where(Y == 1, 1.9, 0.1).astype(np.float32)
    shares = []
    for weights in (heavy, 2 - heavy):
        model = small(dropout=0)
        batches = Batches(read_views([X]), Y, 8, 3, weights)
        fit(model, batches, Batches(read_views([X]), Y, 16), SETTINGS, "tail")
        shares.append(model.predict(X.astype(np.float32), verbose=0)[:, 1].mean())
    assert shares[0] > shares[1]


@pytest.mark.parametrize("order", [(False, True), (True, False)])
def test_focal_loss_of_indices_and_of_shares_in_turn_is_that_of_a_model_of_its_own(order):
    focal = Settings(**{**vars(SETTINGS), "loss": "focal", "epochs": 1})

    def trained(model, is_soft):
        labels = one_hot(Y, 2, 0.1) if is_soft else Y
        held_out = one_hot(Y, 2) if is_soft else Y
        batches = Batches(read_views([X]), labels, 8, 3)
        history = fit(model, batches, Batches(read_views([X]), held_out, 16), focal, "tail")
        return [(row["accuracy"], row["val_accuracy"]) for row in history]

    shared = small(0.0)
    start = shared.get_weights()
    for is_soft in order:
        shared.set_weights(start)
        assert trained(shared, is_soft) == trained(small(0.0), is_soft)
