"""One trial, from photos to a run folder. Reads from top to bottom as the story; needs
TensorFlow.
"""

import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np
from PIL.Image import Image

from finetune.activations.rows import close_shards
from finetune.backend import release_generators, reset_peak
from finetune.data.audit import warnings_of
from finetune.data.dataset import Dataset
from finetune.data.overlap import look_alikes, overlap, overlap_warning
from finetune.data.photos import read_photos
from finetune.errors import UsageError
from finetune.evaluation.explained import explain_test
from finetune.execution.bench import Bench, gather, read_dataset
from finetune.execution.crossing import check_folds, cross_validate
from finetune.execution.findings import Findings, result_of
from finetune.execution.learning import Learner
from finetune.execution.saving import check_fidelity, write_openvino
from finetune.execution.sharing import Need, needs, settled, stored_views
from finetune.files import commit_csv, locked
from finetune.model.network import Network, audit
from finetune.progress import SILENT, Reporter, Warnings, count
from finetune.recipe.methods import dropout_warning
from finetune.recipe.recipe import Recipe
from finetune.recipe.strategies import STRATEGIES
from finetune.runs import record
from finetune.runs.folder import RunResult
from finetune.training.linear_head import check_size
from finetune.training.trackers import Tracker, numbers, tracked


def run_trial(
    recipe: Recipe,
    out: Path,
    reporter: Reporter = SILENT,
    dataset: Dataset | None = None,
    bench: Bench | None = None,
    started: float | None = None,
    parent: str = "",
    for_use: bool = False,
) -> RunResult:
    """Train one recipe and write its run folder; a checkpoint in the folder is continued.

    Args:
        recipe: fully resolved.
        out: the run folder.
        reporter: of progress.
        dataset: the photos, if they are read already.
        bench: what earlier trials of this process left.
        started: ``time.perf_counter()`` when the command began.
        parent: the tracker's run that this one is a child of, see ``training.trackers``.
        for_use: also leave the network as OpenVINO IR, which `predict` opens without TensorFlow;
            else that is done by the first `predict`.

    Raises:
        FinetuneError: see its subclasses; nothing half-made is left in ``out``.
    """
    bench = bench or Bench()
    try:
        with (
            locked(out),
            tracked(recipe.track, out.name, reporter.warn, recipe.model_dump(), parent) as tracker,
        ):
            result = _run(recipe, out, reporter, dataset, bench, started, tracker, for_use)
            tracker.finish(numbers(result.to_json()), out)
            return result
    except BaseException:
        bench.forget()
        raise
    finally:
        close_shards()
        release_generators()


def _run(
    recipe: Recipe,
    out: Path,
    reporter: Reporter,
    dataset: Dataset | None,
    bench: Bench,
    started: float | None,
    tracker: Tracker,
    for_use: bool,
) -> RunResult:
    begun = time.perf_counter()
    reset_peak()
    recipe = settled(recipe)
    record.check_free(out, recipe)
    dataset = dataset or read_dataset(recipe)
    learner = _prepare(recipe, out, reporter, dataset, bench, tracker)
    extracted = time.perf_counter()
    head = learner.fit_head()
    history = [*head.pop("history", []), *learner.train_tail()]
    trained = time.perf_counter()
    findings = _examine(learner)
    finished = time.perf_counter()
    # Of a training that was gone on with, this process saw only the end.
    epochs = sum(row["seconds"] for row in history)
    seconds = {
        "extract": extracted - begun,
        "train": max(trained - extracted, epochs),
        "total": finished - begun,
    }
    if for_use:
        write_openvino(learner)
    result = result_of(learner, out, dataset.digest, seconds, head, findings)
    return record.finish(
        out,
        recipe,
        learner.dataset,
        partial(learner.network.save, only_classifier=learner.linear is not None and not for_use),
        history,
        findings.probabilities,
        result,
        findings.explanations,
        started or begun,
    )


def _prepare(
    recipe: Recipe, out: Path, reporter: Reporter, dataset: Dataset, bench: Bench, tracker: Tracker
) -> Learner:
    """The network and the rows that it learns from; the run folder is begun."""
    network, cache = bench.prepare(recipe, len(dataset.classes), reporter)
    _check_memory(recipe, dataset, network)
    record.begin(out, recipe, dataset)
    warnings = Warnings(reporter, warnings_of(dataset, recipe.is_balanced))
    warnings.add(dropout_warning(recipe))
    dataset, rows = gather(recipe, dataset, cache, needs(recipe))
    if recipe.folds:
        check_folds(recipe, dataset, look_alikes(dataset, reporter) or [])
    return Learner(
        recipe, dataset, network, cache, rows, reporter, bench, out, warnings, tracker=tracker
    )


