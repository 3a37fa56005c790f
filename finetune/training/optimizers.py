"""Steps and rates of a training: Keras's optimizers with a rate and an anchor for each variable."""

import math
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

EMA_MOMENTUM = 0.99  # of the averaged weights: they look back over about 100 steps
_ONE_CYCLE = (0.3, 0.04)  # share of its steps that warm up, and the first rate as a share


class Schedule(keras.optimizers.schedules.LearningRateSchedule):
    """A linear warm-up, then a constant rate or half a cosine down to 0.

    ``one-cycle`` warms up from a 25th of the rate over 0.3 of the steps (Smith & Topin, Super-
    Convergence, arXiv:1708.07120, without its cycle of momentum); Keras has no such schedule, and
    no warm-up before a constant rate.

    Args:
        peak: the largest rate.
        steps: of the whole training.
        name: ``constant``, ``cosine`` or ``one-cycle``.
        warmup: a share of the steps below 1, else steps.
    """

    def __init__(self, peak: float, steps: int, name: str, warmup: float = 0.0):
        share, self.first = _ONE_CYCLE if name == "one-cycle" else (warmup, 0.0)
        self.peak = peak
        self.steps = steps
        self.name = name
        self.warm = round(share * steps) if share < 1 else int(share)

    def __call__(self, step: Any) -> Any:
        ops = keras.ops
        step = ops.cast(step, "float32")
        # the first of all steps is already one: a rate of 0 would waste a batch
        rising = self.first + (1 - self.first) * (step + 1) / max(1, self.warm)
        falling = ops.ones_like(step)
        if self.name != "constant":
            done = ops.clip((step - self.warm) / max(1, self.steps - self.warm), 0.0, 1.0)
            falling = 0.5 * (1 + ops.cos(math.pi * done))
        return self.peak * ops.where(step < self.warm, rising, falling)

    def get_config(self) -> dict[str, Any]:
        """Keras asks for one; no tail is saved with its optimizer."""
        return {"peak": self.peak, "steps": self.steps, "name": self.name, "warmup": self.warm}


class _EachItsOwn:
    """Mixed into an optimizer: a rate and an anchor for each variable, in the order of ``build``.

    An anchor is a penalty in the training loss, strength / 2 * |w - w0|^2, w0 being the weights at
    the beginning of the training.

    Scaling the rate is exact for Adam, whose steps do not depend on the size of gradients. Weight
    decay is decoupled, and falls with the variable's own rate.
    """

    def prepare(
        self,
        variables: list[keras.Variable],
        rates: list[float],
        strengths: list[float],
        decay: float,
    ) -> None:
        self.build(variables)  # type: ignore[attr-defined]
        self._rates = rates
        self._strengths = strengths
        self._decay = decay
        # not of the optimizer's ``variables``, which a second training sets to 0
        self._first = [
            keras.Variable(variable.numpy(), trainable=False) if strength else None
            for variable, strength in zip(variables, strengths, strict=True)
        ]

    def begin(self, variables: list[keras.Variable]) -> None:
        """Anchor to the weights as they are now."""
        for first, variable in zip(self._first, variables, strict=True):
            if first is not None:
                first.assign(variable)

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        place = self._get_variable_index(variable)  # type: ignore[attr-defined]
        rate = learning_rate * self._rates[place]
        first = self._first[place]
        if first is not None:
            gradient = gradient + self._strengths[place] * (variable - first.value)
        if self._decay:
            variable.assign_sub(variable * self._decay * rate)
        super().update_step(gradient, variable, rate)  # type: ignore[misc]


class Adam(_EachItsOwn, keras.optimizers.Adam):
    """Adam with a rate and an anchor for each variable."""


class SGD(_EachItsOwn, keras.optimizers.SGD):
    """Gradient descent with a rate and an anchor for each variable."""


def make_optimizer(
    model: keras.Model,
    name: str,
    rate: Any,
    momentum: float,
    weight_decay: float,
    average: str,
    rates: Mapping[str, float],
    anchors: Mapping[str, float],
) -> Adam | SGD:
    """The optimizer of a model, built.

    Args:
        model: its ``trainable`` flags are set.
        name: ``adam`` or ``sgd``, with ``momentum``.
        rate: a number or a schedule.
        momentum: of ``sgd``.
        weight_decay: decoupled, of every variable.
        average: ``ema`` keeps an exponential average of the weights beside them.
        rates: layer -> what its rate is multiplied by; 1 if it is not named.
        anchors: layer -> the strength that holds its kernel.
    """
    shared = {"use_ema": average == "ema", "ema_momentum": EMA_MOMENTUM}
    if name == "adam":
        optimizer: Adam | SGD = Adam(rate, **shared)
    else:
        optimizer = SGD(rate, momentum, **shared)
    variables = model.trainable_variables
    owners = {id(v): layer.name for layer in model.layers for v in layer.trainable_variables}
    names = [owners[id(variable)] for variable in variables]
    optimizer.prepare(
        variables,
        [rates.get(name, 1.0) for name in names],
        [
            # biases and the scales of norms are few, and not what overfits
            anchors.get(name, 0.0) if len(variable.shape) > 1 else 0.0
            for name, variable in zip(names, variables, strict=True)
        ],
        weight_decay,
    )
    return optimizer


def averaged(model: keras.Model) -> list[np.ndarray]:
    """A model's weights, in their order, those that learn as the optimizer's averages."""
    optimizer = model.optimizer
    averages = dict(
        zip(
            [variable.path for variable in optimizer._trainable_variables],
            optimizer._model_variables_moving_average,
            strict=True,
        )
    )
    return [averages.get(weight.path, weight).numpy() for weight in model.weights]
