"""Class folders -> an ordered, digested data set with training, validation and test photos."""

import difflib
import hashlib
import json
import os
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from finetune.data.photos import SUFFIXES, BadPhoto, Photo, decode, kind
from finetune.errors import DataError, UsageError

SPLITS = ("train", "validation", "test")

# One folder of class folders is split by where the hash of a photo's content falls in [0, 1]: 60/20/20.
_BOUNDS = {"train": (0.0, 0.6), "validation": (0.6, 0.8), "test": (0.8, 1.0)}
_SPLIT_FOLDERS = {split: split for split in SPLITS} | {"val": "validation", "valid": "validation"}
# Fewest photos of a class in each split; "" is a class that is still to be split.
_FEWEST = {"": 3, "train": 2, "validation": 1, "test": 1}
_NEEDED = (
    "Needed: either folders train/, validation/ (or val/, valid/) and test/, each with the same two or more class "
    "folders of photos (per class at least 2 for training, 1 for validation, 1 for test), or one folder with two or "
    "more class folders of at least 3 different photos each, which is then split 60/20/20. Photos end in "
    f"{', '.join(sorted(SUFFIXES))}."
)

_LABELLED = (
    "Needed: class folders of photos, named like the model's classes, either directly in it or in the folder of a split, "
    "test/ for one (others: --split)."
)


@dataclass(frozen=True)
class Dataset:
    """Photos in a fixed order: by split (in the order of ``SPLITS``), then class, then file.

    ``classes`` are the sorted folder names, ``ignored`` counts by kind the entries that are no photos (a folder that is
    ignored counts once), ``excluded`` holds (file, reason) of photos left out by ``without``, and ``hashed`` says
    whether the splits were drawn from the files' contents (one folder of class folders).
    """

    name: str
    root: Path
    classes: tuple[str, ...]
    photos: tuple[Photo, ...]
    ignored: dict[str, int]
    excluded: tuple[tuple[str, str], ...] = ()
    hashed: bool = False

    def split(self, name: str) -> tuple[Photo, ...]:
        """The photos of one split, in order."""
        if name not in SPLITS:
            raise ValueError(f"unknown split {name!r}; allowed: {', '.join(SPLITS)}")
        return tuple(photo for photo in self.photos if photo.split == name)

    def labels(self, name: str) -> np.ndarray:
        """Class indexes of one split's photos: int32 (n,), row-aligned with ``split(name)``."""
        return np.array([photo.label for photo in self.split(name)], dtype=np.int32)

    @property
    def digest(self) -> str:
        """Hex sha256 over every photo's (split, class name, content); file names and the folder's place don't enter."""
        rows = sorted(
            (photo.split, self.classes[photo.label], photo.sha256) for photo in self.photos
        )
        return hashlib.sha256("\n".join(map(json.dumps, rows)).encode()).hexdigest()


def read_folder(root: Path, name: str | None = None) -> Dataset:
    """Read a folder of photos, hash each file and settle its class and split.

    Either ``root`` holds ``train/``, ``validation/`` (``val/``, ``valid/``) and ``test/`` of class folders, or it holds
    the class folders and is split by ``split_by_content``. Folders nested in a class folder belong to that class.
    Hidden entries, system files, other suffixes and links to a folder already visited are ignored and counted.

    Args:
        root: the folder.
        name: the data set's name; the folder's own name if missing.

    Raises:
        DataError: no usable data set; the message lists everything that is wrong with it.
    """
    root = Path(root)
    if not root.is_dir():
        raise DataError(
            f"{root} {'is a file, not a folder' if root.exists() else 'does not exist'}. {_NEEDED}"
        )
    walk = _Walk(root)
    folders = walk.class_folders()
    classes = tuple(sorted({class_name for _, class_name in folders}))
    photos = walk.read(folders, classes)
    problems = walk.problems + _too_few(photos, classes, folders)
    if problems:
        raise DataError(f"{root} cannot be used as a data set: {'; '.join(problems)}. {_NEEDED}")
    hashed = any(split == "" for split, _ in folders)
    name = name or root.resolve().name
    return Dataset(name, root, classes, _settled(photos), dict(+walk.ignored), hashed=hashed)


