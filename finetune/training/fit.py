"""The one training path: an ordinary Keras ``fit`` on the tail; best weights kept, epochs
committed.
"""

import math
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from finetune.backend import has_gpu
from finetune.errors import FinetuneError
from finetune.training.batches import Batches
from finetune.training.checkpoint import Progress, read_progress, restore, save
from finetune.training.losses import loss_of, of_photos, photo_metrics
from finetune.training.optimizers import Schedule, averaged, make_optimizer


class Diverged(FinetuneError):
    """The loss or a weight became NaN or infinite: the one trial of a run has failed."""

    exit_code = 5


@dataclass(frozen=True)
class Settings:
    """What a fit depends on beside model and data.

    ``momentum`` is that of ``sgd``; ``weight_decay`` is decoupled in either optimizer;
    ``schedule`` and ``warmup`` are as for ``Schedule``, ``rates`` and ``anchors`` (by layer) and
    ``average`` as for ``make_optimizer``, ``loss`` as for ``loss_of``.
    """

    epochs: int
    patience: int
    batch_size: int
    learning_rate: float
    schedule: str = "constant"
    weight_decay: float = 0.0
    seed: int = 0
    optimizer: str = "adam"
    momentum: float = 0.0
    warmup: float = 0.0
    average: str = "none"
    rates: Mapping[str, float] = field(default_factory=dict)
    anchors: Mapping[str, float] = field(default_factory=dict)
    loss: str = "sparse_categorical_crossentropy"


def best_epoch(history: Sequence[Mapping[str, Any]]) -> int:
    """Place in the history of the lowest validation loss, the first of equal ones."""
    return int(np.argmin([row["val_loss"] for row in history]))


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
    """Train a model until validation loss stops falling; leave it with the weights of its best
    epoch.

    Epoch 0 is the model as it comes: if training only makes it worse, it stays as it was.

    Args:
        model: (n, ...) -> probabilities (n, classes), its layers' ``trainable`` flags set; made in
            the scope of a ``tf.distribute`` strategy it is trained on the strategy's devices.
        train: its ``epoch`` is set; for as many devices.
        validation: in order; for as many devices.
        settings: see ``Settings``.
        phase: named in the history and the checkpoint.
        recipe: identity of recipe and photos; a checkpoint of another one is not continued.
        checkpoint: committed after every epoch, and continued from if it is there.
        callbacks: more Keras callbacks (a progress bar, TensorBoard).
        on_epoch: is given each row of the history.

    Returns:
        The history: one dict per epoch from 0, with loss (nats), accuracy, val_loss, val_accuracy,
        learning_rate, seconds.

    Raises:
        Diverged: the loss is not finite. IntegrityError: the checkpoint is damaged.
    """
    # validation loss is that of the averages, and training goes on with the weights themselves
    swaps = [keras.callbacks.SwapEMAWeights()] if settings.average == "ema" else []
    with model.distribute_strategy.scope():
        signature = make_ready(model, settings, train)
        best = BestWeights(train, phase, recipe, settings, checkpoint, on_epoch)
        best.begin(model, validation)
        if not best.finished:
            model.fit(
                train,
                validation_data=validation,
                epochs=settings.epochs,
                initial_epoch=len(best.history) - 1,
                shuffle=False,
                callbacks=[*swaps, best, *callbacks],
                verbose=0,
            )
        model.set_weights(best.weights)
        _compiled[model] = signature
    return best.history


_compiled: weakref.WeakKeyDictionary[keras.Model, tuple] = weakref.WeakKeyDictionary()


