"""What a run will cost: a calibration of about two seconds on this machine, and arithmetic. docs/performance.md derives it.

seconds = listing + set-up + rows to extract / trunk speed + head
          + compilation + epochs * (training photos * step + validation photos * pass + streamed photos / trunk speed)
          + finish
"""

import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from finetune.activations.cache import Work
from finetune.activations.engine import Engine, batch_size
from finetune.model.backbones import INPUT
from finetune.model.cut import find_cut
from finetune.recipe.strategies import STRATEGIES

_CALIBRATION = 1.0  # seconds for each side of the cut, compilation not counted

# Measured on two AVX-512 cores, see docs/performance.md; what a machine does faster or slower is in the calibration.
_STEP = {
    "vgg16": 3.6,
    "resnet50": 5.0,
    "densenet121": 8.0,
}  # a training step of the top block, in engine passes
_COMPILE = {
    "vgg16": 2.5,
    "resnet50": 5.0,
    "densenet121": 13.5,
}  # seconds until XLA has compiled the steps of one batch size
_HEAD_STEP = 2e-9  # seconds per photo, epoch and weight of a head trained by epochs
_LBFGS = (0.8, 1.5e-7)  # seconds, and seconds per photo and feature
_DECODE = 0.001  # seconds per photo that decoding takes from the trunk
_FINISH = (1.5, 2e-8)  # seconds, and seconds per parameter that is saved


@dataclass
class Calibration:
    """Measured speeds, kept for every part of a network that was timed: (set-up seconds, seconds per row)."""

    parts: dict[tuple, tuple[float, float]] = field(default_factory=dict)

    def of(self, work: Work, source: str, target: str) -> tuple[float, float]:
        """Time the engine between two cuts, once; (0, 0) where both are the same."""
        key = (work.recipe.backbone, work.recipe.image_size, work.recipe.engine, source, target)
        if key not in self.parts:
            self.parts[key] = _time_part(work, source, target) if source != target else (0.0, 0.0)
        return self.parts[key]


def _time_part(work: Work, source: str, target: str) -> tuple[float, float]:
    start = time.perf_counter()
    engine = work.engine(source, target)
    shape, dtype = (
        find_cut(work.network.whole, source).shape[1:],
        "uint8" if source == INPUT else "float32",
    )
    photos = np.zeros((batch_size(), *shape), dtype)
    list(engine([photos]))
    return time.perf_counter() - start, _seconds_per_row(engine, photos)


def _seconds_per_row(engine: Engine, photos: np.ndarray) -> float:
    """From as many batches as fit into the time of a calibration, at least four: enough to fill the engine's streams."""
    start = time.perf_counter()

    def batches():
        for number in range(1000):
            if number >= 4 and time.perf_counter() - start > _CALIBRATION:
                return
            yield photos

    rows = sum(len(batch) for batch in engine(batches()))
    return (time.perf_counter() - start) / rows


def estimate(work: Work, plan: dict[str, Any], calibration: Calibration) -> dict[str, float]:
    """Seconds of a run by its parts; ``seconds`` is their sum if every epoch is run, ``seconds_at_least`` if none helps.

    Args:
        work: prepared.
        plan: what ``work.plan`` says of it.
        calibration: is asked for what it has not timed yet.
    """
    recipe, photos = work.recipe, plan["photos"]
    blocks_learn = STRATEGIES[recipe.strategy].learns != "head"
    trunk = (
        calibration.of(work, INPUT, recipe.cut)
        if plan["to_extract"] or plan["streamed_per_epoch"]
        else (0.0, 0.0)
    )
    tail = calibration.of(work, recipe.cut, work.network.top)
    per_row = trunk[1] + _DECODE
    parts = {
        "listing": work.seconds_before + work.seconds_building,
        "extraction": (plan["to_extract"] > 0) * trunk[0] + plan["to_extract"] * per_row,
        "head": _head(work, photos)
        + blocks_learn * (tail[0] + (photos["train"] + photos["validation"]) * tail[1]),
        "finish": _FINISH[0]
        + _FINISH[1] * plan["parameters"]["total"]
        + (photos["validation"] + photos["test"]) * tail[1],
    }
    epochs = 0 if recipe.head.solver == "lbfgs" and not blocks_learn else recipe.epochs
    epoch = (
        plan["streamed_per_epoch"] * per_row
        + photos["train"] * plan["parameters"]["trainable"] * _HEAD_STEP
    )
    epoch += tail[1] * (_STEP[recipe.backbone] * photos["train"] + photos["validation"])
    batch_sizes = 1 + (
        photos["train"] % recipe.batch_size > 0
    )  # a smaller last batch is compiled by itself
    started = (batch_sizes * _COMPILE[recipe.backbone] if blocks_learn else 1.0) if epochs else 0.0
    parts |= {"compilation": started, "training": epochs * epoch}
    total, at_least = (
        sum(parts.values()),
        sum(parts.values()) - max(0, epochs - recipe.patience) * epoch,
    )
    told = {"seconds": total, "seconds_at_least": at_least, "per_epoch": epoch, **parts}
    return {name: round(value, 2) for name, value in told.items()}


def _head(work: Work, photos: dict[str, int]) -> float:
    """Seconds of L-BFGS, where it fits the head."""
    if work.recipe.head.solver != "lbfgs":
        return 0.0
    features = work.network.whole.get_layer(work.recipe.head.pool).output.shape[-1]
    return _LBFGS[0] + _LBFGS[1] * photos["train"] * (1 + work.stored_views) * features