def read_labelled(
    root: Path, classes: Sequence[str], split: str | None = None, name: str | None = None
) -> Dataset:
    """Read a folder of photos to test a classifier on: nothing is split, and any number of photos of its classes will do.

    Args:
        root: holds either split folders of class folders, of which one is read, or class folders, which are all read.
        classes: the classifier's, in its order; labels are indexes into them.
        split: one of ``SPLITS``, or ``all``; test if missing.
        name: the data set's name; the folder's own name if missing.

    Returns:
        The photos by split, class and file; ``split`` is "" for those of a folder without splits.

    Raises:
        UsageError: a split of a folder that has none. DataError: no photos, or photos of classes that are unknown.
    """
    if not root.is_dir():
        raise DataError(
            f"{root} {'is a file, not a folder' if root.exists() else 'does not exist'}. {_LABELLED}"
        )
    walk = _Walk(root)
    folders = walk.class_folders(SPLITS if split == "all" else (split or "test",))
    others = sorted({class_name for _, class_name in folders} - set(classes))
    photos = walk.read(folders, [*classes, *others])
    if split not in (None, "all") and any(photo.split == "" for photo in photos):
        raise UsageError(
            f"{root} has no splits; leave out --split {split}: all photos in its class folders are used."
        )
    if unknown := [
        name
        for index, name in enumerate(others, len(classes))
        if index in {p.label for p in photos}
    ]:
        named = ", ".join(f"{name!r}{_near(name, classes)}" for name in unknown)
        known = _listed([repr(name) for name in classes])
        raise DataError(
            f"{root} holds classes that the model does not know: {named}. It knows {known}. Classes are matched by the "
            "names of their folders: rename these folders as the model calls their classes, or take them out."
        )
    if problems := walk.problems + (
        [] if photos else [f"no photos were found for --split {split or 'test'}"]
    ):
        raise DataError(f"{root} cannot be evaluated: {'; '.join(problems)}. {_LABELLED}")
    return Dataset(
        name or root.resolve().name, root, tuple(classes), tuple(photos), dict(+walk.ignored)
    )


def split_by_content(hashes: Iterable[str]) -> dict[str, str]:
    """Split the photos of one class 60/20/20 by the hash of their content.

    A photo's side is a pure function of its own bytes, so that adding files moves no other file and identical copies
    stay together. No split is left empty: the photo nearest to an empty split's bounds moves over. Only the photos of
    tiny classes can thus change sides later, when the split has got photos of its own.

    Args:
        hashes: hex sha256 of each photo of the class; at least 3 different ones.

    Returns:
        sha256 -> ``train``, ``validation`` or ``test``.
    """
    place = {sha256: int(sha256, 16) / 2**256 for sha256 in hashes}
    split = {sha256: SPLITS[bisect_right((0.6, 0.8), u)] for sha256, u in place.items()}
    for empty in (name for name in SPLITS if name not in split.values()):
        low, high = _BOUNDS[empty]
        sizes = Counter(split.values())
        movable = [sha256 for sha256 in place if sizes[split[sha256]] > 1]
        split[
            min(
                movable, key=lambda sha256: (max(low - place[sha256], place[sha256] - high), sha256)
            )
        ] = empty
    return split


def find_bad(
    photos: Sequence[Photo],
    size: int,
    resize: str,
    workers: int = 2,
    progress: Callable[[int, int], None] | None = None,
) -> list[tuple[Photo, str]]:
    """Decode every photo once and return all that cannot be decoded, in order, each with the reason.

    Args:
        photos: the photos to try.
        size, resize: as for ``decode``.
        workers: threads (Pillow decodes outside the interpreter lock).
        progress: called with (photos done, photos in all).
    """

    def reason(photo: Photo) -> str | None:
        try:
            decode(photo.path.read_bytes(), size, resize)
        except (BadPhoto, OSError) as error:
            return str(error)
        return None

    bad = []
    with ThreadPoolExecutor(workers) as pool:
        for done, (photo, why) in enumerate(
            zip(photos, pool.map(reason, photos), strict=True), start=1
        ):
            if why is not None:
                bad.append((photo, why))
            if progress:
                progress(done, len(photos))
    return bad


