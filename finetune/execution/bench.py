"""What trials stand on: the photos, the network, the rows; and what a worker keeps of them."""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import keras

from finetune.activations.cache import ActivationCache
from finetune.activations.store import Rows
from finetune.activations.trunk import Kept
from finetune.data import catalog
from finetune.data.dataset import Dataset, without
from finetune.errors import DataError
from finetune.execution.sharing import Need, pixels
from finetune.files import digest_of
from finetune.model.network import Network, build_network
from finetune.progress import Reporter, count
from finetune.recipe.recipe import Recipe
from finetune.training.linear_head import Linear

_KEPT_NETWORKS = 3

StoredRows = dict[Need, Rows]


class Bench:
    """What a worker keeps from trial to trial: networks with their engines, features and heads.

    A network is reset before each trial, so that results do not depend on what ran before.
    """

    def __init__(self) -> None:
        self._kept: OrderedDict[str, tuple[Network, ActivationCache]] = OrderedDict()
        self.heads: dict[str, Linear] = {}
        self.shared = Kept()

    def prepare(
        self, recipe: Recipe, classes: int, reporter: Reporter
    ) -> tuple[Network, ActivationCache]:
        """The network of a recipe, as before training, and the activations below its cut."""
        key = _network_key(recipe, classes)
        if key in self._kept:
            network, cache = self._kept.pop(key)
            keras.utils.set_random_seed(recipe.seed)
            network.reset(recipe.seed)
            cache.begin(reporter)
        else:
            network = _network(recipe, classes)
            cache = ActivationCache(
                recipe.backbone,
                network,
                pixels(recipe),
                recipe.store,
                recipe.engine,
                reporter,
                self.shared,
            )
        self._kept[key] = (network, cache)
        if len(self._kept) > _KEPT_NETWORKS:
            self._kept.popitem(last=False)
        return network, cache

    def forget(self) -> None:
        """Drop everything: a failed training may have left a network in any state."""
        self._kept.clear()
        self.shared = Kept(together=self.shared.together)


def _network_key(recipe: Recipe, classes: int) -> str:
    names = ("backbone", "weights", "alpha", "preprocessing", "image_size", "batchnorm", "resize")
    names += ("store", "engine", "views", "features", "tta")  # type: ignore[assignment]
    fields = {name: getattr(recipe, name) for name in names}
    head = recipe.head.model_dump(exclude={"solver"})
    augment = recipe.augment.model_dump()
    shape = {"cut": recipe.cut, "precision": recipe.precision, "classes": classes}
    return digest_of({**fields, **shape, "head": head, "augment": augment})


def _network(recipe: Recipe, classes: int) -> Network:
    return build_network(
        recipe.backbone,
        recipe.image_size,
        classes,
        weights=recipe.weights,
        alpha=recipe.alpha,
        preprocessing=recipe.preprocessing,
        pool=recipe.head.pool,
        hidden=recipe.head.hidden,
        dropout=recipe.head.dropout,
        features=recipe.features,
        cut=recipe.cut,
        batchnorm=recipe.batchnorm,
        precision=recipe.precision,
        is_mirrored=recipe.tta == "flip",
        seed=recipe.seed,
    )


def read_dataset(recipe: Recipe) -> Dataset:
    """The photos of a recipe, with their splits."""
    return catalog.read_dataset(recipe.data, recipe.min_per_class, recipe.groups)


def gather(
    recipe: Recipe, dataset: Dataset, cache: ActivationCache, wanted: Sequence[Need]
) -> tuple[Dataset, StoredRows]:
    """All rows that are wanted, computed where they are missing, and the photos that have one.

    Bad photos are met while extracting, for decoding every photo twice would cost a tenth of an
    extraction: each is reported at once, the others' rows are stored, and all are listed at the
        end.

    Raises:
        DataError: photos that cannot be decoded, all of them listed, unless the recipe skips them.
    """
    cache.trunk.calibration = dataset.split("train")
    rows = _rows(dataset, cache, wanted)
    bad = list(dict(cache.bad).items())  # once each, whatever the number of views
    if not bad:
        return dataset, rows
    if not recipe.skip_bad:
        listing = "\n".join(f"  {photo.path}: {reason}" for photo, reason in bad)
        raise DataError(
            f"{len(bad)} of {count(len(dataset.photos), 'photo')} cannot be decoded:\n{listing}\n"
            "Mend or remove them, or leave them out with --skip-bad, in a recipe skip_bad: true "
            "(a run then lists them in excluded.csv)."
        )
    dataset = without(dataset, bad)
    return dataset, _rows(dataset, cache, wanted)


def _rows(dataset: Dataset, cache: ActivationCache, wanted: Sequence[Need]) -> StoredRows:
    def read(need: Need) -> Rows:
        return cache.rows(dataset.split(need.split), need.cut, need.view)

    rows = {need: read(need) for need in wanted}
    # A late row that float16 cannot hold widens its entry: what was read before is read again.
    narrow = [n for n in wanted if rows[n].dtype != cache.entry(n.cut, n.view).dtype]
    return rows | {need: read(need) for need in narrow}


def cache_entries(cache: ActivationCache, rows: StoredRows) -> dict[str, dict[str, Any]]:
    """Key of each cache entry -> its cut, the pass that filled it, its seconds and bytes."""
    found: dict[str, dict[str, Any]] = {}
    for need, stored in rows.items():
        store = cache.entry(need.cut, need.view)
        new = {"cut": need.cut, "pass": store.trunk_pass, "seconds": 0.0, "bytes": 0}
        entry = found.setdefault(store.key, new)
        entry["seconds"] = round(entry["seconds"] + stored.seconds, 3)
        entry["bytes"] += stored.nbytes
    return found
