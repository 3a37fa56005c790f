"""One trial, from photos to a run folder. Reads from top to bottom as the story; needs
TensorFlow.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np

from finetune.activations.cache import ActivationCache
from finetune.activations.engine import resolve_engine
from finetune.activations.rows import close_shards
from finetune.backend import peak_bytes, release_generators, reset_peak
from finetune.data.audit import warnings_of
from finetune.data.dataset import Dataset
from finetune.data.overlap import overlap, overlap_warning
from finetune.data.photos import Photo, read_photos
from finetune.errors import IntegrityError
from finetune.evaluation.caveats import caveats, unseen
from finetune.evaluation.explained import explain_test
from finetune.evaluation.fidelity import PHOTOS, fidelity
from finetune.execution.bench import Bench, StoredRows, cache_entries, gather, read_dataset
from finetune.execution.crossing import cross_validate
from finetune.execution.sharing import (
    Need,
    head_needs,
    needs,
    settled,
    starts_head,
    stored_views,
    tail_precision,
)
from finetune.files import commit_csv, digest_of, locked
from finetune.model.backbones import INPUT
from finetune.model.describe import multiply_adds
from finetune.model.heads import pool_maps
from finetune.model.network import Network, audit
from finetune.progress import SILENT, Reporter, count
from finetune.recipe.recipe import Recipe
from finetune.recipe.strategies import STRATEGIES
from finetune.runs import record
from finetune.runs.folder import RunResult
from finetune.runs.ir import write_int8, write_ir
from finetune.training.fit import Batches, Settings, best_epoch, fit, read_views
from finetune.training.linear_head import Linear, check_size, fit_linear, fits_memory
from finetune.training.trackers import Tracker, log_epoch, numbers, tracked

_CHECKED = 4  # photos that the network is compared on as OpenVINO and as Keras compute it
_HEAD_SETTINGS = {  # with a hidden layer
    "epochs": 100,
    "patience": 5,
    "learning_rate": 1e-3,
    "optimizer": "adam",
    "momentum": 0.0,
}


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
    network, cache = bench.prepare(recipe, len(dataset.classes), reporter)
    _check_memory(recipe, dataset, network)
    record.begin(out, recipe, dataset)
    warnings = _Warnings(reporter, warnings_of(dataset, recipe.class_weight == "balanced"))
    listed = dataset.digest
    dataset, rows = gather(recipe, dataset, cache, needs(recipe))
    extracted = time.perf_counter()
    trial = _Trial(recipe, dataset, network, cache, rows, reporter, bench, out, warnings)
    trial.tracker = tracker
    head = trial.fit_head()
    history = [*head.pop("history", []), *trial.train_tail()]
    trained = time.perf_counter()
    shared = overlap(dataset, reporter)
    warnings.add(overlap_warning(shared), is_shown_elsewhere=bool(shared["test_photos"]))
    checked = audit(network.whole, network.frozen)
    reporter.say(f"freeze audit: {count(checked['frozen'], 'frozen variable')}, none moved")
    probabilities = {split: trial.probabilities(split) for split in ("validation", "test")}
    fidelity = trial.fidelity(probabilities["validation"])
    sheet = explain_test(
        network.tail,
        rows[Need(recipe.cut, "test", 0)],
        dataset,
        probabilities["test"],
        recipe.resize,
        reporter,
    )
    folds = _cross_validated(recipe, dataset, out, reporter)
    finished = time.perf_counter()
    seconds = {
        "extract": extracted - begun,
        "train": trained - extracted,
        "total": finished - begun,
    }
    if for_use:
        trial.write_ir()
    used = cache_entries(cache, rows)
    files = [photo.file for photo in dataset.split("test")]
    test = record.measured(dataset, "test", probabilities["test"])
    for caveat in caveats(test):
        warnings.add(caveat)
    result = RunResult(
        run=str(out),
        backbone=recipe.backbone,
        strategy=recipe.strategy,
        cut=recipe.cut,
        precision=network.precision,
        parameters=network.parameters(),
        split=dataset.digest,
        listed=listed,
        seconds={name: round(value, 3) for name, value in seconds.items()},
        extracted=cache.computed,
        entries=used,
        cost={
            "extraction_seconds": round(sum(entry["seconds"] for entry in used.values()), 3),
            "stored_bytes": sum(entry["bytes"] for entry in used.values()),
            "peak_memory": peak_bytes(),
            "multiply_adds": multiply_adds(network.whole),
        },
        weights=dict(vars(network.loaded)),
        head={"solver": recipe.head.solver, **head},
        audit=checked,
        validation=record.measured(dataset, "validation", probabilities["validation"]),
        test=test,
        leaks=shared["leaks"],
        near_duplicates=shared["near_duplicates"],
        unseen={
            **unseen(files, probabilities["test"], dataset.labels("test"), shared["test_photos"]),
            "look_alikes": shared["near_duplicates"] is not None,
        },
        warnings=warnings.texts,
        ignored=dataset.ignored,
        excluded=len(dataset.excluded),
        fidelity=fidelity,
        folds=folds,
    )
    return record.finish(
        out,
        recipe,
        dataset,
        partial(network.save, only_classifier=trial.linear is not None and not for_use),
        history,
        probabilities,
        result,
        sheet,
        started or begun,
    )


def _cross_validated(
    recipe: Recipe, dataset: Dataset, out: Path, reporter: Reporter
) -> dict[str, Any] | None:
    """The recipe's figures over folds, on a bench of their own: the trained network stays."""
    if not recipe.folds:
        return None
    bench = Bench()
    summary, rows = cross_validate(
        recipe, dataset, lambda fold: try_trial(recipe, fold, bench, split="test"), reporter
    )
    commit_csv(out / "folds.csv", rows)
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
        recipe = settled(recipe)
        network, cache = bench.prepare(recipe, len(dataset.classes), reporter)
        _check_memory(recipe, dataset, network)
        dataset, rows = gather(recipe, dataset, cache, needs(recipe))
        warnings = _Warnings(reporter, [])
        trial = _Trial(
            recipe, dataset, network, cache, rows, reporter, bench, None, warnings, watch
        )
        trial.fit_head()
        trial.train_tail()
        audit(network.whole, network.frozen)
        return trial.probabilities(split), dataset.labels(split)
    except BaseException:
        bench.forget()
        raise


