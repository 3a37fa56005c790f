"""What `finetune advise` measures, from stored activations only."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from finetune.activations.cache import ActivationCache
from finetune.data.audit import audit
from finetune.data.dataset import Dataset
from finetune.data.photos import Photo
from finetune.errors import DataError
from finetune.evaluation import transfer
from finetune.evaluation.intervals import interval
from finetune.execution.bench import Bench, gather
from finetune.execution.sharing import Need
from finetune.model.backbones import block_cut
from finetune.model.heads import pool_maps
from finetune.progress import Reporter, count
from finetune.recipe.recipe import Recipe

_LOOKED_AT = ("train", "validation")
_COMPARED = 1_000  # photos that random weights see, too
_CHUNK = 64
_FEWEST = 2  # independent photos of a class
# Spearman's correlation of each score with the test accuracy of a linear head on the same features,
# over the cuts of VGG16 and MobileNet 0.25 (python -m benchmarks.transfer_scores).
CHECKED: list[dict[str, Any]] = [
    {
        "data": "cats-and-dogs-small",
        "cuts": 10,
        "log_me": 0.99,
        "h_score": 0.99,
        "linear_probe": 0.99,
    },
    {"data": "clothing-small", "cuts": 10, "log_me": 0.96, "h_score": 0.93, "linear_probe": 0.99},
]


@dataclass(frozen=True)
class Looked:
    """A backbone's features of the training and validation photos, and what they know.

    ``features``: reduced, (n, components), of the cut above all blocks; ``scores``: a row per cut,
    that one first.
    """

    recipe: Recipe
    classes: int
    photos: tuple[Photo, ...]
    labels: np.ndarray
    groups: np.ndarray
    features: np.ndarray = field(repr=False)
    probe: transfer.Probe = field(repr=False)
    scores: list[dict[str, Any]]

    @property
    def top(self) -> dict[str, Any]:
        """The scores above all blocks."""
        return self.scores[0]

    @property
    def folds(self) -> transfer.Folds:
        """Of the cross-validation, always the same."""
        return transfer.folds(self.labels, self.groups)


def look(recipe: Recipe, dataset: Dataset, blocks: int, reporter: Reporter) -> Looked:
    """Extract what is missing and score each cut down to the one below ``blocks`` blocks.

    Raises:
        DataError: photos cannot be decoded, and the recipe does not skip them.
    """
    cuts = [block_cut(recipe.backbone, n) for n in range(blocks + 1)]
    _, cache = Bench().prepare(recipe, len(dataset.classes), reporter)
    wanted = [Need(cut, split, 0) for cut in cuts for split in _LOOKED_AT]
    dataset, rows = gather(recipe, dataset, cache, wanted)
    photos = tuple(photo for split in _LOOKED_AT for photo in dataset.split(split))
    labels = np.array([photo.label for photo in photos])
    groups = np.unique([p.group or p.sha256 for p in photos], return_inverse=True)[1]
    _check_enough(dataset.classes, labels, groups)
    parts = transfer.folds(labels, groups)
    scores = []
    found: list[tuple[np.ndarray, transfer.Probe]] = []
    with reporter.stage(f"cuts of {recipe.backbone} scored", len(cuts) * len(photos)) as advance:
        for cut in cuts:
            batches = [
                pool_maps(batch, "gap")
                for split in _LOOKED_AT
                for batch in rows[Need(cut, split, 0)].batches(_CHUNK)
            ]
            raw = np.concatenate(batches)
            features = transfer.reduced(raw)
            probe = transfer.linear_probe(features, labels, parts)
            found.append((features, probe))
            near = transfer.neighbours_correct(features, labels, parts)
            scores.append(
                {
                    "backbone": recipe.backbone,
                    "cut": cut,
                    "features": raw.shape[1],
                    "log_me": round(transfer.log_me(raw, labels), 4),
                    "h_score": round(transfer.h_score(raw, labels), 4),
                    "linear_probe": _accuracy(probe.correct, groups),
                    "nearest_neighbour": _accuracy(near, groups),
                }
            )
            advance(len(photos))
    features, probe = found[0]
    return Looked(recipe, len(dataset.classes), photos, labels, groups, features, probe, scores)


def _check_enough(classes: Sequence[str], labels: np.ndarray, groups: np.ndarray) -> None:
    """Cross-validation needs photos of every class on both of its sides."""
    kinds = {c: len(np.unique(groups[labels == index])) for index, c in enumerate(classes)}
    few = [f"{name} ({count(n, 'photo')})" for name, n in kinds.items() if n < _FEWEST]
    if few:
        raise DataError(
            f"Too few photos to advise on, copies and groups counted once: {', '.join(few[:5])}; "
            f"needed are {_FEWEST} for training and validation of every class. Add photos, or "
            "leave small classes out with --set min_per_class=3."
        )


def similarity(looked: Looked, reporter: Reporter) -> dict[str, Any]:
    """How much of what features of random weights leave wrong the backbone's own close.

    Returns:
        ``value``: 0 (as random weights) to 1 (all of it), by the linear probe; ``photos`` that both
        saw, at most 1,000; ``backbone`` and ``random``: linear_probe and nearest_neighbour, each
        with accuracy and its 95 % interval, see ``interval``; ``majority``: share of the largest
        class.
    """
    chosen = _drawn(looked.labels, looked.groups)
    labels = looked.labels[chosen]
    own = _probed(looked.features[chosen], labels, looked.groups[chosen])
    random = own
    if looked.recipe.weights != "random":
        photos = [looked.photos[index] for index in chosen]
        raw = _random_features(looked.recipe, looked.classes, photos, reporter)
        random = _probed(transfer.reduced(raw), labels, looked.groups[chosen])
    floor = random["linear_probe"]["accuracy"]
    closed = own["linear_probe"]["accuracy"] - floor
    return {
        "value": round(float(np.clip(closed / max(1 - floor, 1 / len(labels)), 0, 1)), 4),
        "photos": len(labels),
        "backbone": own,
        "random": random,
        "majority": round(float(np.bincount(labels).max() / len(labels)), 4),
    }


def _drawn(labels: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """At most so many photos, in order; of a rare class, too, as many groups as folds need."""
    order = np.random.default_rng(0).permutation(len(labels))
    known: dict[int, set[int]] = {}
    needed = []
    for index in order:
        own = known.setdefault(labels[index], set())
        if len(own) < _FEWEST and groups[index] not in own:
            own.add(groups[index])
            needed.append(index)
    others = order[~np.isin(order, needed)][: max(0, _COMPARED - len(needed))]
    return np.sort(np.concatenate([needed, others]))


def _random_features(
    recipe: Recipe, classes: int, photos: list[Photo], reporter: Reporter
) -> np.ndarray:
    # float16 cannot hold what random weights leave of the photos
    plain = recipe.model_copy(update={"weights": "random", "store": "float32"})
    network, cache = Bench().prepare(plain, classes, reporter)
    return _pooled(cache, photos, network.top)


def _pooled(cache: ActivationCache, photos: list[Photo], cut: str) -> np.ndarray:
    rows = cache.rows(photos, cut)
    return np.concatenate([pool_maps(batch, "gap") for batch in rows.batches(_CHUNK)])


def _probed(features: np.ndarray, labels: np.ndarray, groups: np.ndarray) -> dict[str, Any]:
    parts = transfer.folds(labels, groups)
    return {
        "linear_probe": _accuracy(transfer.linear_probe(features, labels, parts).correct, groups),
        "nearest_neighbour": _accuracy(
            transfer.neighbours_correct(features, labels, parts), groups
        ),
    }


def _accuracy(correct: np.ndarray, groups: np.ndarray) -> dict[str, Any]:
    low, high = interval(correct, groups)
    return {
        "accuracy": round(float(correct.mean()), 4),
        "interval": [round(low, 4), round(high, 4)],
    }


def curve(looked: Looked, reporter: Reporter) -> list[dict[str, Any]]:
    """The learning curve: photos, accuracy, interval, and whether it is extrapolated."""
    with reporter.stage("learning curve", len(looked.labels)) as advance:
        found = transfer.learning_curve(
            looked.features, looked.labels, looked.folds, looked.probe.c, looked.groups
        )
        advance(len(looked.labels))
    return [
        {
            "photos": point.photos,
            "accuracy": round(float(point.accuracy), 4),
            "interval": [round(share, 4) for share in point.interval],
            "extrapolated": point.extrapolated,
        }
        for point in found
    ]


def suspects(
    looked: Looked, dataset: Dataset, most: int, reporter: Reporter
) -> list[dict[str, Any]]:
    """Photos to look at: ``kind`` (label, outlier, near-duplicate), ``file``, ``class``, ``why``.

    At most ``most`` of each kind, the worst first; a near-duplicate has ``other``, its file in
    another split.
    """
    names = dataset.classes
    found = []
    for doubted in transfer.label_suspects(looked.probe.probabilities, looked.labels)[:most]:
        why = (
            f"looks like {names[doubted.looks_like]}: {100 * doubted.probability:.1f} %, against "
            f"{100 * doubted.of_label:.1f} % for its own class"
        )
        found.append(_suspect("label", looked.photos[doubted.row], names, why))
    for index, distance in list(transfer.outliers(looked.features))[:most]:
        why = f"far from all other photos: {distance:.0f} robust standard deviations"
        found.append(_suspect("outlier", looked.photos[index], names, why))
    with reporter.stage("photos compared", len(dataset.photos)) as advance:
        pairs = audit(dataset, looked.recipe.image_size, advance)["near_duplicates"]
    by_file = {photo.file: photo for photo in dataset.photos}
    for file, other in pairs[:most]:
        row = _suspect("near-duplicate", by_file[file], names, f"looks like {other}")
        found.append({**row, "other": other})
    return found


def _suspect(kind: str, photo: Photo, names: tuple[str, ...], why: str) -> dict[str, Any]:
    return {"kind": kind, "file": photo.file, "class": names[photo.label], "why": why}
