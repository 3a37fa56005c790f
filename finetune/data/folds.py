"""A data set taken as one and dealt into folds: what is not independent stays in one fold."""

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace

from finetune.data.dataset import Dataset, ordered
from finetune.data.photos import Photo
from finetune.data.splits import label_of, units
from finetune.errors import DataError


def cross_folds(
    dataset: Dataset, alike: Sequence[tuple[Photo, Photo]], folds: int, repeats: int = 1
) -> Iterator[Dataset]:
    """The data set once per fold, and that ``repeats`` times with folds dealt anew.

    In each the fold is the test split, the next one validation and the others train; the splits
    that the data set came with are not used. The folds depend on the photos' contents and groups
    alone, so that all recipes have the same.

    Args:
        dataset: the photos.
        alike: pairs that look alike.
        folds: 3 or more.
        repeats: 1 or more.

    Raises:
        DataError: a class has fewer independent photos than there are folds.
    """
    together = units(dataset.photos, alike)
    for label, name in enumerate(dataset.classes):
        found = sum(label_of(unit) == label for unit in together)
        if found < folds:
            raise DataError(
                f"folds: {folds} needs as many independent photos in each class; {name} has "
                f"{found} (copies, look-alikes and photos of a group count once). Set fewer folds."
            )
    for repeat in range(repeats):
        place = _deal(together, folds, repeat)
        for fold in range(folds):
            splits = {fold: "test", (fold + 1) % folds: "validation"}
            photos = [
                replace(photo, split=splits.get(place[photo.file], "train"))
                for photo in dataset.photos
            ]
            yield replace(dataset, photos=ordered(photos))


def _deal(together: Sequence[list[Photo]], folds: int, repeat: int) -> dict[str, int]:
    """File -> fold: large units first, each to the fold that has fewest of its class so far."""

    def rank(unit: list[Photo]) -> tuple[int, str]:
        content = min(photo.sha256 for photo in unit)
        return -len(unit), hashlib.sha256(f"{repeat}/{content}".encode()).hexdigest()

    place: dict[str, int] = {}
    photos = [0] * folds
    of_class: Counter[tuple[int, int]] = Counter()
    for unit in sorted(together, key=rank):
        label = label_of(unit)
        fold = min(range(folds), key=lambda n: (of_class[label, n], photos[n]))
        of_class[label, fold] += len(unit)
        photos[fold] += len(unit)
        place |= {photo.file: fold for photo in unit}
    return place
