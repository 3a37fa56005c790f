"""A data set looked at before it is trained on: what is bad or twice, what it can tell."""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np

from finetune.data.alike import SMALLEST, alike, components, thumbnail
from finetune.data.class_folders import listed
from finetune.data.dataset import SPLITS, Dataset, duplicates, leaks
from finetune.data.decode import BadPhoto, decode, sides
from finetune.data.groups import propose_rule
from finetune.data.photos import Photo, map_ahead, read_bytes
from finetune.progress import count

_IMBALANCED = 3.0  # largest class over smallest from which on accuracy misleads
_FEW_TEST = 20  # photos of a class: one of them is 5 points of its recall
_FEW_VALIDATION = 50  # photos: their accuracy is known to about 8 points
_WIDE = 0.10  # width of an interval of accuracy that tells little, 0-1
_SHOWN = 5  # largest and smallest classes that a summary names


@dataclass(frozen=True)
class Look:
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
        both connect (hints all), and ``groups_rule`` what a recipe's ``groups`` may say so that
        they stay together, or None; ``groups_crossing`` names the groups that stand in more than
        one split. ``imbalance`` is the largest class of the training split over the smallest;
        ``majority_baseline`` the test accuracy, 0-1, of always naming the test photos' most
        frequent class; ``warnings`` are sentences. ``sizes`` are sides in pixels and the number of
        photos with a side below ``size``; ``test`` has the half width of Wilson's 95 % interval at
        90 % accuracy, a fraction. ``ok`` if nothing is bad or leaks.
    """
    looks = []
    for one in map_ahead(lambda photo: look_at(photo, size), dataset.photos):
        looks.append(one)
        advance(1)
    seen = [(p, one.thumbnail) for p, one in zip(dataset.photos, looks, strict=True)]
    cut: list[str] = []
    pairs = pairs_alike([(p, picture) for p, picture in seen if picture is not None], cut.append)
    proposed = _connected(dataset, pairs)
    bad = [
        {"file": photo.file, "reason": one.reason}
        for photo, one in zip(dataset.photos, looks, strict=True)
        if one.reason
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
        "groups_rule": propose_rule(dataset, proposed),
        "groups_crossing": _crossing_groups(dataset),
        "ignored": dataset.ignored,
        "imbalance": round(imbalance(dataset), 3),
        "majority_baseline": round(majority_baseline(dataset), 4),
        "warnings": [*warnings_of(dataset), *_wide_warning(test), *cut],
        "sizes": _sizes([one.sides for one in looks if not one.reason], size),
        "test": {"photos": test, "half_width": round(half_width(test), 4)},
        "ok": not bad and not shared,
    }


def imbalance(dataset: Dataset) -> float:
    """Photos of the largest class of the training split over those of the smallest."""
    counts = _counts(dataset, "train").values()
    return max(counts) / min(counts)


def majority_baseline(dataset: Dataset) -> float:
    """Test accuracy, 0-1, of always naming the test photos' most frequent class: what
    ``metrics.measure`` calls so, and the most that one answer to every photo can have.
    """
    test = _counts(dataset, "test").values()
    return max(test) / sum(test)


def warnings_of(dataset: Dataset, balanced: bool = False) -> list[str]:
    """Sentences on what the numbers of photos do to the figures; empty if nothing.

    None names a photo or a group: a run keeps them, and a run may be shared.

    Args:
        dataset: the photos.
        balanced: whether training weighs the classes alike already.
    """
    warnings = [
        *imbalance_warning(_counts(dataset, "train"), majority_baseline(dataset), balanced),
        *few_warning(_counts(dataset, "test")),
    ]
    validation = len(dataset.split("validation"))
    if validation < _FEW_VALIDATION:
        warnings.append(
            f"The validation set is small, {count(validation, 'photo')}: it knows an accuracy of "
            f"90 % to about ± {100 * half_width(validation):.0f} points, too coarse to choose "
            "between models that are close."
        )
    crossing = len(_crossing_groups(dataset))
    if crossing:
        warnings.append(
            f"{count(crossing, 'group')} of photos {'stands' if crossing == 1 else 'stand'} in "
            "more than one split: figures may flatter. `finetune check` names them."
        )
    return warnings


def imbalance_warning(
    counts: Mapping[str, int], baseline: float, balanced: bool = False, photos: str = "training"
) -> list[str]:
    """At most one sentence.

    Args:
        counts: class -> number of ``photos``; classes without any are left out of account.
        baseline: see ``majority_baseline``.
        balanced: whether training weighs the classes alike already.
    """
    counts = {name: n for name, n in counts.items() if n}
    largest = max(counts, key=lambda name: counts[name])
    smallest = min(counts, key=lambda name: counts[name])
    ratio = counts[largest] / counts[smallest]
    if ratio <= _IMBALANCED:
        return []
    advice = (
        "every class counts alike in this training already."
        if balanced
        else "--set class_weight=balanced makes every class count alike in training."
    )
    return [
        f"Class imbalance: {largest!r} has {count(counts[largest], f'{photos} photo')} and "
        f"{smallest!r} {counts[smallest]:,}, {ratio:.1f} to 1. Always naming the most "
        f"frequent class of the test photos has an accuracy of {100 * baseline:.1f} % there, so "
        f"read the balanced accuracy; {advice}"
    ]


def few_warning(counts: Mapping[str, int]) -> list[str]:
    """At most one sentence on classes of few test photos; ``counts`` is class -> photos."""
    few = [f"{name!r} {n:,}" for name, n in counts.items() if n < _FEW_TEST]
    if not few:
        return []
    subject = "1 class has" if len(few) == 1 else f"{len(few):,} classes have"
    return [
        f"{subject} fewer than {_FEW_TEST} test photos "
        f"({listed(few, _SHOWN)}): figures per class are coarse."
    ]


def _wide_warning(test: int) -> list[str]:
    """At most one sentence, before anything is measured; a run has its own interval."""
    reach = half_width(test)
    if 2 * reach <= _WIDE:
        return []
    return [
        f"The test set is small: {count(test, 'photo')} know an accuracy of 90 % to "
        f"± {100 * reach:.1f} points, an interval wider than 10 points."
    ]


def half_width(photos: int, accuracy: float = 0.9) -> float:
    """Half the width of Wilson's 95 % interval of an accuracy measured on so many photos.

    Wilson 1927, JASA 22:209: z / (1 + z^2/n) * sqrt(p (1 - p) / n + z^2 / (4 n^2)); a fraction.
    """
    z = NormalDist().inv_cdf(0.975)
    variance = accuracy * (1 - accuracy) / photos + z**2 / (4 * photos**2)
    return z / (1 + z**2 / photos) * math.sqrt(variance)


def look_at(photo: Photo, size: int) -> Look:
    """Decode a photo, as a square of ``size`` pixels."""
    try:
        data = read_bytes(photo.path)
        pixels = decode(data, size)
        shape = sides(data)
    except BadPhoto as error:
        return Look(reason=str(error))
    return Look(shape, thumbnail(pixels) if min(shape) >= SMALLEST else None)


def pairs_alike(
    seen: Sequence[tuple[Photo, np.ndarray]], warn: Callable[[str], object]
) -> list[tuple[Photo, Photo]]:
    """Pairs of photos whose thumbnails look alike and whose bytes differ, in order.

    ``warn`` is told if there were too many to compare them all.
    """
    pairs = [(seen[a][0], seen[b][0]) for a, b in alike([picture for _, picture in seen], warn)]
    return [(a, b) for a, b in pairs if a.sha256 != b.sha256]


def _connected(dataset: Dataset, pairs: Sequence[tuple[Photo, Photo]]) -> list[tuple[Photo, ...]]:
    """The groups of photos that pairs connect."""
    place = {photo.file: number for number, photo in enumerate(dataset.photos)}
    groups = components([(place[a.file], place[b.file]) for a, b in pairs])
    return [tuple(dataset.photos[number] for number in group) for group in groups]


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
