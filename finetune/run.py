"""One recipe, from photos to a run folder. Reads from top to bottom as the story; needs TensorFlow."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np
from filelock import FileLock, Timeout

from finetune.activations.engine import Engine, compile_trunk
from finetune.activations.extract import Pixels, extract, stream
from finetune.activations.store import Rows, Store, row_name
from finetune.data import catalog
from finetune.data.folder import Dataset, Photo, find_bad, leaks, without
from finetune.errors import BusyError, DataError
from finetune.memory import peak_bytes, reset_peak
from finetune.model.backbones import INPUT
from finetune.model.cut import between, find_cut, split
from finetune.model.heads import CLASSIFIER, pool_maps
from finetune.network import Network, audit, build_network, frozen_digests, multiply_adds
from finetune.progress import Reporter
from finetune.recipe import Recipe
from finetune.results import record
from finetune.strategies import STRATEGIES
from finetune.training.fit import Batches, Read, Settings, fit, read_views
from finetune.training.head import check_size, fit_linear

CHECKPOINT = "checkpoint.npz"
_HEAD_SETTINGS = {"epochs": 100, "patience": 5, "learning_rate": 1e-3}  # a head with a hidden layer, before unfreezing


def run(recipe: Recipe, out: Path, reporter: Reporter) -> dict[str, Any]:
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
    with _locked(out):
        started = time.perf_counter()
        reset_peak()
        work = Work.prepare(recipe, reporter)
        record.begin(out, recipe, work.dataset)
        seconds = {"extract": work.gather()}
        before = frozen_digests(work.network.whole)
        seconds["train"], history, head = _timed(work.learn, out)
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
        return record.finish(out, recipe, work.dataset, work.network.whole, history, predictions, result)


def plan(recipe: Recipe, reporter: Reporter) -> dict[str, Any]:
    """What ``run --dry-run`` prints: the cut, both sides of it, and what would be computed and stored."""
    return Work.prepare(recipe, reporter, check=False).plan()


@dataclass
class Work:
    """A run under way: the photos, the network, and the stored activations of each (split, view)."""

    recipe: Recipe
    dataset: Dataset
    network: Network
    reporter: Reporter
    listed: str = ""  # digest of the photos before any was left out
    seconds_before: float = 0.0
    extracted: int = 0
    rows: dict[tuple[str, int], Rows] = field(default_factory=dict)
    engines: dict[tuple[str, str], Engine] = field(default_factory=dict)

    @classmethod
    def prepare(cls, recipe: Recipe, reporter: Reporter, check: bool = True) -> "Work":
        """List the photos, build the network, and stop here if any photo cannot be decoded."""
        start = time.perf_counter()
        dataset = catalog.resolve(recipe.data)
        seconds = time.perf_counter() - start
        work = cls(recipe, dataset, build_network(recipe, len(dataset.classes)), reporter, dataset.digest)
        start = time.perf_counter()
        if check:
            work.dataset = work.checked()
            if copies := leaks(work.dataset):
                files = ", ".join(photo.file for photo in copies[0])
                reporter.warn(
                    f"{len(copies)} photos stand in more than one split or class ({files}): figures may flatter."
                )
        if recipe.head.solver == "lbfgs":
            features = work.network.whole.get_layer(recipe.head.pool).output.shape[-1]
            check_size(len(dataset.split("train")) * (1 + work.stored_views), features)
        work.seconds_before = seconds + time.perf_counter() - start
        return work

    @property
    def stored_views(self) -> int:
        """Number of augmented views per training photo that are stored."""
        return 0 if self.recipe.views == "fresh" else self.recipe.views

    def pixels(self, augmented: bool = False) -> Pixels:
        settings = self.recipe.augment.model_dump() if augmented else None
        return Pixels(self.recipe.image_size, self.recipe.resize, settings)

    def shelf(self, cut: str, augmented: bool = False) -> Store:
        """Where the activations of a cut are stored, without computing any."""
        fields = {**self.network.fields(self.recipe, cut), "pixels": self.pixels(augmented).fields()}
        return Store(catalog.cache_dir(), fields, self.dtype(cut))

    def dtype(self, cut: str) -> str:
        return "uint8" if cut == INPUT else self.recipe.store

    def wanted(self) -> list[tuple[str, int]]:
        """The (split, view) pairs that are stored at the cut: everything that every epoch sees the same."""
        train = [] if self.recipe.views == "fresh" else [("train", view) for view in range(self.stored_views + 1)]
        return [*train, ("validation", 0), ("test", 0)]

    def checked(self, cut: str | None = None) -> Dataset:
        """The data set without photos that cannot be decoded; those with stored activations have been before."""
        known = self.shelf(cut or self.recipe.cut)
        unknown = set(known.missing([photo.sha256 for photo in self.dataset.photos]))
        photos = [photo for photo in self.dataset.photos if photo.sha256 in unknown]
        with self.reporter.stage("photos checked", len(photos)) as advance:
            bad = find_bad(photos, self.recipe.image_size, self.recipe.resize, progress=lambda *_: advance(1))
        if bad and not self.recipe.skip_bad:
            listing = "\n".join(f"  {photo.path}: {reason}" for photo, reason in bad)
            raise DataError(
                f"{len(bad)} of {len(self.dataset.photos):,} photos cannot be decoded:\n{listing}\n"
                "Mend or remove them, or leave them out with --skip-bad (they are then listed in excluded.csv)."
            )
        return without(self.dataset, bad) if bad else self.dataset

    def gather(self) -> float:
        """Compute and store what is missing at the cut; returns the seconds, listing and checking photos included."""
        start = time.perf_counter()
        for name, view in self.wanted():
            self.rows[name, view] = self.stored(self.recipe.cut, name, view)
        return self.seconds_before + time.perf_counter() - start

    def stored(self, cut: str, name: str, view: int = 0) -> Rows:
        """Rows of one view of one split, in the order of its photos."""
        photos = self.dataset.split(name)
        names = [row_name(photo.sha256, view) for photo in photos]
        missing = len(self.shelf(cut, view > 0).missing(names))
        label = f"activations of {name}" + (f", view {view} of {self.stored_views}" if view else "")
        with self.reporter.stage(label, missing) if missing else _silence() as advance:
            store, computed = extract(
                catalog.cache_dir(),
                self.network.fields(self.recipe, cut),
                self.dtype(cut),
                self.pixels(view > 0),
                [(photo, view) for photo in photos],
                lambda: self.engine(INPUT, cut),
                advance,
                self.reporter.warn,
            )
        self.extracted += computed
        return store.rows(names)

    def engine(self, source: str, target: str) -> Engine:
        """What lies between two cuts, ready to run; compiled once."""
        if (source, target) not in self.engines:
            part = between(self.network.whole, source, target)
            self.engines[source, target] = compile_trunk(part, self.recipe.engine)
        return self.engines[source, target]

    def learn(self, out: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        """Converge the head, then train the tail; returns the history and how the head was fitted."""
        recipe, history = self.recipe, []
        head: dict[str, Any] = {"solver": recipe.head.solver}
        head_only = STRATEGIES[recipe.strategy].learns == "head"
        if recipe.head.solver == "lbfgs" or not head_only:
            history, found = self.converge_head()
            head |= found
        if recipe.head.solver == "lbfgs" and head_only:
            return history, head
        train = Batches(self.train_reader(), self.dataset.labels("train"), recipe.batch_size, recipe.seed)
        validation = self.batches("validation")
        return history + self.fit(self.network.tail, train, validation, "tail", self.settings(), out), head

    def fit(self, model, train, validation, phase, settings, out: Path | None = None) -> list[dict[str, Any]]:
        """One phase of training, its progress shown."""
        photos = len(self.dataset.split("train"))
        with self.reporter.stage(f"{phase}, at most {settings.epochs} epochs", photos * settings.epochs) as advance:
            callbacks: list[keras.callbacks.Callback] = [_Bar(advance, photos, settings.batch_size)]
            if self.recipe.tensorboard and out:
                callbacks.append(keras.callbacks.TensorBoard(out / "tensorboard"))
            checkpoint = out / CHECKPOINT if out else None
            text = self.recipe.dump() + self.dataset.digest  # other photos are another training
            return fit(model, train, validation, settings, phase, text, checkpoint, callbacks, self.reporter.epoch)

    def settings(self, **changes: Any) -> Settings:
        recipe, labels = self.recipe, self.dataset.labels("train")
        values = {name: getattr(recipe, name) for name in ("epochs", "patience", "batch_size", "learning_rate")}
        values |= {name: getattr(recipe, name) for name in ("schedule", "weight_decay", "seed")}
        counts = np.bincount(labels)
        balanced = {index: len(labels) / (len(counts) * count) for index, count in enumerate(counts)}
        return Settings(**values | changes, class_weight=balanced if recipe.class_weight == "balanced" else None)

    def train_reader(self) -> Read:
        """Training activations: stored views in turn, or fresh views through the trunk."""
        if self.recipe.views != "fresh":
            return read_views([self.rows["train", view] for view in range(self.stored_views + 1)])
        photos, pixels = self.dataset.split("train"), self.pixels(augmented=True)
        engine = self.engine(INPUT, self.recipe.cut)

        def read(indices: np.ndarray, epoch: int) -> np.ndarray:
            chosen = [photos[index] for index in indices]
            keys = [f"fresh/{self.recipe.seed}/{epoch}/{photo.sha256}" for photo in chosen]
            return np.concatenate(list(stream(pixels, chosen, keys, engine)))

        return read

    def batches(self, name: str) -> Batches:
        """Stored photos of a split, in order."""
        return Batches(read_views([self.rows[name, 0]]), self.dataset.labels(name), self.recipe.batch_size)

    def converge_head(self) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        """Fit the head on features of the frozen backbone: unfreezing below a random head would destroy them."""
        recipe, settings = self.recipe, self.settings(**_HEAD_SETTINGS)
        features = [self.features("train", view) for view in range(self.stored_views + 1)]
        validation, labels = self.features("validation"), self.dataset.labels("train")
        if recipe.head.solver == "lbfgs":
            stacked = np.concatenate(features), np.tile(labels, len(features))
            linear = fit_linear(*stacked, validation, self.dataset.labels("validation"), settings.class_weight)
            self.network.whole.get_layer(CLASSIFIER).set_weights([linear.kernel, linear.bias])
            found = {"c": linear.c, "validation_loss": linear.validation_loss}
            self.reporter.say(f"head: L-BFGS, penalty 1/{linear.c:g}, validation loss {linear.validation_loss:.4f}")
            return [], found
        model = split(self.network.whole, recipe.head.pool).tail
        train = Batches(read_views(features), labels, recipe.batch_size, recipe.seed)
        held_out = Batches(read_views([validation]), self.dataset.labels("validation"), recipe.batch_size)
        return self.fit(model, train, held_out, "head", settings), {}

    def features(self, name: str, view: int = 0) -> np.ndarray:
        """Pooled features of the frozen backbone: float32 (n, d)."""
        top, cut, size = self.network.top, self.recipe.cut, self.recipe.batch_size
        if (name, view) in self.rows:  # stored at the cut: run what lies between it and the head
            maps = self.engine(cut, top)(self.rows[name, view].batches(size))
        else:
            maps = self.stored(top, name).batches(size)
        return np.concatenate([pool_maps(batch, self.recipe.head.pool) for batch in maps])

    def predict(self, name: str) -> np.ndarray:
        """Probabilities of a split's photos: float32 (n, classes)."""
        return self.network.tail.predict(self.batches(name), verbose=0)

    def plan(self) -> dict[str, Any]:
        items: list[tuple[Photo, int]] = [
            (photo, view) for name, view in self.wanted() for photo in self.dataset.split(name)
        ]
        missing = 0
        for augmented in (False, True):
            names = [row_name(photo.sha256, view) for photo, view in items if (view > 0) == augmented]
            missing += len(self.shelf(self.recipe.cut, augmented).missing(names))
        shape = find_cut(self.network.whole, self.recipe.cut).shape[1:]
        row = int(np.prod(shape)) * np.dtype(self.dtype(self.recipe.cut)).itemsize
        return {
            "backbone": self.recipe.backbone,
            "strategy": self.recipe.strategy,
            "cut": self.recipe.cut,
            "shape": list(shape),
            "parameters": self.network.parameters(),
            "weights": vars(self.network.loaded),
            "photos": {name: len(self.dataset.split(name)) for name in ("train", "validation", "test")},
            "split": self.dataset.digest,
            "stored_rows": len(items),
            "to_extract": missing,
            "bytes_to_store": missing * row,
            "streamed_per_epoch": len(self.dataset.split("train")) if self.recipe.views == "fresh" else 0,
            "epochs": self.recipe.epochs,
        }


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


@contextmanager
def _silence() -> Iterator:
    yield lambda steps: None


@contextmanager
def _locked(out: Path) -> Iterator[None]:
    """One process per run folder."""
    out.mkdir(parents=True, exist_ok=True)
    lock = FileLock(out / ".lock")
    try:
        with lock.acquire(timeout=0):
            yield
    except Timeout as error:
        raise BusyError(f"Another process works in {out}. Wait for it, or choose another --out.") from error