def without(dataset: Dataset, bad: list[tuple[Photo, str]]) -> Dataset:
    """The data set as if the bad photos' files were not there; they are named in ``excluded``.

    Raises:
        DataError: a class has too few photos left.
    """
    files = {photo.file for photo, _ in bad}
    splits = ("",) if dataset.hashed else SPLITS
    photos = [photo for photo in dataset.photos if photo.file not in files]
    photos = [replace(photo, split="") for photo in photos] if dataset.hashed else photos
    problems = _too_few(
        photos, dataset.classes, [(split, name) for split in splits for name in dataset.classes]
    )
    if problems:
        left_out = f"without the photos left out ({_listed(sorted(files))})"
        raise DataError(
            f"{dataset.root} cannot be used {left_out}: {'; '.join(problems)}. {_NEEDED}"
        )
    excluded = dataset.excluded + tuple((photo.file, why) for photo, why in bad)
    return replace(dataset, photos=_settled(photos), excluded=excluded)


def leaks(dataset: Dataset) -> list[tuple[Photo, ...]]:
    """Groups of files with identical content that stand in more than one split or under more than one class."""
    groups: dict[str, list[Photo]] = {}
    for photo in dataset.photos:
        groups.setdefault(photo.sha256, []).append(photo)
    return [
        tuple(group)
        for group in groups.values()
        if len({(photo.split, photo.label) for photo in group}) > 1
    ]


