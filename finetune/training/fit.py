"""The one training path: an ordinary Keras ``fit`` on the tail, best weights kept, every epoch committed."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from finetune.errors import FinetuneError
from finetune.training.checkpoint import Progress, read_progress, restore, save

# (batches of indices of photos, epoch) -> their activations, batch by batch: whoever reads can work ahead
Read = Callable[[Sequence[np.ndarray], int], Iterator[np.ndarray]]


class Diverged(FinetuneError):
    """The loss became NaN or infinite."""


@dataclass(frozen=True)
class Settings:
    """What a fit depends on beside the model and the data. ``learning_rate`` is Adam's; ``weight_decay`` makes it AdamW."""

    epochs: int
    patience: int
    batch_size: int
    learning_rate: float
    schedule: str = "constant"
    weight_decay: float = 0.0
    class_weight: dict[int, float] | None = None
    seed: int = 0


# Keras draws so many batches to learn their shapes, and then draws them again (NUM_BATCHES_FOR_TENSOR_SPEC of its
# data_adapter_utils): they are kept, for fresh views would be computed twice.
_PEEKED = 2


class Batches(keras.utils.PyDataset):
    """Activations and labels, every photo once per epoch, the last batch as small as it comes out.

    The order is a function of (seed, epoch) and of nothing else, so that a resumed run sees the same batches.

    Args:
        read: called with arrays of int indices and the epoch (from 0); yields an array of rows for each.
        labels: int (n,).
        batch_size: photos per batch.
        seed: of the order; None keeps the photos in order.

    Attributes:
        epoch: whose batches are given, from 0; ``fit`` sets it (Keras's own ``on_epoch_end`` is called once more than
            there are epochs).
    """

    def __init__(self, read: Read, labels: np.ndarray, batch_size: int, seed: int | None = None):
        super().__init__()
        self._read, self._labels, self._size, self._seed, self.epoch = (
            read,
            labels,
            batch_size,
            seed,
            0,
        )
        self._rows: Iterator[np.ndarray] = iter(())
        self._next: tuple[int, int] | None = None  # (epoch, batch) that ``_rows`` yields next
        self._peeked: dict[tuple[int, int], np.ndarray] = {}

    def __len__(self) -> int:
        return math.ceil(len(self._labels) / self._size)

    def __getitem__(self, batch: int) -> tuple[np.ndarray, np.ndarray]:
        order, place = self._order(), (self.epoch, batch)
        indices = order[batch * self._size : (batch + 1) * self._size]
        if place in self._peeked:
            rows = self._peeked.pop(place)
        else:
            if self._next != place:
                rest = range(batch * self._size, len(order), self._size)
                self._rows, self._peeked = (
                    self._read([order[start : start + self._size] for start in rest], self.epoch),
                    {},
                )
            rows, self._next = next(self._rows), (self.epoch, batch + 1)
            if batch < _PEEKED:
                self._peeked[place] = rows
        # stored float16 must not make the tail compute in float16
        return rows.astype(np.float32) if rows.dtype == np.float16 else rows, self._labels[indices]

    def _order(self) -> np.ndarray:
        if self._seed is None:
            return np.arange(len(self._labels))
        return np.random.default_rng([self._seed, self.epoch]).permutation(len(self._labels))


def read_views(views: Sequence[Any]) -> Read:
    """Rows of stored views: each photo shows one view per epoch, and all of them in turn.

    Args:
        views: sources of rows (arrays or ``store.Rows``), all in the same order of photos; the first is without
            augmentation.
    """

    def read(batches: Sequence[np.ndarray], epoch: int) -> Iterator[np.ndarray]:
        for indices in batches:
            chosen = (indices + epoch) % len(views)
            out = np.empty((len(indices), *views[0].shape[1:]), views[0].dtype)
            for number, view in enumerate(views):
                if (chosen == number).any():
                    out[chosen == number] = view[indices[chosen == number]]
            yield out

    return read


