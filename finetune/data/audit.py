"""A data set looked at before it is trained on: what is bad, what stands twice, what it can tell."""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np

from finetune.data.alike import SMALLEST, alike, components, thumbnail
from finetune.data.class_folders import listed
from finetune.data.dataset import SPLITS, Dataset, duplicates, leaks
from finetune.data.decode import BadPhoto, decode, sides
from finetune.data.photos import Photo, map_ahead, read_bytes
from finetune.progress import count

_IMBALANCED = 3.0  # largest class over smallest from which on accuracy misleads
_FEW_TEST = 20  # photos of a class: one of them is 5 points of its recall
_FEW_VALIDATION = 50  # photos: their accuracy is known to about 8 points
_SHOWN = 5  # largest and smallest classes that a summary names


@dataclass(frozen=True)
class _Look:
    """What one photo shows (no thumbnail of a tiny one), or why it cannot be decoded."""

    sides: tuple[int, int] = (0, 0)
    thumbnail: np.ndarray | None = None
    reason: str | None = None


def audit(
    dataset: Dataset, size: int = 224, advance: Callable[[int], object] = lambda photos: None
) -> dict[str, Any]:
    """Decode every photo once and report.

    Args:
        dataset: the photos.
        size: side in pixels that they will be resized to.
        advance: called with 1 after each photo.

    Returns:
        What ``check --json`` prints, JSON values. ``photos`` is split -> class -> count, and
        ``classes_summary`` its bounded form: number of classes, and the ``largest`` and
        ``smallest`` as [class, photos]. ``bad`` has a file and a reason each; ``leaks`` are groups
        of files with the same bytes in more than one split or class, ``duplicates`` such groups
        within one class of one split; ``near_duplicates`` are pairs of files in two splits that
        look alike, ``bursts`` such pairs within one split, and ``groups_proposed`` the groups that
        both connect (hints all). ``imbalance`` is the largest class of the training split over the
        smallest; ``majority_baseline`` the test accuracy, 0-1, of always naming the largest class;
        ``warnings`` are sentences. ``sizes`` are sides in pixels and the number of photos with a
        side below ``size``; ``test`` has the half width of Wilson's 95 % interval at 90 %
        accuracy, a fraction. ``ok`` if nothing is bad or leaks.
    """
    looks = []
    for look in map_ahead(lambda photo: _look(photo, size), dataset.photos):
        looks.append(look)
        advance(1)
    seen = [(p, look.thumbnail) for p, look in zip(dataset.photos, looks, strict=True)]
    pairs, proposed = _alike([(p, picture) for p, picture in seen if picture is not None])
    bad = [
        {"file": photo.file, "reason": look.reason}
        for photo, look in zip(dataset.photos, looks, strict=True)
        if look.reason
    ]
    shared = leaks(dataset)
    test = len(dataset.split("test"))
    return {
        "folder": str(dataset.root),
        "classes": list(dataset.classes),
        "classes_summary": _summary(dataset),
        "left_out": dict(dataset.left_out),
        "photos": {split: _counts(dataset, split) for split in SPLITS},
        "hashed": dataset.hashed,
        "split": dataset.digest,
        "bad": bad,
        "leaks": _files(shared),
        "duplicates": _files(duplicates(dataset)),
        "near_duplicates": _files([pair for pair in pairs if pair[0].split != pair[1].split]),
        "bursts": _files([pair for pair in pairs if pair[0].split == pair[1].split]),
        "groups_proposed": _files(proposed),
        "ignored": dataset.ignored,
        "imbalance": round(imbalance(dataset), 3),
        "majority_baseline": round(majority_baseline(dataset), 4),
        "warnings": warnings_of(dataset),
        "sizes": _sizes([look.sides for look in looks if not look.reason], size),
        "test": {"photos": test, "half_width": round(half_width(test), 4)},
        "ok": not bad and not shared,
    }


def imbalance(dataset: Dataset) -> float:
    """Photos of the largest class of the training split over those of the smallest."""
    counts = _counts(dataset, "train").values()
    return max(counts) / min(counts)


def majority_baseline(dataset: Dataset) -> float:
    """Test accuracy, 0-1, of always naming the class that is largest in the training split."""
    train = _counts(dataset, "train")
    test = _counts(dataset, "test")
    return test[max(train, key=lambda name: train[name])] / sum(test.values())