class _Walk:
    """One reading of a folder: gathers what is ignored and everything that is wrong, to report it at once."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.ignored: Counter[str] = Counter()
        self.problems: list[str] = []
        self._above = {_inode(folder) for folder in (root.resolve(), *root.resolve().parents)}

    def class_folders(self, only: Collection[str] = ()) -> dict[tuple[str, str], Path]:
        """(split, class name) -> class folder; the split is "" where it is still to be drawn.

        ``only`` these splits are read, if any are named, and then no split needs to have what another one has.
        """
        folders, loose = self._entries(self.root)
        if not folders:
            self.problems.append(f"it holds no class folders (photos directly in it: {len(loose)})")
        splits = (
            [_SPLIT_FOLDERS.get(folder.name.lower()) for folder in folders]
            if _has_splits(folders)
            else []
        )
        self.ignored["outside class folders"] += len(loose) + splits.count(None)
        if not splits:
            return {("", folder.name): folder for folder in folders}
        found: dict[tuple[str, str], Path] = {}
        named = [(split, folder) for split, folder in zip(splits, folders, strict=True) if split]
        chosen = [(split, folder) for split, folder in named if not only or split in only]
        for split, folder in chosen:
            classes, loose = self._entries(folder)
            self.ignored["outside class folders"] += len(loose)
            if not classes:
                self.problems.append(
                    f"{folder.name}/ holds no class folders (photos directly in it: {len(loose)})"
                )
            found |= {(split, path.name): path for path in classes}
        self.problems += _split_problems([split for split, _ in chosen], found, whole=not only)
        return found

    def read(self, folders: Mapping[tuple[str, str], Path], classes: Sequence[str]) -> list[Photo]:
        """Photos of the class folders, in order, each hashed and labelled."""
        label = {name: index for index, name in enumerate(classes)}
        found = [(path, key) for key, folder in folders.items() for path in self.photos(folder)]
        return [
            Photo(path, path.relative_to(self.root).as_posix(), label[class_name], split, sha256)
            for (path, (split, class_name)), sha256 in zip(
                found, self.hashes([path for path, _ in found]), strict=True
            )
        ]

    def photos(self, folder: Path, seen: set[tuple[int, int]] | None = None) -> Iterator[Path]:
        """Photos of a class folder and of the folders in it, each visited once however it is linked."""
        seen = {*self._above, _inode(folder.parent)} if seen is None else seen
        if _inode(folder) in seen:
            self.ignored["link to a folder already visited"] += 1
            return
        seen.add(_inode(folder))
        folders, photos = self._entries(folder)
        yield from photos
        for nested in folders:
            yield from self.photos(nested, seen)

    def hashes(self, paths: list[Path]) -> list[str]:
        """Hex sha256 of each file ("" for one that cannot be read, which is a problem)."""
        with ThreadPoolExecutor(4) as pool:
            results = list(pool.map(_sha256, paths))
        failed = [
            (path, error)
            for path, error in zip(paths, results, strict=True)
            if isinstance(error, OSError)
        ]
        if failed:
            names = _listed(
                [f"{path.relative_to(self.root)} ({error.strerror})" for path, error in failed]
            )
            self.problems.append(f"files that cannot be read: {names}")
        return ["" if isinstance(result, OSError) else result for result in results]

    def _entries(self, folder: Path) -> tuple[list[Path], list[Path]]:
        """Sorted folders and photos of one folder; the rest is counted as ignored."""
        try:
            entries = [(kind(path), path) for path in sorted(folder.iterdir())]
        except OSError as error:
            self.problems.append(f"{folder} cannot be listed ({error.strerror})")
            return [], []
        self.ignored.update(what for what, _ in entries if what not in ("folder", "photo"))
        return [path for what, path in entries if what == "folder"], [
            path for what, path in entries if what == "photo"
        ]


def _has_splits(folders: list[Path]) -> bool:
    """Whether a folder named like a split is one, and no class: nothing else is there, or it holds folders itself."""
    named = [folder for folder in folders if folder.name.lower() in _SPLIT_FOLDERS]
    inside = [
        name
        for folder in named
        for name in next(os.walk(folder), ("", [], []))[1]
        if not name.startswith(".")
    ]
    return bool(named) and (len(named) == len(folders) or bool(inside))


def _split_problems(
    splits: list[str], found: Mapping[tuple[str, str], Path], whole: bool
) -> list[str]:
    """Doubled splits, and what a ``whole`` data set lacks: splits, or classes that the training split has."""
    problems = [
        f"more than one folder stands for {split}/" for split, n in Counter(splits).items() if n > 1
    ]
    if not whole:
        return problems
    if missing := [f"{split}/" for split in SPLITS if split not in splits]:
        problems.append(
            f"{', '.join(f'{split}/' for split in sorted(set(splits)))} without {' and '.join(missing)}"
        )
    known = {name for split, name in found if split == "train"}
    for split in sorted({split for split, _ in found} - {"train"}) if known else []:
        names = {name for other, name in found if other == split}
        lacks = [
            f"{split}/ lacks the class {name!r}{_near(name, names - known)}"
            for name in sorted(known - names)
        ]
        extra = [
            f"{split}/ has a new class {name!r}{_near(name, known)}"
            for name in sorted(names - known)
        ]
        problems += lacks + extra
    return problems


def _too_few(
    photos: Iterable[Photo], classes: Sequence[str], keys: Iterable[tuple[str, str]]
) -> list[str]:
    """Every (split, class name) of ``keys`` with too few photos, and a data set of one class."""
    problems = [f"there is only one class, {classes[0]!r}"] if len(classes) == 1 else []
    # A class that is still to be split needs different contents, for identical copies go to the same split.
    same = {
        (photo.split, classes[photo.label], photo.sha256 if photo.split == "" else photo.file)
        for photo in photos
    }
    counts = Counter((split, name) for split, name, _ in same)
    return problems + [
        f"{Path(split, name)}/ has too few {'' if split else 'different '}photos ({counts[split, name]} of {needed})"
        for split, name in keys
        if counts[split, name] < (needed := _FEWEST[split])
    ]


def _settled(photos: Iterable[Photo]) -> tuple[Photo, ...]:
    """The photos in order, with the splits drawn of those that have none."""
    hashes: dict[int, set[str]] = {}
    for photo in photos:
        hashes.setdefault(photo.label, set()).add(photo.sha256)
    if any(photo.split == "" for photo in photos):
        drawn = {label: split_by_content(contents) for label, contents in hashes.items()}
        photos = [replace(photo, split=drawn[photo.label][photo.sha256]) for photo in photos]
    return tuple(
        sorted(photos, key=lambda photo: (SPLITS.index(photo.split), photo.label, photo.file))
    )


def _sha256(path: Path) -> str | OSError:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        return error


def _inode(folder: Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino


def _near(name: str, names: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, sorted(names), n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""


def _listed(names: Sequence[str], at_most: int = 10) -> str:
    more = f" and {len(names) - at_most} more" if len(names) > at_most else ""
    return ", ".join(names[:at_most]) + more
