"""One recipe, from photos to a run folder. Reads from top to bottom as the story; needs TensorFlow."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np

from finetune.activations.cache import Work
from finetune.backend import peak_bytes, reset_peak
from finetune.evaluation.explained import explain_test
from finetune.execution.costs import Calibration, estimate
from finetune.files import locked
from finetune.model.cut import split
from finetune.model.heads import CLASSIFIER
from finetune.model.network import audit, frozen_digests, multiply_adds
from finetune.progress import Reporter
from finetune.recipe.recipe import Recipe
from finetune.recipe.strategies import STRATEGIES
from finetune.runs import record
from finetune.training.fit import Batches, Settings, fit, read_views
from finetune.training.linear_head import fit_linear

CHECKPOINT = "checkpoint.npz"
_HEAD_SETTINGS = {
    "epochs": 100,
    "patience": 5,
    "learning_rate": 1e-3,
}  # a head with a hidden layer, before unfreezing


def run_trial(recipe: Recipe, out: Path, reporter: Reporter) -> dict[str, Any]:
    """Train one recipe and write its run folder; a checkpoint in the folder is continued.

    Args:
        recipe: fully resolved.
        out: the run folder.
        reporter: told of progress.

    Returns:
        What ``run --json`` prints.

    Raises:
        FinetuneError: see its subclasses; nothing half-made is left in ``out``.
    """
    with locked(out):
        started = time.perf_counter()
        reset_peak()
        work = Work.prepare(recipe, reporter)
        record.begin(out, recipe, work.dataset)
        seconds = {"extract": work.gather()}
        before = frozen_digests(work.network.whole)
        seconds["train"], history, head = _timed(learn, work, out)
        checked = audit(work.network.whole, before)
        reporter.say(f"freeze audit: {checked['frozen']} frozen variables, none moved")
        predictions = {name: work.predict(name) for name in ("validation", "test")}
        seconds["total"] = time.perf_counter() - started
        result = {
            "run": str(out),
            "backbone": recipe.backbone,
            "strategy": recipe.strategy,
            "cut": recipe.cut,
            "parameters": work.network.parameters(),
            "split": work.dataset.digest,
            "listed": work.listed,
            "seconds": {name: round(value, 3) for name, value in seconds.items()},
            "extracted": work.extracted,
            "cost": {
                "extraction_seconds": round(sum(rows.seconds for rows in work.rows.values()), 3),
                "stored_bytes": sum(rows.nbytes for rows in work.rows.values()),
                "peak_memory": peak_bytes(),
                "multiply_adds": multiply_adds(work.network.whole),
            },
            "weights": vars(work.network.loaded),
            "head": head,
            "audit": checked,
        }
        sheet = explain_test(
            work.network.tail,
            work.rows["test", 0],
            work.dataset,
            predictions["test"],
            recipe.resize,
            reporter,
        )
        return record.finish(
            out, recipe, work.dataset, work.network.whole, history, predictions, result, sheet
        )


def plan_trial(recipe: Recipe, reporter: Reporter) -> dict[str, Any]:
    """What ``run --dry-run`` prints: the cut, both sides of it, what would be computed and stored, and how long it takes."""
    work = Work.prepare(recipe, reporter)
    planned = work.plan()
    return planned | {"estimate": estimate(work, planned, Calibration())}


def learn(work: Work, out: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Converge the head, then train the tail; returns the history and how the head was fitted."""
    recipe = work.recipe
    history: list[dict[str, Any]] = []
    head: dict[str, Any] = {"solver": recipe.head.solver}
    head_only = STRATEGIES[recipe.strategy].learns == "head"
    if recipe.head.solver == "lbfgs" or not head_only:
        history, found = converge_head(work)
        head |= found
    if recipe.head.solver == "lbfgs" and head_only:
        return history, head
    train = Batches(
        work.train_reader(), work.dataset.labels("train"), recipe.batch_size, recipe.seed
    )
    validation = work.batches("validation")
    return history + _phase(
        work, work.network.tail, train, validation, "tail", _settings(work), out
    ), head


def _phase(
    work: Work, model, train, validation, phase: str, settings: Settings, out: Path | None = None
) -> list[dict[str, Any]]:
    """One phase of training, its progress shown."""
    photos = len(work.dataset.split("train"))
    with work.reporter.stage(
        f"{phase}, at most {settings.epochs} epochs", photos * settings.epochs
    ) as advance:
        callbacks: list[keras.callbacks.Callback] = [_Bar(advance, photos, settings.batch_size)]
        if work.recipe.tensorboard and out:
            callbacks.append(keras.callbacks.TensorBoard(out / "tensorboard"))
        checkpoint = out / CHECKPOINT if out else None
        text = work.recipe.dump() + work.dataset.digest  # other photos are another training
        return fit(
            model,
            train,
            validation,
            settings,
            phase,
            text,
            checkpoint,
            callbacks,
            work.reporter.epoch,
        )


def _settings(work: Work, **changes: Any) -> Settings:
    recipe, labels = work.recipe, work.dataset.labels("train")
    values = {
        name: getattr(recipe, name)
        for name in ("epochs", "patience", "batch_size", "learning_rate")
    }
    values |= {name: getattr(recipe, name) for name in ("schedule", "weight_decay", "seed")}
    counts = np.bincount(labels)
    balanced = {index: len(labels) / (len(counts) * count) for index, count in enumerate(counts)}
    return Settings(
        **values | changes, class_weight=balanced if recipe.class_weight == "balanced" else None
    )


def converge_head(work: Work) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Fit the head on features of the frozen backbone: unfreezing below a random head would destroy them."""
    recipe, settings = work.recipe, _settings(work, **_HEAD_SETTINGS)
    features = [work.features("train", view) for view in range(work.stored_views + 1)]
    validation, labels = work.features("validation"), work.dataset.labels("train")
    if recipe.head.solver == "lbfgs":
        stacked = np.concatenate(features), np.tile(labels, len(features))
        linear = fit_linear(
            *stacked, validation, work.dataset.labels("validation"), settings.class_weight
        )
        work.network.whole.get_layer(CLASSIFIER).set_weights([linear.kernel, linear.bias])
        found = {"c": linear.c, "validation_loss": linear.validation_loss}
        work.reporter.say(
            f"head: L-BFGS, penalty 1/{linear.c:g}, validation loss {linear.validation_loss:.4f}"
        )
        return [], found
    model = split(work.network.whole, recipe.head.pool).tail
    train = Batches(read_views(features), labels, recipe.batch_size, recipe.seed)
    held_out = Batches(
        read_views([validation]), work.dataset.labels("validation"), recipe.batch_size
    )
    return _phase(work, model, train, held_out, "head", settings), {}


class _Bar(keras.callbacks.Callback):
    """Tells a bar of every batch that was trained on."""

    def __init__(self, advance: Callable[[int], None], photos: int, batch_size: int):
        super().__init__()
        self._advance, self._photos, self._size = advance, photos, batch_size

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        self._advance(min(self._size, self._photos - batch * self._size))


def _timed(function, *args: Any) -> tuple:
    start = time.perf_counter()
    found = function(*args)
    return (time.perf_counter() - start, *found)
