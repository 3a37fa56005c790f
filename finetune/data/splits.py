"""Which photos train, which choose and which test: drawn 60/20/20 from what the photos hold."""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

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

    A group is drawn in the class that most of its photos have.
    """
    labels: dict[str, Counter[int]] = {}
    for photo in photos:
        labels.setdefault(photo.group, Counter())[photo.label] += 1

    def unit(photo: Photo) -> tuple[int, str]:
        if not photo.group:
            return photo.label, photo.sha256
        counts = labels[photo.group]
        digest = hashlib.sha256(photo.group.encode()).hexdigest()
        return min(counts, key=lambda label: (-counts[label], label)), digest

    units = [unit(photo) for photo in photos]
    contents: dict[int, dict[str, set[str]]] = {}
    for photo, (label, key) in zip(photos, units, strict=True):
        contents.setdefault(label, {}).setdefault(key, set()).add(photo.sha256)
    drawn = {
        label: draw({key: len(found) for key, found in of_class.items()})
        for label, of_class in contents.items()
    }
    return [
        replace(photo, split=drawn[label][key])
        for photo, (label, key) in zip(photos, units, strict=True)
    ]