def make_ready(model: keras.Model, settings: Settings, train: Batches) -> tuple:
    """Make a model ready to be trained from the beginning; returns what its traced functions hold.

    A model that was trained with the same constants keeps its functions: its optimizer begins anew.
    """
    # A CPU's operations repeat bit by bit as they are; there op determinism would only take away
    # tf.data's reading ahead. XLA would slow a CPU's convolutions.
    if has_gpu():
        tf.config.experimental.enable_op_determinism()
    rate: Any = settings.learning_rate
    scheduled: tuple = ()
    if settings.schedule != "constant" or settings.warmup:
        scheduled = (rate, max(1, settings.epochs * len(train)), settings.schedule, settings.warmup)
        rate = Schedule(*scheduled)
    options = (settings.optimizer, settings.momentum, settings.weight_decay, settings.average)
    learning = tuple(layer.name for layer in model.layers if layer.trainable_variables)
    tables = (tuple(settings.rates.items()), tuple(settings.anchors.items()))
    # "accuracy" becomes the metric of the labels that it sees first, also where the loss is focal
    labels = (settings.loss, train.has_soft_labels)
    signature = (*options, *scheduled, *tables, *labels, learning)
    if _compiled.pop(model, None) == signature:
        for variable in model.optimizer.variables:
            if variable is not getattr(model.optimizer, "_learning_rate", None):
                variable.assign(keras.ops.zeros_like(variable))
        if not scheduled:
            model.optimizer.learning_rate = rate
        model.optimizer.begin(model.trainable_variables)
        return signature
    name, momentum, decay, average = options
    optimizer = make_optimizer(
        model, name, rate, momentum, decay, average, settings.rates, settings.anchors
    )
    loss = loss_of(settings.loss)
    # On several devices batches hold blank rows, whose weight is 0.
    is_one = model.distribute_strategy.num_replicas_in_sync == 1
    model.compile(
        optimizer,
        loss=loss,
        metrics=["accuracy"] if is_one else None,
        weighted_metrics=None if is_one else photo_metrics(loss),
        jit_compile=False,
    )
    return signature


class BestWeights(keras.callbacks.Callback):
    """Keeps history and best weights, commits both, and stops training.

    All its decisions are functions of the history, so that a resumed run takes the same ones.
    """

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
        self.history: list[dict[str, Any]] = []
        self.weights: list[np.ndarray] = []
        self._train = train
        self._phase = phase
        self._recipe = recipe
        self._settings = settings
        self._checkpoint = checkpoint
        self._on_epoch = on_epoch
        self._clock = time.perf_counter()

    def begin(self, model: keras.Model, validation: Batches) -> None:
        """Go on from the checkpoint if it is of this training, else measure epoch 0."""
        progress = read_progress(self._checkpoint) if self._checkpoint else None
        own = (self._phase, self._recipe)
        if self._checkpoint and progress and (progress.phase, progress.recipe) == own:
            self.history = progress.history
            self.weights = restore(self._checkpoint, model)
            return
        start = model.evaluate(validation, verbose=0, return_dict=True)
        self._append(0, {f"val_{name}": value for name, value in start.items()})
        self.weights = model.get_weights()

    @property
    def finished(self) -> bool:
        """Whether patience or epochs have run out."""
        waited = len(self.history) - 1 - best_epoch(self.history)
        return waited >= self._settings.patience or len(self.history) > self._settings.epochs

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        """Set the epoch before Keras draws its first batch."""
        self._clock = time.perf_counter()
        self._train.epoch = epoch

    def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        """Append to the history, keep the weights if they are the best, commit, and stop."""
        is_averaged = self._settings.average == "ema"
        weights = averaged(self.model) if is_averaged else self.model.get_weights()
        # A ReLU may turn NaN into 0, and the loss of broken weights is finite then.
        is_sound = all(np.isfinite(weight).all() for weight in weights)
        if not is_sound or not all(math.isfinite(value) for value in logs.values()):
            raise Diverged(
                f"Training diverged in epoch {epoch + 1} of phase {self._phase}: {logs}. "
                f"The learning rate is {self._settings.learning_rate:g}; try a tenth of it."
            )
        self._append(epoch + 1, logs)
        if best_epoch(self.history) == len(self.history) - 1:
            self.weights = weights
        if self._checkpoint:
            progress = Progress(self._phase, self._recipe, self.history)
            save(self._checkpoint, self.model, self.weights, progress)
        self.model.stop_training = self.finished

    def _append(self, epoch: int, logs: Mapping[str, float]) -> None:
        found = of_photos(logs)
        names = ("loss", "accuracy", "val_loss", "val_accuracy")
        values = {name: float(found[name]) if name in found else None for name in names}
        rate = None
        if epoch:
            rate = float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))
        seconds = round(time.perf_counter() - self._clock, 3)
        row = {
            "phase": self._phase,
            "epoch": epoch,
            **values,
            "learning_rate": rate,
            "seconds": seconds,
        }
        self.history.append(row)
        self._on_epoch(row)


class Bar(keras.callbacks.Callback):
    """Advances a bar with every batch that was trained on."""

    def __init__(self, advance: Callable[[int], None], photos: int, batch_size: int):
        super().__init__()
        self._advance = advance
        self._photos = photos
        self._size = batch_size

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        self._advance(min(self._size, self._photos - batch * self._size))