class _Warnings:
    """What the run warns of, kept for its result."""

    def __init__(self, reporter: Reporter, texts: Sequence[str]):
        self.texts: list[str] = []
        self._reporter = reporter
        for text in texts:
            self.add(text)

    def add(self, text: str | None, is_shown_elsewhere: bool = False) -> None:
        """Warn, if there is anything to warn of; keep it unless the result says it in figures."""
        if text:
            self._reporter.warn(text)
        if text and not is_shown_elsewhere:
            self.texts.append(text)


def _check_memory(recipe: Recipe, dataset: Dataset, network: Network) -> None:
    if recipe.head.solver == "lbfgs":
        photos = len(dataset.split("train")) * (1 + stored_views(recipe))
        check_size(photos, network.features)


class _Trial:
    """A trial whose rows are there: fits its head, trains its tail, classifies."""

    def __init__(
        self,
        recipe: Recipe,
        dataset: Dataset,
        network: Network,
        cache: ActivationCache,
        rows: StoredRows,
        reporter: Reporter,
        bench: Bench,
        out: Path | None,
        warnings: _Warnings,
        watch: keras.callbacks.Callback | None = None,
    ):
        self.watch = watch  # of the tail's epochs
        self.warnings = warnings
        self.recipe = recipe
        self.dataset = dataset
        self.network = network
        self.cache = cache
        self.rows = rows
        self.reporter = reporter
        self.bench = bench
        self.out = out
        self.tracker: Tracker | None = None
        self.linear: Linear | None = None  # the whole of what was learned, if it is not None
        self.learns_head_only = STRATEGIES[recipe.strategy].learns == "head"

    def fit_head(self) -> dict[str, Any]:
        """Converge the head on features of the frozen backbone; returns how.

        Training below a random head would destroy the features.
        """
        if not starts_head(self.recipe):
            return {}
        labels = self.dataset.labels("train")
        photos = len(labels) * (1 + stored_views(self.recipe))
        is_linear = not self.recipe.head.hidden and fits_memory(photos, self.network.features)
        if self.recipe.head.solver == "keras" and not (self.learns_head_only and is_linear):
            return {"history": self._train_head()}
        linear = self._linear()
        self.network.set_classifier(linear.kernel, linear.bias)
        if self.learns_head_only and self.recipe.head.solver == "lbfgs":
            self.linear = linear
        self.reporter.say(
            f"head fitted by L-BFGS: C = {linear.c:.3g} (inverse penalty), "
            f"validation loss {linear.validation_loss:.4f}"
        )
        path = [list(step) for step in linear.path]
        return {"c": linear.c, "validation_loss": linear.validation_loss, "path": path}

    def _features(self) -> tuple[list[np.ndarray], np.ndarray]:
        """Those of each view of the training photos, and of the validation photos."""
        found = [
            self.cache.features(self.dataset.split(split), cut, view)
            for cut, split, view in head_needs(self.recipe)
        ]
        return found[:-1], found[-1]

    def _linear(self) -> Linear:
        wanted = head_needs(self.recipe)
        keys = [self.cache.entry(need.cut, need.view).key for need in wanted]
        settings = [self.network.pool, self.recipe.class_weight, self.dataset.digest]
        key = digest_of([keys, wanted, settings])
        if key not in self.bench.heads:
            views, validation = self._features()
            labels = self.dataset.labels("train")
            weights = self.dataset.weights("train")
            self.bench.heads[key] = fit_linear(
                np.concatenate(views),
                np.tile(labels, len(views)),
                validation,
                self.dataset.labels("validation"),
                self._class_weight(),
                None if weights is None else np.tile(weights, len(views)),
            )
        return self.bench.heads[key]

    def _train_head(self) -> list[dict[str, Any]]:
        """By epochs, where it has a hidden layer or its features do not fit into memory."""
        views, validation = self._features()
        labels = self.dataset.labels("train")
        size = self.recipe.batch_size
        train = Batches(read_views(views), labels, size, self.recipe.seed, self._weights())
        held_out = Batches(read_views([validation]), self.dataset.labels("validation"), size)
        settings = self._settings(**_HEAD_SETTINGS)
        return self._fit(self.network.head(), train, held_out, "head", settings)

    def train_tail(self) -> list[dict[str, Any]]:
        """Train what lies above the cut by epochs; the history, empty if L-BFGS has done it all."""
        if self.linear:
            return []
        recipe = self.recipe
        labels = self.dataset.labels("train")
        train = Batches(self._reader(), labels, recipe.batch_size, recipe.seed, self._weights())
        settings = self._settings()
        model = self.network.trained_copy(tail_precision(recipe), recipe.seed)
        history = self._fit(model, train, self._batches("validation"), "tail", settings, self.out)
        if model is not self.network.tail:
            self.network.tail.set_weights(model.get_weights())
        if 0 < settings.epochs == best_epoch(history):
            self.warnings.add(
                f"The last of {count(settings.epochs, 'epoch')} was the best: validation loss was "
                f"still falling. More may help: --epochs {2 * settings.epochs}."
            )
        return history

    def _reader(self) -> Callable[[Sequence[np.ndarray], int], Iterator[np.ndarray]]:
        """Training activations: stored views in turn, or fresh views through the trunk."""
        recipe = self.recipe
        if recipe.views != "fresh":
            views = range(stored_views(recipe) + 1)
            return read_views([self.rows[Need(recipe.cut, "train", view)] for view in views])
        photos = self.dataset.split("train")

        def read(batches: Sequence[np.ndarray], epoch: int) -> Iterator[np.ndarray]:
            chosen = [photos[index] for index in np.concatenate(batches)]
            keys = [f"fresh/{recipe.seed}/{epoch}/{photo.sha256}" for photo in chosen]
            return self.cache.stream(chosen, keys, recipe.cut, recipe.batch_size)

        return read

    def _batches(self, split: str) -> Batches:
        """Stored photos of a split, in order."""
        rows = self.rows[Need(self.recipe.cut, split, 0)]
        return Batches(read_views([rows]), self.dataset.labels(split), self.recipe.batch_size)

    def probabilities(self, split: str) -> np.ndarray:
        """Of a split's photos: float32 (n, classes)."""
        if self.linear and self.recipe.cut != INPUT:
            features = self.cache.features(self.dataset.split(split), self.recipe.cut)
            return self.linear.probabilities(features)
        return self.network.tail.predict(self._batches(split), verbose=0)

    def _exact(self, photos: Sequence[Photo]) -> np.ndarray:
        """What the saved float32 model gives of a few photos; its trunk has not moved."""
        rows = self.cache.exact(photos, self.recipe.cut)
        if not self.linear:
            return self.network.tail.predict(rows, self.recipe.batch_size, verbose=0)
        above = self.cache.trunk.engine(self.recipe.cut, self.network.top, precision="float32")
        maps = np.concatenate(list(above([rows])))
        return self.linear.probabilities(pool_maps(maps, self.network.pool))

    def fidelity(self, probabilities: np.ndarray) -> dict[str, Any] | None:
        """How far the saved float32 model is from what was measured on a reduced trunk."""
        if self.network.precision == "float32" or self.recipe.cut == INPUT:
            return None
        exact = self._exact(self.dataset.split("validation")[:PHOTOS])
        found = fidelity(exact, probabilities[: len(exact)])
        self.reporter.say(
            f"fidelity audit: probabilities of {count(len(exact), 'validation photo')} from the "
            f"saved float32 model differ by at most {found['max']:.2g}, {found['mean']:.2g} on "
            "average"
        )
        if found["changed"]:
            self.reporter.warn(
                f"the saved float32 model decides {found['changed']} of {len(exact)} validation "
                f"photos otherwise than the run in {self.network.precision}."
            )
        return found

    def write_ir(self) -> None:
        """Leave the network in a form that predicts without TensorFlow, see ``runs.ir``."""
        cut = self.recipe.cut
        if self.out is None or resolve_engine(self.recipe.engine) != "openvino":
            return
        photos = self.dataset.split("validation")[:_CHECKED]
        stream = read_photos(self.cache.pixels(0), photos)
        arrays = np.stack([found for _, found in stream if not isinstance(found, str)])
        trunk = None if cut == INPUT else self.cache.trunk.graph(cut, "float32")
        try:
            write_ir(self.network.whole, self.out, arrays, trunk, self.network.tail)
        except IntegrityError as error:
            self.warnings.add(str(error))
        if self.network.precision == "int8" and cut != INPUT:
            write_int8(self.cache.trunk.graph(cut, "int8"), self.network.tail, self.out)

    def _fit(
        self,
        model: keras.Model,
        train: Batches,
        validation: Batches,
        phase: str,
        settings: Settings,
        out: Path | None = None,
    ) -> list[dict[str, Any]]:
        """One phase of training, its progress shown."""
        photos = len(self.dataset.split("train"))
        label = f"{phase}, at most {count(settings.epochs, 'epoch')}"
        # other photos are another training
        identity = digest_of([record.identity(self.recipe), self.dataset.digest])
        with self.reporter.stage(label, photos * settings.epochs) as advance:
            callbacks: list[keras.callbacks.Callback] = [_Bar(advance, photos, settings.batch_size)]
            if self.watch and phase == "tail":
                callbacks.append(self.watch)
            if out and (self.recipe.tensorboard or self.recipe.track == "tensorboard"):
                callbacks.append(keras.callbacks.TensorBoard(out / "tensorboard"))
            return fit(
                model,
                train,
                validation,
                settings,
                phase,
                identity,
                out / record.CHECKPOINT if out else None,
                callbacks,
                self._epoch,
            )

    def _epoch(self, row: dict[str, Any]) -> None:
        """One row of the history, as it comes."""
        self.reporter.epoch(row)
        if self.tracker:
            log_epoch(self.tracker, row)

    def _settings(self, **changes: Any) -> Settings:
        names = ("epochs", "patience", "batch_size", "learning_rate")
        names += ("schedule", "weight_decay", "seed")  # type: ignore[assignment]
        values = {name: getattr(self.recipe, name) for name in names}
        optimizer = self.recipe.optimizer
        values |= {"optimizer": optimizer.name, "momentum": optimizer.momentum}
        class_weight = None if self._weights() is not None else self._class_weight()
        return Settings(**values | changes, class_weight=class_weight)

    def _class_weight(self) -> dict[int, float] | None:
        if self.recipe.class_weight != "balanced":
            return None
        labels = self.dataset.labels("train")
        counts = np.bincount(labels)
        return {index: len(labels) / (len(counts) * n) for index, n in enumerate(counts)}

    def _weights(self) -> np.ndarray | None:
        """Of each training photo, its class in it: Keras takes one kind of weight or the other."""
        weights = self.dataset.weights("train")
        classes = self._class_weight()
        if weights is None or classes is None:
            return weights
        of_class = np.array([classes[label] for label in self.dataset.labels("train")])
        return (weights * of_class).astype(np.float32)


class _Bar(keras.callbacks.Callback):
    """Advances a bar with every batch that was trained on."""

    def __init__(self, advance: Callable[[int], None], photos: int, batch_size: int):
        super().__init__()
        self._advance = advance
        self._photos = photos
        self._size = batch_size

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        self._advance(min(self._size, self._photos - batch * self._size))
