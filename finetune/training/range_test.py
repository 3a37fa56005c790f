"""The range test of learning rates: a short training whose rate rises until the loss does.

Smith, Cyclical Learning Rates for Training Neural Networks, WACV 2017, arXiv:1506.01186.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import keras
import numpy as np

from finetune.training.batches import Batches, Read, shuffled
from finetune.training.fit import Settings, make_ready
from finetune.training.mixing import Mix

STEPS = 64
_LOWEST, _HIGHEST = 1e-7, 1e-1
_BEYOND = 2.0  # nats above the beginning at which the test ends
_SMOOTHING = 0.8  # share of the old value in the smoothed loss
_SHARE = 0.1  # of the rate with the lowest loss: what is suggested


class _Rising(keras.callbacks.Callback):
    """Raises the rate from batch to batch, and notes each batch's own loss."""

    def __init__(self, rates: np.ndarray, start: Sequence[float] = ()):
        super().__init__()
        self.losses: list[float] = []
        self._rates = rates
        self._start = start

    def on_train_batch_begin(self, batch: int, logs: dict | None = None) -> None:
        self.model.optimizer.learning_rate = self._rates[batch]
        self.model.reset_metrics()  # Keras would give the mean of all batches so far

    def on_test_batch_begin(self, batch: int, logs: dict | None = None) -> None:
        self.model.reset_metrics()

    def on_test_batch_end(self, batch: int, logs: dict[str, float]) -> None:
        self.losses.append(float(logs["loss"]))

    def on_train_batch_end(self, batch: int, logs: dict[str, float]) -> None:
        loss = float(logs["loss"])
        self.losses.append(loss)
        if not np.isfinite(loss) or loss > self._start[batch] + _BEYOND:
            self.model.stop_training = True


def range_test(
    model: keras.Model,
    read: Read,
    targets: np.ndarray,
    settings: Settings,
    weights: np.ndarray | None = None,
    mix: Mix | None = None,
    balanced: bool = False,
    steps: int = STEPS,
) -> dict[str, Any]:
    """Train for a few steps with rising rates; the model's weights are as before afterwards.

    Each batch's loss is compared with what the model had on the same batch before any step: near a
    converged head batches differ by more than training changes.

    Args:
        model, settings: as for ``fit``.
        read, targets, weights, mix, balanced: of the training photos, as for ``Batches``.
        steps: at most; the test ends where the loss has risen by 2 nats.

    Returns:
        ``rates``, ``changes`` (smoothed, of the loss in nats) and ``suggested``: a tenth of the
        rate with the lowest loss.
    """
    shown = shuffled(targets, np.random.default_rng(settings.seed), balanced)
    order = np.resize(shown, steps * settings.batch_size)

    def ordered(batches: Sequence[np.ndarray], epoch: int) -> Iterator[np.ndarray]:
        return read([order[indices] for indices in batches], epoch)

    own = None if weights is None else weights[order]
    batches = Batches(ordered, targets[order], settings.batch_size, None, own, mix=mix)
    rates = np.geomspace(_LOWEST, _HIGHEST, steps)
    first = model.get_weights()
    plain = replace(settings, schedule="constant", warmup=0.0, average="none")
    make_ready(model, plain, batches)
    before = _Rising(rates)
    model.evaluate(batches, callbacks=[before], verbose=0)
    after = _Rising(rates, before.losses)
    model.fit(batches, shuffle=False, callbacks=[after], verbose=0)
    model.set_weights(first)
    return _found(rates, np.array(before.losses), np.array(after.losses))


def _found(rates: np.ndarray, before: np.ndarray, after: np.ndarray) -> dict[str, Any]:
    changes = np.minimum(np.nan_to_num(after, nan=np.inf), 1e3) - before[: len(after)]
    smoothed = []
    value = 0.0
    for number, change in enumerate(changes, 1):
        value = _SMOOTHING * value + (1 - _SMOOTHING) * float(change)
        smoothed.append(value / (1 - _SMOOTHING**number))
    lowest = int(np.argmin(smoothed))
    return {
        "suggested": float(f"{_SHARE * rates[lowest]:.2g}"),
        "rates": [float(f"{rate:.4g}") for rate in rates[: len(after)]],
        "changes": [round(value, 6) for value in smoothed],
    }
