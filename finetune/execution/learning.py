"""What one trial learns: a head on stored features, then the tail above the cut."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np

from finetune.activations.cache import ActivationCache
from finetune.data.dataset import Dataset
from finetune.execution.bench import Bench, StoredRows
from finetune.execution.methods import (
    anchors_of,
    balance,
    feature_mix_of,
    head_settings,
    mix_of,
    rates_of,
    settings_of,
    strategy_of,
    targets_of,
    thawed,
    weights_of,
)
from finetune.execution.sharing import (
    Need,
    head_needs,
    shown_views,
    starts_head,
    stored_views,
    tail_precision,
)
from finetune.files import digest_of
from finetune.model.backbones import INPUT
from finetune.model.network import Network
from finetune.progress import Reporter, Warnings, count
from finetune.recipe.recipe import Recipe
from finetune.recipe.strategies import STRATEGIES
from finetune.runs import record
from finetune.training.batches import Batches, Read, read_views, repeats
from finetune.training.fit import Bar, Settings, best_epoch, fit
from finetune.training.joined_head import fit_joined
from finetune.training.linear_head import Linear, fit_linear, fits_memory
from finetune.training.mixing import Mix
from finetune.training.range_test import range_test
from finetune.training.trackers import Tracker, log_epoch


@dataclass(eq=False)
class Learner:
    """A trial whose rows are there: fits its head, trains its tail, classifies.

    Attributes:
        recipe: fully resolved.
        dataset: the photos that have a row.
        network: as before training.
        cache: of the activations below the cut.
        rows: the stored ones that the recipe needs.
        reporter: of progress.
        bench: what earlier trials of this process left.
        out: the run folder; None writes nothing.
        warnings: of the run.
        watch: of the tail's epochs.
        tracker: is given each epoch, too.
        linear: the whole of what was learned, if it is not None.
    """

    recipe: Recipe
    dataset: Dataset
    network: Network
    cache: ActivationCache
    rows: StoredRows
    reporter: Reporter
    bench: Bench
    out: Path | None
    warnings: Warnings
    watch: keras.callbacks.Callback | None = None
    tracker: Tracker | None = None
    linear: Linear | None = field(default=None, init=False)

    @property
    def learns_head_only(self) -> bool:
        """Whether the strategy leaves the whole backbone as it is."""
        return STRATEGIES[self.recipe.strategy].learns == "head"

    def fit_head(self) -> dict[str, Any]:
        """Converge the head on features of the frozen backbone; returns how.

        Training below a random head would destroy the features.
        """
        if not starts_head(self.recipe):
            return {}
        labels = self.dataset.labels("train")
        photos = len(labels) * (1 + stored_views(self.recipe))
        if self.recipe.head.solver == "keras":
            if self.learns_head_only and not fits_memory(photos, self.network.features):
                return {}  # the tail is the head alone, and its epochs stream what it learns from
            if self.recipe.head.hidden or not self.learns_head_only:
                return {"history": self._train_head()}
        return self._fit_linear()

    def _fit_linear(self) -> dict[str, Any]:
        """Fit a linear head by L-BFGS; returns how."""
        linear = self._linear()
        self.network.set_classifier(linear.kernel, linear.bias)
        if self.learns_head_only and self.recipe.head.solver == "lbfgs":
            self.linear = linear
        self.reporter.say(
            f"head fitted by L-BFGS: C = {linear.c:.3g} (inverse penalty), "
            f"validation loss {linear.validation_loss:.4f}"
        )
        path = [list(step) for step in linear.path]
        factors = dict(zip(self.recipe.features, linear.factors, strict=False))
        found = {"c": linear.c, "validation_loss": linear.validation_loss, "path": path}
        return {**found, "factors": factors} if factors else found

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
        settings = [self.network.pool, self.recipe.is_balanced, self.dataset.digest]
        key = digest_of([keys, wanted, settings])
        if key not in self.bench.heads:
            views, validation = self._features()
            labels = self.dataset.labels("train")
            weights = self.dataset.weights("train")
            widths = self.network.widths
            fit_head = partial(fit_joined, widths=widths) if len(widths) > 1 else fit_linear
            self.bench.heads[key] = fit_head(
                np.concatenate(views),
                np.tile(labels, len(views)),
                validation,
                self.dataset.labels("validation"),
                class_weight=balance(self.dataset) if self.recipe.is_balanced else None,
                sample_weight=None if weights is None else np.tile(weights, len(views)),
            )
        return self.bench.heads[key]

    def _train_head(self) -> list[dict[str, Any]]:
        """By epochs, on features in memory: a hidden head, or one before blocks that learn."""
        views, validation = self._features()
        train = self._training(read_views(views), feature_mix_of(self.recipe))
        size = self.recipe.batch_size
        held_out = Batches(read_views([validation]), self._targets("validation"), size)
        head = self.network.head()
        return self._fit(head, train, held_out, "head", head_settings(self.recipe))

    def _training(self, read: Read, mix: Mix | None, devices: int = 1) -> Batches:
        """Training photos in the order of the recipe's seed, weighed as it says."""
        recipe = self.recipe
        return Batches(
            read,
            self._targets("train"),
            recipe.batch_size,
            recipe.seed,
            weights_of(recipe, self.dataset),
            balanced=recipe.sampling == "balanced",
            mix=mix,
            devices=devices,
        )

    def _targets(self, split: str) -> np.ndarray:
        """Labels of a split as the loss takes them."""
        labels = self.dataset.labels(split)
        return targets_of(self.recipe, labels, len(self.dataset.classes), split == "train")

    def train_tail(self) -> list[dict[str, Any]]:
        """Train what lies above the cut by epochs; the history, empty if L-BFGS has done it all."""
        if self.linear:
            return []
        recipe = self.recipe
        on = strategy_of(recipe)
        devices = on.num_replicas_in_sync
        model = self.network.trained_copy(tail_precision(recipe), recipe.seed, on)
        settings = self._tail_settings()
        passed: list[dict[str, Any]] = []
        for number, blocks in enumerate(recipe.stages, 1):
            is_last = number == len(recipe.stages)
            with thawed(model, recipe, blocks):
                history = self._fit(
                    model,
                    self._training(self._reader(), mix_of(recipe), devices),
                    self._batches("validation", devices=devices),
                    "tail" if is_last else f"tail-{number}",
                    settings,
                    self.out,
                )
            passed += history
        if model is not self.network.tail:
            self.network.tail.set_weights(model.get_weights())
        if 0 < settings.epochs == best_epoch(history):
            self.warnings.add(
                f"The last of {count(settings.epochs, 'epoch')} was the best: validation loss was "
                f"still falling. More may help: --epochs {2 * settings.epochs}."
            )
        return passed

    def _tail_settings(self) -> Settings:
        anchors = anchors_of(self.recipe, self.network)
        return settings_of(self.recipe, rates=rates_of(self.recipe, self.network), anchors=anchors)

    def find_rate(self) -> dict[str, Any]:
        """The range test of the tail's learning rate, see ``range_test``; nothing is learned."""
        recipe = self.recipe
        model = self.network.trained_copy(tail_precision(recipe), recipe.seed)
        settings = self._tail_settings()
        balanced = recipe.sampling == "balanced"
        rest = (weights_of(recipe, self.dataset), mix_of(recipe), balanced)
        with thawed(model, recipe, recipe.stages[0]):
            return range_test(model, self._reader(), self._targets("train"), settings, *rest)

    def _reader(self) -> Read:
        """Training activations: stored views in turn, or fresh views through the trunk."""
        recipe = self.recipe
        if recipe.views != "fresh":
            views = range(stored_views(recipe) + 1)
            return read_views([self.rows[Need(recipe.cut, "train", view)] for view in views])
        photos = self.dataset.split("train")

        def read(batches: Sequence[np.ndarray], epoch: int) -> Iterator[np.ndarray]:
            chosen = [photos[index] for index in np.concatenate(batches)]
            times = np.concatenate(repeats(batches))
            keys = [
                f"fresh/{recipe.seed}/{epoch}/{photo.sha256}{f'/{n}' if n else ''}"
                for photo, n in zip(chosen, times, strict=True)
            ]
            return self.cache.stream(chosen, keys, recipe.cut, recipe.batch_size)

        return read

    def _batches(self, split: str, view: int = 0, devices: int = 1) -> Batches:
        """Stored photos of a split, in order."""
        rows = self.rows[Need(self.recipe.cut, split, view)]
        targets = self._targets(split)
        return Batches(read_views([rows]), targets, self.recipe.batch_size, devices=devices)

    def probabilities(self, split: str) -> np.ndarray:
        """Of a split's photos: float32 (n, classes), the mean over the views that count."""
        return np.mean([self._of_view(split, view) for view in shown_views(self.recipe)], axis=0)

    def _of_view(self, split: str, view: int) -> np.ndarray:
        if self.linear and self.recipe.cut != INPUT:
            features = self.cache.features(self.dataset.split(split), self.recipe.cut, view)
            return self.linear.probabilities(features)
        return self.network.tail.predict(self._batches(split, view), verbose=0)

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
        # other photos, or other weights under the same name, are another training
        given = [self.dataset.digest, self.network.loaded.digest]
        identity = digest_of([record.identity(self.recipe), *given])
        with self.reporter.stage(label, photos * settings.epochs) as advance:
            callbacks: list[keras.callbacks.Callback] = [Bar(advance, photos, settings.batch_size)]
            if self.watch and phase == "tail":  # the last training of the tail
                callbacks.append(self.watch)
            if out and self.recipe.track == "tensorboard":
                callbacks.append(keras.callbacks.TensorBoard(out / "tensorboard"))
            return fit(
                model,
                train,
                validation,
                settings,
                phase,
                identity,
                record.checkpoint(out, phase) if out else None,
                callbacks,
                self._epoch,
            )

    def _epoch(self, row: dict[str, Any]) -> None:
        """One row of the history, as it comes."""
        self.reporter.epoch(row)
        if self.tracker:
            log_epoch(self.tracker, row)
