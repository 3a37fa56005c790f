"""What a recipe works on: its photos, its network, and the stored activations that lie between them."""

import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from finetune.activations.engine import Engine, compile_trunk
from finetune.activations.extract import Pixels, extract, open_store, stream
from finetune.activations.store import Rows, Store, nearest_difference, row_name
from finetune.data import catalog
from finetune.data.dataset import Dataset, Photo, find_bad, leaks, without
from finetune.errors import DataError
from finetune.model.backbones import INPUT
from finetune.model.cut import between, find_cut
from finetune.model.heads import pool_maps
from finetune.model.network import Network, build_network
from finetune.progress import Reporter
from finetune.recipe.recipe import Recipe
from finetune.training.fit import Batches, Read, read_views
from finetune.training.linear_head import check_size


@dataclass
class Work:
    """A run under way: the photos, the network, and the stored activations of each (split, view)."""

    recipe: Recipe
    dataset: Dataset
    network: Network
    reporter: Reporter
    listed: str = ""  # digest of the photos before any was left out
    seconds_before: float = 0.0  # listing the photos
    seconds_building: float = 0.0
    extracted: int = 0
    rows: dict[tuple[str, int], Rows] = field(default_factory=dict)
    engines: dict[tuple[str, str], Engine] = field(default_factory=dict)

    @classmethod
    def prepare(cls, recipe: Recipe, reporter: Reporter) -> "Work":
        """List the photos and build the network."""
        start = time.perf_counter()
        dataset = catalog.resolve(recipe.data)
        if copies := leaks(dataset):
            files = ", ".join(photo.file for photo in copies[0])
            reporter.warn(
                f"{len(copies)} photos stand in more than one split or class ({files}): figures may flatter."
            )
        seconds = time.perf_counter() - start
        network = build_network(recipe, len(dataset.classes))
        building = time.perf_counter() - start - seconds
        work = cls(recipe, dataset, network, reporter, dataset.digest, seconds, building)
        if recipe.head.solver == "lbfgs":
            features = network.whole.get_layer(recipe.head.pool).output.shape[-1]
            check_size(len(dataset.split("train")) * (1 + work.stored_views), features)
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
        fields = self.network.fields(self.recipe, cut)
        return open_store(catalog.cache_dir(), fields, self.dtype(cut), self.pixels(augmented))

    def dtype(self, cut: str) -> str:
        return "uint8" if cut == INPUT else self.recipe.store

    def wanted(self) -> list[tuple[str, int]]:
        """The (split, view) pairs that are stored at the cut: everything that every epoch sees the same."""
        train = (
            []
            if self.recipe.views == "fresh"
            else [("train", view) for view in range(self.stored_views + 1)]
        )
        return [*train, ("validation", 0), ("test", 0)]

    def gather(self) -> float:
        """Compute and store what is missing at the cut; returns the seconds, listing the photos included.

        Raises:
            DataError: photos that cannot be decoded, all of them listed, unless the recipe leaves them out.
        """
        start = time.perf_counter()
        self.complete(self.recipe.cut, self.wanted())
        for name, view in self.wanted():
            self.rows[name, view] = self._shelved(self.recipe.cut, name, view)
        return self.seconds_before + time.perf_counter() - start

    def complete(self, cut: str, wanted: Sequence[tuple[str, int]]) -> None:
        """Store what is missing of the (split, view) pairs, and settle what becomes of bad photos."""
        bad = self._bad_among_fresh()
        while bad := bad + [found for pair in wanted for found in self._fill(cut, *pair)]:
            bad = list(dict(bad).items())  # each photo once, whatever its number of views
            if not self.recipe.skip_bad:
                listing = "\n".join(f"  {photo.path}: {reason}" for photo, reason in bad)
                raise DataError(
                    f"{len(bad)} of {len(self.dataset.photos):,} photos cannot be decoded:\n{listing}\n"
                    "Mend or remove them, or leave them out with --skip-bad (they are then listed in excluded.csv)."
                )
            self.dataset, bad = (
                without(self.dataset, bad),
                [],
            )  # which may move a photo from split to split

    def _bad_among_fresh(self) -> list[tuple[Photo, str]]:
        """Fresh views are decoded while training, when it is too late to find a bad photo."""
        photos = self.dataset.split("train") if self.recipe.views == "fresh" else ()
        with (
            self.reporter.stage("photos checked", len(photos))
            if photos
            else nullcontext(lambda rows: None) as advance
        ):
            return find_bad(
                photos, self.recipe.image_size, self.recipe.resize, progress=lambda *_: advance(1)
            )

    def _fill(self, cut: str, name: str, view: int) -> list[tuple[Photo, str]]:
        """Store what is missing of one view of one split; returns the photos that cannot be decoded."""
        photos = self.dataset.split(name)
        missing = len(
            self.shelf(cut, view > 0).missing([row_name(photo.sha256, view) for photo in photos])
        )
        label = f"activations of {name}" + (f", view {view} of {self.stored_views}" if view else "")
        with (
            self.reporter.stage(label, missing)
            if missing
            else nullcontext(lambda rows: None) as advance
        ):
            extracted = extract(
                catalog.cache_dir(),
                self.network.fields(self.recipe, cut),
                self.dtype(cut),
                self.pixels(view > 0),
                [(photo, view) for photo in photos],
                lambda: self.engine(INPUT, cut),
                advance,
                self.reporter.warn,
            )
        self.extracted += extracted.computed
        return extracted.bad

    def _shelved(self, cut: str, name: str, view: int = 0) -> Rows:
        """Stored rows of one view of one split, in the order of its photos."""
        return self.shelf(cut, view > 0).rows(
            [row_name(photo.sha256, view) for photo in self.dataset.split(name)]
        )

    def stored(self, cut: str, name: str) -> Rows:
        """Rows of a split's photos at a cut, computed now if they are missing."""
        self.complete(cut, [(name, 0)])
        return self._shelved(cut, name)

    def engine(self, source: str, target: str) -> Engine:
        """What lies between two cuts, ready to run; compiled once."""
        if (source, target) not in self.engines:
            part = between(self.network.whole, source, target)
            self.engines[source, target] = compile_trunk(part, self.recipe.engine)
        return self.engines[source, target]

    def train_reader(self) -> Read:
        """Training activations: stored views in turn, or fresh views through the trunk."""
        if self.recipe.views != "fresh":
            return read_views([self.rows["train", view] for view in range(self.stored_views + 1)])
        photos, pixels = self.dataset.split("train"), self.pixels(augmented=True)
        engine = self.engine(INPUT, self.recipe.cut)

        def read(batches: Sequence[np.ndarray], epoch: int) -> Iterator[np.ndarray]:
            chosen = [photos[index] for index in np.concatenate(batches)]
            keys = [f"fresh/{self.recipe.seed}/{epoch}/{photo.sha256}" for photo in chosen]
            return stream(pixels, chosen, keys, engine, self.recipe.batch_size)

        return read

    def batches(self, name: str) -> Batches:
        """Stored photos of a split, in order."""
        return Batches(
            read_views([self.rows[name, 0]]), self.dataset.labels(name), self.recipe.batch_size
        )

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
            names = [
                row_name(photo.sha256, view) for photo, view in items if (view > 0) == augmented
            ]
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
            "photos": {
                name: len(self.dataset.split(name)) for name in ("train", "validation", "test")
            },
            "split": self.dataset.digest,
            "stored_rows": len(items),
            "to_extract": missing,
            "bytes_to_store": missing * row,
            "nearest": nearest_difference(catalog.cache_dir(), self.shelf(self.recipe.cut))
            if missing
            else {},
            "streamed_per_epoch": len(self.dataset.split("train"))
            if self.recipe.views == "fresh"
            else 0,
            "epochs": self.recipe.epochs,
        }