def warnings_of(dataset: Dataset) -> list[str]:
    """Sentences on what the numbers of photos do to the figures; empty if nothing."""
    train = _counts(dataset, "train")
    warnings = []
    if imbalance(dataset) > _IMBALANCED:
        largest = max(train, key=lambda name: train[name])
        smallest = min(train, key=lambda name: train[name])
        warnings.append(
            f"Class imbalance: {largest!r} has {count(train[largest], 'training photo')} and "
            f"{smallest!r} {train[smallest]:,}, {imbalance(dataset):.1f} to 1. Always naming "
            f"{largest!r} reaches an accuracy of {100 * majority_baseline(dataset):.1f} % on the "
            "test photos, so read the balanced accuracy; --set class_weight=balanced makes every "
            "class count alike in training."
        )
    few = [f"{name!r} {n:,}" for name, n in _counts(dataset, "test").items() if n < _FEW_TEST]
    if few:
        verb = "has" if len(few) == 1 else "have"
        warnings.append(
            f"{count(len(few), 'class')} {verb} fewer than {_FEW_TEST} test photos "
            f"({listed(few, _SHOWN)}): figures per class are coarse."
        )
    validation = len(dataset.split("validation"))
    if validation < _FEW_VALIDATION:
        warnings.append(
            f"The validation set is small, {count(validation, 'photo')}: it knows an accuracy of "
            f"90 % to about ± {100 * half_width(validation):.0f} points, too coarse to choose "
            "between models that are close."
        )
    crossing = _crossing_groups(dataset)
    if crossing:
        warnings.append(
            f"{count(len(crossing), 'group')} of photos stand in more than one split "
            f"({listed(crossing, _SHOWN)}): figures may flatter."
        )
    return warnings


def half_width(photos: int, accuracy: float = 0.9) -> float:
    """Half the width of Wilson's 95 % interval of an accuracy measured on so many photos.

    Wilson 1927, JASA 22:209: z / (1 + z^2/n) * sqrt(p (1 - p) / n + z^2 / (4 n^2)); a fraction.
    """
    z = NormalDist().inv_cdf(0.975)
    variance = accuracy * (1 - accuracy) / photos + z**2 / (4 * photos**2)
    return z / (1 + z**2 / photos) * math.sqrt(variance)


def _look(photo: Photo, size: int) -> _Look:
    try:
        data = read_bytes(photo.path)
        pixels = decode(data, size)
        shape = sides(data)
    except BadPhoto as error:
        return _Look(reason=str(error))
    return _Look(shape, thumbnail(pixels) if min(shape) >= SMALLEST else None)


def _alike(
    seen: Sequence[tuple[Photo, np.ndarray]],
) -> tuple[list[tuple[Photo, ...]], list[tuple[Photo, ...]]]:
    """Pairs of photos that look alike and differ in their bytes, and the groups they connect."""
    photos = [photo for photo, _ in seen]
    pairs = [
        pair
        for pair in alike([picture for _, picture in seen])
        if photos[pair[0]].sha256 != photos[pair[1]].sha256
    ]

    def named(groups: Sequence[Sequence[int]]) -> list[tuple[Photo, ...]]:
        return [tuple(photos[index] for index in group) for group in groups]

    return named(pairs), named(components(pairs))


def _counts(dataset: Dataset, split: str) -> dict[str, int]:
    found = Counter(photo.label for photo in dataset.split(split))
    return {name: found[label] for label, name in enumerate(dataset.classes)}


def _summary(dataset: Dataset) -> dict[str, Any]:
    found = Counter(dataset.classes[photo.label] for photo in dataset.photos)
    ranked = [[name, n] for name, n in found.most_common()]
    smallest = ranked[::-1][:_SHOWN]
    return {"classes": len(dataset.classes), "largest": ranked[:_SHOWN], "smallest": smallest}


def _crossing_groups(dataset: Dataset) -> list[str]:
    splits: dict[str, set[str]] = {}
    for photo in dataset.photos:
        splits.setdefault(photo.group, set()).add(photo.split)
    return sorted(group for group, found in splits.items() if group and len(found) > 1)


def _files(groups: Sequence[tuple[Photo, ...]]) -> list[list[str]]:
    return [[photo.file for photo in group] for group in groups]


def _sizes(sides: Sequence[tuple[int, int]], size: int) -> dict[str, int | None]:
    """Shortest and longest side in pixels (None without photos), and how many are too small."""
    return {
        "shortest": min((min(pair) for pair in sides), default=None),
        "longest": max((max(pair) for pair in sides), default=None),
        "size": size,
        "smaller": sum(min(pair) < size for pair in sides),
    }
