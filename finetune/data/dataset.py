"""Class folders -> an ordered, digested data set with training, validation and test photos."""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from finetune.data.class_folders import class_problems, listed, open_folder
from finetune.data.photos import SUFFIXES, Photo, Pixels, read_photos
from finetune.data.splits import SPLITS as SPLITS
from finetune.data.splits import draw_photos
from finetune.errors import DataError

# Fewest photos of a class in each split; "" is a class that is still to be split.
_FEWEST = {"": 3, "train": 2, "validation": 1, "test": 1}
_NEEDED = (
    "Needed: either folders train/, validation/ (or val/, valid/) and test/, each with the same "
    "two or more class folders of photos (per class at least 2 for training, 1 for validation, "
    "1 for test), or one folder with two or more class folders of at least 3 different photos "
    f"each, which is then split 60/20/20. Photos end in {', '.join(sorted(SUFFIXES))}."
)


@dataclass(frozen=True)
class Dataset:
    """Photos in a fixed order: by split (in the order of ``SPLITS``), then class, then file.

    ``classes`` are the sorted folder names, ``ignored`` counts by kind the entries that are no
    photos (a folder that is ignored counts once), ``excluded`` holds (file, reason) of photos left
    out by ``without``, ``hashed`` says whether the splits were drawn from the files' contents (one
    folder of class folders), and ``left_out`` holds (class, photos) of classes that were too small.
    """

    name: str
    root: Path
    classes: tuple[str, ...]
    photos: tuple[Photo, ...]
    ignored: dict[str, int]
    excluded: tuple[tuple[str, str], ...] = ()
    hashed: bool = False
    left_out: tuple[tuple[str, int], ...] = ()

    def split(self, name: str) -> tuple[Photo, ...]:
        """The photos of one split, in order."""
        if name not in SPLITS:
            raise ValueError(f"unknown split {name!r}; allowed: {', '.join(SPLITS)}")
        return tuple(photo for photo in self.photos if photo.split == name)

    def labels(self, name: str) -> np.ndarray:
        """Class indexes of one split's photos: int32 (n,), row-aligned with ``split(name)``."""
        return np.array([photo.label for photo in self.split(name)], dtype=np.int32)

    def group_ids(self, name: str) -> np.ndarray:
        """A number for each group among one split's photos: int32 (n,), as ``labels``.

        Without a group, a photo is alone but for its identical copies.
        """
        keys = [photo.group or photo.sha256 for photo in self.split(name)]
        return np.unique(keys, return_inverse=True)[1].astype(np.int32)

    def weights(self, name: str) -> np.ndarray | None:
        """Part of each photo of a split in the loss: float32 (n,), mean 1; None if equal."""
        weights = np.array([photo.weight for photo in self.split(name)], dtype=np.float32)
        return None if np.ptp(weights) == 0 else weights / weights.mean()

    @property
    def digest(self) -> str:
        """Hex sha256 over every photo's (split, class name, content); no file name enters.

        A weight enters where it is not 1, for it makes another training.
        """
        rows = sorted(
            (p.split, self.classes[p.label], p.sha256, *([p.weight] if p.weight != 1 else []))
            for p in self.photos
        )
        return hashlib.sha256("\n".join(map(json.dumps, rows)).encode()).hexdigest()


def read_folder(root: Path, name: str | None = None, min_per_class: int = 0) -> Dataset:
    """Read a folder of photos, hash each file and settle its class and split.

    Either ``root`` holds ``train/``, ``validation/`` (``val/``, ``valid/``) and ``test/`` of class
    folders, or it holds the class folders and is split by ``splits.draw``. Folders nested in a
    class folder belong to that class. Hidden entries, system files, other suffixes and links to a
    folder already visited are ignored and counted.

    Args:
        root: the folder.
        name: the data set's name; the folder's own name if missing.
        min_per_class: where positive, classes with fewer photos, or with fewer than a split needs,
            are left out.

    Raises:
        DataError: no usable data set; the message lists everything that is wrong with it.
    """
    root = Path(root)
    reading = open_folder(root, _NEEDED)
    folders = reading.class_folders()
    classes = tuple(sorted({class_name for _, class_name in folders}))
    photos = reading.read(folders, classes)
    ignored = dict(+reading.ignored)
    unsettled = Dataset(name or root.resolve().name, root, classes, tuple(photos), ignored)
    return settle(unsettled, [*folders], min_per_class, reading.problems, _NEEDED)