def _examine(learner: Learner) -> Findings:
    """Audit what was learned and classify the photos that it was held back from."""
    dataset = learner.dataset
    network = learner.network
    reporter = learner.reporter
    shared = overlap(dataset, reporter)
    is_shown = bool(shared["test_photos"])
    learner.warnings.add(overlap_warning(shared), is_shown_elsewhere=is_shown)
    checked = audit(network.whole, network.frozen)
    reporter.say(f"freeze audit: {count(checked['frozen'], 'frozen variable')}, none moved")
    found = {split: learner.probabilities(split) for split in ("validation", "test")}
    fidelity = check_fidelity(learner, found["validation"])
    sheet = _explained(learner, found["test"])
    return Findings(shared, checked, found, fidelity, sheet, _cross_validated(learner))


def _explained(learner: Learner, probabilities: np.ndarray) -> Image | None:
    """Where the network looks, by its stored activations; joined features have no places, and the
    whole network is asked.
    """
    recipe = learner.recipe
    dataset = learner.dataset
    photos = dataset.split("test")
    lost = np.zeros((recipe.image_size, recipe.image_size, 3), np.uint8)  # is left out later

    def pixels(chosen: Sequence[int] | np.ndarray) -> np.ndarray:
        stream = read_photos(learner.cache.pixels(0), [photos[index].path for index in chosen])
        return np.stack([lost if isinstance(found, str) else found for _, found in stream])

    network, inputs = learner.network.tail, learner.rows[Need(recipe.cut, "test", 0)].__getitem__
    if recipe.features and recipe.cut == recipe.top:
        network, inputs = learner.network.whole, pixels
    reporter = learner.reporter
    return explain_test(network, inputs, dataset, probabilities, recipe.resize, reporter)


def _cross_validated(learner: Learner) -> dict[str, Any] | None:
    """The recipe's figures over folds, on a bench of their own: the trained network stays."""
    recipe = learner.recipe
    if not recipe.folds or learner.out is None:
        return None
    bench = Bench()
    summary, rows = cross_validate(
        recipe,
        learner.dataset,
        lambda fold: try_trial(recipe, fold, bench, split="test"),
        learner.reporter,
    )
    commit_csv(learner.out / "folds.csv", rows)
    return summary


def try_trial(
    recipe: Recipe,
    dataset: Dataset,
    bench: Bench,
    watch: keras.callbacks.Callback | None = None,
    reporter: Reporter = SILENT,
    split: str = "validation",
) -> tuple[np.ndarray, np.ndarray]:
    """Train one recipe and classify the photos of one split, and no others; writes no folder.

    Args:
        recipe: fully resolved.
        dataset: the photos.
        bench: what earlier trials of this process left.
        watch: a callback of the tail's epochs, which may stop the training.
        reporter: of progress.
        split: whose photos are classified.

    Returns:
        Probabilities, float32 (n, classes), and labels, int (n,), of those photos.

    Raises:
        FinetuneError: see its subclasses.
    """
    try:
        learner = _learner(settled(recipe), dataset, bench, watch, reporter)
        learner.fit_head()
        learner.train_tail()
        audit(learner.network.whole, learner.network.frozen)
        return learner.probabilities(split), learner.dataset.labels(split)
    except BaseException:
        bench.forget()
        raise
    finally:
        close_shards()
        release_generators()


def _learner(
    recipe: Recipe,
    dataset: Dataset,
    bench: Bench,
    watch: keras.callbacks.Callback | None,
    reporter: Reporter,
) -> Learner:
    """A trial that writes no folder, with its rows."""
    network, cache = bench.prepare(recipe, len(dataset.classes), reporter)
    _check_memory(recipe, dataset, network)
    dataset, rows = gather(recipe, dataset, cache, needs(recipe))
    warnings = Warnings(reporter, [])
    return Learner(recipe, dataset, network, cache, rows, reporter, bench, None, warnings, watch)


def find_rate(recipe: Recipe, reporter: Reporter = SILENT) -> dict[str, Any]:
    """The range test of a recipe's learning rate, from a converged head, see ``range_test``.

    Raises:
        UsageError: nothing of the recipe is trained by epochs. FinetuneError: see its subclasses.
    """
    if STRATEGIES[recipe.strategy].learns == "head" and recipe.head.solver == "lbfgs":
        raise UsageError(
            "L-BFGS fits this head without a learning rate. --find-lr needs a recipe that trains "
            "by epochs: --strategy top-blocks, or --set head.solver=keras."
        )
    recipe = settled(recipe)
    try:
        learner = _learner(recipe, read_dataset(recipe), Bench(), None, reporter)
        learner.fit_head()
        start = time.perf_counter()
        return learner.find_rate() | {"seconds": round(time.perf_counter() - start, 2)}
    finally:
        close_shards()
        release_generators()


def _check_memory(recipe: Recipe, dataset: Dataset, network: Network) -> None:
    if recipe.head.solver == "lbfgs":
        photos = len(dataset.split("train")) * (1 + stored_views(recipe))
        learns_head_only = STRATEGIES[recipe.strategy].learns == "head"
        check_size(photos, network.features, learns_head_only)
