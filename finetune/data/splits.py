"""Which photos train, which choose and which test: drawn 60/20/20 from what the photos hold."""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from finetune.data.alike import components
from finetune.data.photos import Photo

SPLITS = ("train", "validation", "test")


def draw(weights: Mapping[str, int], share: float = 0.2) -> dict[str, str]:
    """Split the units of one class, 60/20/20 or otherwise, by quotas, in the order of their hashes.

    A unit is a photo's content or a group of photos. Of n photos, test and validation get n / 5,
    rounded (halves up; at least 1), and training the rest: 60 photos are 36/12/12. Units are
    indivisible, so groups come as near to the quotas as their order allows.

    A photo that is added moves at most three others, each to the split beside its own in the order
    training, validation, test; renaming and moving files moves none.

    Args:
        weights: hash of each unit -> its number of photos; at least 3 units.
        share: of the photos that go to validation, and to test.

    Returns:
        hash -> ``train``, ``validation`` or ``test``; none is empty.
    """
    order = sorted(weights)
    quota = max(1, int(share * sum(weights.values()) + 0.5))
    split: dict[str, str] = {}
    for name, kept in (("test", 2), ("validation", 1)):
        taken = 0
        while len(order) > kept:
            more = taken + weights[order[-1]]
            if taken and abs(more - quota) >= abs(taken - quota):
                break
            split[order.pop()] = name
            taken = more
    return split | dict.fromkeys(order, "train")


def draw_photos(photos: Sequence[Photo]) -> list[Photo]:
    """The photos with their splits drawn class by class; copies, and photos of a group, together.

    What copies or groups connect is one unit, drawn in the class that most of its photos have.
    """
    together = units(photos)
    weights: dict[int, dict[str, int]] = {}
    for unit in together:
        contents = {photo.sha256 for photo in unit}
        weights.setdefault(label_of(unit), {})[_hash(unit)] = len(contents)
    drawn = {label: draw(of_class) for label, of_class in weights.items()}
    splits = {photo.file: drawn[label_of(unit)][_hash(unit)] for unit in together for photo in unit}
    return [replace(photo, split=splits[photo.file]) for photo in photos]


def units(photos: Sequence[Photo], alike: Sequence[tuple[Photo, Photo]] = ()) -> list[list[Photo]]:
    """Photos that copies, a group or the pairs of ``alike`` connect; every photo is in one unit."""
    number = {photo.file: index for index, photo in enumerate(photos)}
    first: dict[str, int] = {}
    pairs = [(number[a.file], number[b.file]) for a, b in alike]
    for index, photo in enumerate(photos):
        for key in (photo.sha256, f"group {photo.group}"):
            if key != "group ":
                pairs.append((first.setdefault(key, index), index))
    return [[photos[index] for index in sorted(set(unit))] for unit in components(pairs)]


def label_of(unit: Sequence[Photo]) -> int:
    """The class that most photos of a unit have."""
    counts = Counter(photo.label for photo in unit)
    return min(counts, key=lambda label: (-counts[label], label))


def _hash(unit: Sequence[Photo]) -> str:
    """What orders a unit: the smallest digest of its groups' names, and of its lone contents."""
    groups = {photo.group for photo in unit} - {""}
    lone = {photo.sha256 for photo in unit if not photo.group}
    return min(lone | {hashlib.sha256(group.encode()).hexdigest() for group in groups})
