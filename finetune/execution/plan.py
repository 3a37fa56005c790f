"""What a trial or a comparison will do and cost: needs TensorFlow, but trains nothing.

The cost comes from a calibration of about two seconds on this machine, and arithmetic
(docs/performance.md derives it):

seconds = listing + set-up + rows to extract / trunk speed + head
          + start of training + epochs * (training photos * step + validation photos * pass
                                          + streamed photos / trunk speed)
          + finish + folds * (head + training, of the photos that train in a fold)
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np

from finetune.activations.cache import ActivationCache
from finetune.activations.listing import nearest_difference
from finetune.data.dataset import SPLITS, Dataset
from finetune.errors import FinetuneError
from finetune.execution.bench import Bench, read_dataset
from finetune.execution.crossing import check_folds
from finetune.execution.sharing import (
    Entry,
    Need,
    entries,
    extractions,
    in_order,
    needs,
    settled,
    starts_head,
    stored_views,
)
from finetune.files import cache_dir
from finetune.model.backbones import INPUT
from finetune.model.network import Network
from finetune.progress import SILENT, Reporter
from finetune.recipe.matrix import Trial
from finetune.recipe.recipe import Recipe
from finetune.recipe.strategies import STRATEGIES

_CALIBRATION = 1.0  # seconds for each side of the cut, compilation not counted
_PHOTOS = 32  # of a batch of the calibration

# Measured on two AVX-512 cores with VGG16, ResNet50 and DenseNet121, see docs/performance.md; what
# a machine does faster or slower is in the calibration.
_STEP = (3.1, 0.035)  # a training step in engine passes: in all, and per layer that learns
_TRACE = (1.0, 0.03)  # seconds until training starts: in all, and per layer that learns
_HEAD_STEP = 2e-9  # seconds per photo, epoch and weight of a head trained by epochs
_LBFGS = (0.8, 1.5e-7)  # seconds, and seconds per photo and feature
_DECODE = 0.001  # seconds per photo that decoding takes from the trunk
_FINISH = (1.0, 2e-8)  # seconds, and seconds per parameter that is saved

Speed = tuple[float, float]  # set-up seconds, seconds per row


@dataclass
class Calibration:
    """Measured speeds, kept for every part of a network that was timed."""

    parts: dict[tuple, Speed] = field(default_factory=dict)

    def of(self, recipe: Recipe, cache: ActivationCache, source: str, target: str) -> Speed:
        """Time the engine between two cuts, once; (0, 0) where both are the same."""
        if source == target:
            return (0.0, 0.0)
        runs = (recipe.image_size, recipe.precision, recipe.engine)
        key = (recipe.backbone, recipe.alpha, *runs, source, target)
        if key not in self.parts:
            self.parts[key] = _timed(cache, source, target)
        return self.parts[key]


def _timed(cache: ActivationCache, source: str, target: str) -> Speed:
    start = time.perf_counter()
    # An int8 trunk that is still to be made is timed in float32: the longer time.
    is_made = cache.network.precision != "int8" or source != INPUT or cache.trunk.calibration
    engine = cache.trunk.engine(source, target, precision=None if is_made else "float32")
    shape = cache.network.tensor(source).shape[1:]
    photos = np.zeros((_PHOTOS, *shape), "uint8" if source == INPUT else "float32")
    list(engine([photos]))
    set_up = time.perf_counter() - start
    start = time.perf_counter()

    def batches() -> Iterator[np.ndarray]:
        for number in range(1000):
            if number and time.perf_counter() - start > _CALIBRATION:
                return
            yield photos

    rows = sum(len(batch) for batch in engine(batches()))
    return set_up, (time.perf_counter() - start) / rows


def plan_trial(
    recipe: Recipe,
    reporter: Reporter = SILENT,
    dataset: Dataset | None = None,
    calibration: Calibration | None = None,
) -> dict[str, Any]:
    """What ``run --dry-run`` prints: both sides of the cut, what is computed, stored, and how long.

    ``estimate`` holds the seconds by parts; ``seconds`` is their sum if every epoch is run and
    ``seconds_at_least`` if none helps.
    """
    start = time.perf_counter()
    recipe = settled(recipe)
    dataset = dataset or read_dataset(recipe)
    check_folds(recipe, dataset)
    network, cache = Bench().prepare(recipe, len(dataset.classes), reporter)
    listing = time.perf_counter() - start
    planned = _plan(recipe, dataset, network, cache)
    costs = _costs(recipe, planned, network, cache, calibration or Calibration())
    return planned | {"estimate": _summed(recipe, {"listing": listing, **costs}, planned)}


def _plan(
    recipe: Recipe, dataset: Dataset, network: Network, cache: ActivationCache
) -> dict[str, Any]:
    wanted = needs(recipe)
    missing = {
        need: cache.missing(dataset.split(need.split), need.cut, need.view) for need in wanted
    }
    sizes = {need: n * cache.row_bytes(need.cut, need.view) for need, n in missing.items()}
    is_fresh = recipe.views == "fresh"
    nearest = (
        nearest_difference(cache_dir(), cache.entry(recipe.cut)) if any(sizes.values()) else {}
    )
    return {
        "backbone": recipe.backbone,
        "strategy": recipe.strategy,
        "cut": recipe.cut,
        "precision": network.precision,
        "shape": list(network.tensor(recipe.cut).shape[1:]),
        "parameters": network.parameters(),
        "weights": dict(vars(network.loaded)),
        "photos": {name: len(dataset.split(name)) for name in SPLITS},
        "split": dataset.digest,
        "stored_rows": sum(len(dataset.split(need.split)) for need in wanted),
        "to_extract": sum(missing.values()),
        "through_trunk": _through_trunk(missing),
        "bytes_to_store": sum(sizes.values()),
        "nearest": nearest,
        "streamed_per_epoch": len(dataset.split("train")) if is_fresh else 0,
        "epochs": recipe.epochs * len(recipe.stages),
        "folds": recipe.folds * recipe.repeats,
    }


def _through_trunk(missing: dict[Need, int]) -> int:
    return sum(n for need, n in missing.items() if need.cut != INPUT)


def _costs(
    recipe: Recipe,
    planned: dict[str, Any],
    network: Network,
    cache: ActivationCache,
    calibration: Calibration,
) -> dict[str, float]:
    """Seconds by parts; ``training`` is that of one epoch."""
    photos = planned["photos"]
    deepest = network.top if recipe.cut == INPUT else recipe.cut
    uses_trunk = planned["through_trunk"] or (planned["streamed_per_epoch"] and recipe.cut != INPUT)
    trunk = calibration.of(recipe, cache, INPUT, deepest) if uses_trunk else (0.0, 0.0)
    tail = calibration.of(recipe, cache, recipe.cut, network.top)
    learning = _learning_layers(network)
    blocks_learn = STRATEGIES[recipe.strategy].learns != "head"
    per_row = trunk[1] + _DECODE
    streams = planned["streamed_per_epoch"] * (_DECODE if recipe.cut == INPUT else per_row)
    step = (_STEP[0] + _STEP[1] * learning) * tail[1]
    head_step = planned["parameters"]["trainable"] * _HEAD_STEP
    epoch = photos["train"] * (step + head_step) + photos["validation"] * tail[1] + streams
    heads = tail[0] + (photos["train"] + photos["validation"]) * tail[1] if blocks_learn else 0.0
    return {
        "extraction": (planned["to_extract"] > 0) * trunk[0]
        + planned["through_trunk"] * trunk[1]
        + planned["to_extract"] * _DECODE,
        "head": heads + _head(recipe, photos, network),
        "compilation": _TRACE[0] + _TRACE[1] * learning,
        "training": epoch,
        "finish": _FINISH[0]
        + _FINISH[1] * planned["parameters"]["total"]
        + (photos["validation"] + photos["test"]) * tail[1],
    }


def _learning_layers(network: Network) -> int:
    return sum(isinstance(layer, keras.Layer) and layer.trainable for layer in network.tail.layers)


def _head(recipe: Recipe, photos: dict[str, int], network: Network) -> float:
    """Seconds of L-BFGS, where it fits the head."""
    if not starts_head(recipe) or recipe.head.hidden:
        return 0.0
    rows = photos["train"] * (1 + stored_views(recipe))
    return _LBFGS[0] + _LBFGS[1] * rows * network.features


def _summed(recipe: Recipe, costs: dict[str, float], planned: dict[str, Any]) -> dict[str, float]:
    is_fitted = recipe.head.solver == "lbfgs" and STRATEGIES[recipe.strategy].learns == "head"
    epochs = 0 if is_fitted else planned["epochs"]
    epoch = costs["training"]
    parts = {**costs, "training": epochs * epoch}
    if not epochs:
        parts["compilation"] = 0.0
    spared = max(0, epochs - recipe.patience) * epoch
    if recipe.folds:
        photos = planned["photos"]
        share = (1 - 2 / recipe.folds) * sum(photos.values()) / max(1, photos["train"])
        fold = (parts["head"] + parts["training"]) * share + parts["compilation"]
        parts["folds"] = planned["folds"] * fold
        spared *= 1 + planned["folds"] * share
    total = sum(parts.values())
    found = {"seconds": total, "seconds_at_least": total - spared, "per_epoch": epoch, **parts}
    return {name: round(value, 2) for name, value in found.items()}


def plan_trials(trials: Sequence[Trial], reporter: Reporter = SILENT) -> dict[str, Any]:
    """What ``compare --dry-run --json`` prints: trials, shared extractions, bytes, a rough time.

    ``seconds`` and ``seconds_at_least`` are as in ``plan_trial``, without starting the worker.
    """
    rows: list[dict[str, Any]] = []
    planned: set[Entry] = set()
    calibration = Calibration()
    for trial in in_order(trials):
        own = set(entries(trial.recipe))
        passes = {entry.trunk_pass for entry in own}
        shares = passes <= {entry.trunk_pass for entry in planned}
        row: dict[str, Any] = {"name": trial.name, "shares": shares, "reason": None}
        try:
            row |= _shared_cost(trial.recipe, reporter, calibration, shares, own <= planned)
            planned |= own
        except FinetuneError as error:
            row["reason"] = str(error)
        rows.append(row)
    failed = {row["name"] for row in rows if row["reason"] is not None}
    recipes = [trial.recipe for trial in trials if trial.name not in failed]
    alone = sum(extractions([recipe]) for recipe in recipes)
    totals = {
        key: round(sum(row.get(key, 0) for row in rows), 1)
        for key in ("seconds", "seconds_at_least")
    }
    return {
        "cells": rows,
        "test_photos": min((row.pop("test") for row in rows if "test" in row), default=0),
        "extractions": extractions(recipes),
        "extractions_saved": alone - extractions(recipes),
        "bytes_to_store": sum(row.get("bytes_to_store", 0) for row in rows),
        **totals,
    }


def _shared_cost(
    recipe: Recipe, reporter: Reporter, calibration: Calibration, shares: bool, is_stored: bool
) -> dict[str, Any]:
    """A trial's row of the plan: what the pass of an earlier trial computes or stores is no cost of
    its own.
    """
    planned = plan_trial(recipe, reporter, calibration=calibration)
    estimate = planned["estimate"]
    spared = estimate["extraction"] if shares else 0.0
    return {
        "test": planned["photos"]["test"],
        "to_extract": 0 if shares else planned["to_extract"],
        "bytes_to_store": 0 if is_stored else planned["bytes_to_store"],
        "seconds": round(estimate["seconds"] - spared, 2),
        "seconds_at_least": round(estimate["seconds_at_least"] - spared, 2),
    }