def settle(
    dataset: Dataset,
    keys: Sequence[tuple[str, str]],
    min_per_class: int,
    problems: Sequence[str],
    needed: str,
) -> Dataset:
    """A data set as it was read -> one to train on: large enough, split and in order.

    Args:
        dataset: photos whose ``split`` may be "", which is then drawn.
        keys: the (split, class name) that must have photos.
        min_per_class: as for ``read_folder``.
        problems: what is wrong already.
        needed: the end of the message.

    Raises:
        DataError: anything is wrong.
    """
    classes = dataset.classes
    splits = sorted({split for split, _ in keys})
    small: dict[str, int] = {}
    counts = _counts(dataset.photos, classes)
    for name in classes if min_per_class > 0 else ():
        found = [counts[split, name] for split in splits]
        lacks = any(n < _FEWEST[split] for n, split in zip(found, splits, strict=True))
        if lacks or sum(found) < min_per_class:
            small[name] = sum(found)
    classes, photos = _only(dataset.photos, classes, small)
    keys = [key for key in keys if key[1] not in small]
    if small and not classes:
        raise DataError(
            f"--min-per-class {min_per_class} leaves no class of {dataset.root}: the largest has "
            f"{max(small.values()):,} photos. Give a smaller number."
        )
    problems = [*problems, *class_problems(keys), *too_few(photos, classes, keys)]
    if problems:
        raise DataError(
            f"{dataset.root} cannot be used as a data set: {'; '.join(problems)}. {needed}"
        )
    hashed = "" in splits
    dataset = replace(dataset, classes=classes, hashed=hashed, left_out=tuple(small.items()))
    return drawn(dataset, photos) if hashed else replace(dataset, photos=ordered(photos))


def drawn(dataset: Dataset, photos: Sequence[Photo], how: str = "") -> Dataset:
    """The data set with these photos, whose splits are drawn, see ``draw_photos``; ``how`` is for
    the error.

    Raises:
        DataError: groups or copies leave a class too few photos for a split.
    """
    found = ordered(draw_photos(photos))
    keys = [(split, name) for split in SPLITS for name in dataset.classes]
    if problems := too_few(found, dataset.classes, keys, 1, photos):
        raise DataError(
            f"{dataset.root} cannot be split by groups{how}: {'; '.join(problems)}. "
            "Needed: at least 3 groups in each class, where identical photos are of one group; or "
            "give splits."
        )
    return replace(dataset, photos=found)


def find_bad(
    photos: Sequence[Photo],
    size: int,
    resize: str,
    progress: Callable[[int], object] = lambda photos: None,
) -> list[tuple[Photo, str]]:
    """Decode every photo once and return all that cannot be decoded, in order, with the reasons.

    Args:
        photos: the photos to try.
        size, resize: as for ``decode``.
        progress: called with 1 after each photo.
    """
    bad = []
    for photo, found in read_photos(Pixels(size, resize), photos):
        if isinstance(found, str):
            assert isinstance(photo, Photo)
            bad.append((photo, found))
        progress(1)
    return bad


def all_copies(dataset: Dataset, bad: Iterable[tuple[Photo, str]]) -> list[tuple[Photo, str]]:
    """Every file of the bad photos, with the reasons: identical files are read once but all bad."""
    reasons = {photo.sha256: reason for photo, reason in bad}
    return [(p, reasons[p.sha256]) for p in dataset.photos if p.sha256 in reasons]