def fit(
    model: keras.Model,
    train: Batches,
    validation: Batches,
    settings: Settings,
    phase: str,
    recipe: str = "",
    checkpoint: Path | None = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    on_epoch: Callable[[dict[str, Any]], None] = lambda row: None,
) -> list[dict[str, Any]]:
    """Train a model until validation loss stops falling; leave it with the weights of its best epoch.

    Epoch 0 is the model as it comes: if training only makes it worse, it stays as it was.

    Args:
        model: (n, ...) -> probabilities (n, classes), its layers' ``trainable`` flags set.
        train: its ``epoch`` is set.
        validation: in order.
        settings: see ``Settings``.
        phase: named in the history and the checkpoint.
        recipe: the resolved recipe; a checkpoint of another one is not continued.
        checkpoint: committed after every epoch, and continued from if it is there.
        callbacks: more Keras callbacks (a progress bar, TensorBoard).
        on_epoch: is told each row of the history.

    Returns:
        The history: one dict per epoch from 0, with loss (nats), accuracy, val_loss, val_accuracy, learning_rate, seconds.

    Raises:
        Diverged: the loss is not finite.
    """
    steps = len(train)
    rate: Any = settings.learning_rate
    if settings.schedule == "cosine":
        rate = keras.optimizers.schedules.CosineDecay(rate, max(1, settings.epochs * steps))
    model.compile(
        keras.optimizers.AdamW(rate, weight_decay=settings.weight_decay),
        loss="sparse_categorical_crossentropy",
        metrics=["accuracy"],
        jit_compile=deterministic(),
    )
    keeper = _Keeper(train, phase, recipe, settings, checkpoint, on_epoch)
    keeper.begin(model, validation)
    if not keeper.finished:
        model.fit(
            train,
            validation_data=validation,
            epochs=settings.epochs,
            initial_epoch=len(keeper.history) - 1,
            shuffle=False,
            class_weight=settings.class_weight,
            callbacks=[keeper, *callbacks],
            verbose=0,
        )
    model.set_weights(keeper.best)
    return keeper.history


def deterministic() -> bool:
    """Make training repeatable bit by bit on this machine; returns whether to compile with XLA.

    On a CPU, XLA's compiled steps are repeatable by themselves (tested) and much faster on a VGG16 tail than TensorFlow's
    own. On a GPU it takes TensorFlow's op determinism, under which Keras refuses XLA.
    """
    if not tf.config.list_physical_devices("GPU"):
        return True
    tf.config.experimental.enable_op_determinism()
    return False


class _Keeper(keras.callbacks.Callback):
    """Keeps history and best weights, commits both, and stops; all its decisions are functions of the history."""

    def __init__(
        self,
        train: Batches,
        phase: str,
        recipe: str,
        settings: Settings,
        checkpoint: Path | None,
        on_epoch: Callable[[dict], None],
    ):
        super().__init__()
        self._train, self._phase, self._recipe, self._settings = train, phase, recipe, settings
        self._checkpoint, self._on_epoch = checkpoint, on_epoch
        self.history: list[dict[str, Any]] = []
        self.best: list[np.ndarray] = []
        self._clock = time.perf_counter()

    def begin(self, model: keras.Model, validation: Batches) -> None:
        progress = read_progress(self._checkpoint) if self._checkpoint else None
        if (
            self._checkpoint
            and progress
            and (progress.phase, progress.recipe) == (self._phase, self._recipe)
        ):
            self.history, self.best = progress.history, restore(self._checkpoint, model)
            return
        start = model.evaluate(validation, verbose=0, return_dict=True)
        self._append(0, {f"val_{name}": value for name, value in start.items()})
        self.best = model.get_weights()

    @property
    def finished(self) -> bool:
        losses = [row["val_loss"] for row in self.history]
        waited = len(losses) - 1 - int(np.argmin(losses))
        return waited >= self._settings.patience or len(losses) > self._settings.epochs

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        self._clock = time.perf_counter()
        self._train.epoch = epoch  # before Keras draws the epoch's first batch

    def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        if not all(math.isfinite(value) for value in logs.values()):
            raise Diverged(
                f"Training diverged in epoch {epoch + 1} of phase {self._phase}: {logs}. "
                f"The learning rate is {self._settings.learning_rate:g}; try a tenth of it."
            )
        self._append(epoch + 1, logs)
        if self.history[-1]["val_loss"] <= min(row["val_loss"] for row in self.history):
            self.best = self.model.get_weights()
        if self._checkpoint:
            trainable = {layer.name: layer.trainable for layer in self.model.layers}
            save(
                self._checkpoint,
                self.model,
                self.best,
                Progress(self._phase, self._recipe, trainable, self.history),
            )
        self.model.stop_training = self.finished

    def _append(self, epoch: int, logs: dict[str, float]) -> None:
        names = ("loss", "accuracy", "val_loss", "val_accuracy")
        values = {name: float(logs[name]) if name in logs else None for name in names}
        rate = (
            float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate)) if epoch else None
        )
        seconds = time.perf_counter() - self._clock
        row = {
            "phase": self._phase,
            "epoch": epoch,
            **values,
            "learning_rate": rate,
            "seconds": round(seconds, 3),
        }
        self.history.append(row)
        self._on_epoch(row)