def without(dataset: Dataset, bad: Iterable[tuple[Photo, str]]) -> Dataset:
    """The data set without the bad photos, all files of which are named in ``excluded``.

    No other photo changes its split.

    Raises:
        DataError: a class has too few photos left.
    """
    bad = all_copies(dataset, bad)
    files = {photo.file for photo, _ in bad}
    photos = tuple(photo for photo in dataset.photos if photo.file not in files)
    keys = [(split, name) for split in SPLITS for name in dataset.classes]
    fewest = 1 if dataset.hashed else 2
    if problems := too_few(photos, dataset.classes, keys, fewest, dataset.photos):
        raise DataError(
            f"{dataset.root} cannot be used without the photos left out ({listed(sorted(files))}): "
            f"{'; '.join(problems)}. {_NEEDED}"
        )
    excluded = dataset.excluded + tuple((photo.file, reason) for photo, reason in bad)
    return replace(dataset, photos=photos, excluded=excluded)


def leaks(dataset: Dataset) -> list[tuple[Photo, ...]]:
    """Groups of files with identical content in more than one split or class."""
    return [group for group in _identical(dataset) if len(_places(group)) > 1]


def duplicates(dataset: Dataset) -> list[tuple[Photo, ...]]:
    """Groups of files with identical content within one class of one split."""
    return [group for group in _identical(dataset) if len(group) > 1 and len(_places(group)) == 1]


def _counts(photos: Iterable[Photo], classes: Sequence[str]) -> Counter[tuple[str, str]]:
    """(split, class name) -> photos; of a class that is still to be split, different contents."""
    same = {
        (photo.split, classes[photo.label], photo.sha256 if photo.split == "" else photo.file)
        for photo in photos
    }
    return Counter((split, name) for split, name, _ in same)


def _only(
    photos: Iterable[Photo], classes: Sequence[str], small: Collection[str]
) -> tuple[tuple[str, ...], tuple[Photo, ...]]:
    """Classes and photos without those of the small classes, labelled anew."""
    kept = tuple(name for name in classes if name not in small)
    label = {classes.index(name): index for index, name in enumerate(kept)}
    return kept, tuple(replace(p, label=label[p.label]) for p in photos if p.label in label)


def too_few(
    photos: Iterable[Photo],
    classes: Sequence[str],
    keys: Iterable[tuple[str, str]],
    fewest: int = 2,
    settled: Collection[Photo] = (),
) -> list[str]:
    """Every (split, class name) of ``keys`` with too few photos, and a data set of one class.

    ``fewest`` photos of a class must train. ``settled`` are the photos that ``settle`` gave, of
    which some were taken out or moved since: its ``min_per_class`` counts them.
    """
    problems = [f"there is only one class, {classes[0]!r}"] if len(classes) == 1 else []
    counts = _counts(photos, classes)
    needed = _FEWEST | {"train": fewest}
    small = [key for key in keys if counts[key] < needed[key[0]]]
    problems += [
        f"{Path(*key)}/ has too few {'' if key[0] else 'different '}photos "
        f"({counts[key]} of {needed[key[0]]})"
        for key in small[:10]
    ]
    if len(small) > 10:
        problems.append(f"and {len(small) - 10:,} more")
    names = {name for _, name in small}
    if small and len(names) < len(classes) - 1:
        totals = Counter(classes[photo.label] for photo in settled)
        least = 1 + max(totals[name] for name in names) if settled else needed[small[0][0]]
        problems.append(f"--min-per-class {least} leaves such classes out")
    elif small:
        problems.append("--min-per-class N would leave them out, but two classes must be left")
    return problems


def ordered(photos: Iterable[Photo]) -> tuple[Photo, ...]:
    """The photos of a data set in its order: by split, class and file."""
    return tuple(sorted(photos, key=lambda p: (SPLITS.index(p.split), p.label, p.file)))


def _identical(dataset: Dataset) -> list[tuple[Photo, ...]]:
    by_content: dict[str, list[Photo]] = {}
    for photo in dataset.photos:
        by_content.setdefault(photo.sha256, []).append(photo)
    return [tuple(group) for group in by_content.values()]


def _places(group: Iterable[Photo]) -> set[tuple[str, int]]:
    return {(photo.split, photo.label) for photo in group}
