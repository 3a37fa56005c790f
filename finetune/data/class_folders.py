"""One reading of a folder of class folders: what is in it, what is ignored, what is wrong."""

import difflib
import hashlib
import os
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

from finetune.data.photos import MAX_BYTES, Photo, kind, map_ahead, printable, walk
from finetune.data.splits import SPLITS
from finetune.errors import DataError

_SPLIT_FOLDERS = {split: split for split in SPLITS} | {"val": "validation", "valid": "validation"}


class ClassFolders:
    """Gathers in ``ignored`` what is no photo, and in ``problems`` all that is wrong, at once."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.ignored: Counter[str] = Counter()
        self.problems: list[str] = []
        self._above = {root.resolve(), *root.resolve().parents}

    def class_folders(self, only: Collection[str] = ()) -> dict[tuple[str, str], Path]:
        """(split, class name) -> class folder; the split is "" where it is still to be drawn.

        ``only`` these splits are read, if any are named, and then none of the others is needed.
        """
        folders = self._folders(self.root, "it")
        if not _has_splits(folders):
            return {("", _class_name(folder)): folder for folder in folders}
        named = [(_SPLIT_FOLDERS.get(folder.name.lower(), ""), folder) for folder in folders]
        self.ignored["outside class folders"] += sum(not split for split, _ in named)
        chosen = [(split, folder) for split, folder in named if split in (only or SPLITS)]
        found: dict[tuple[str, str], Path] = {}
        for split, folder in chosen:
            inside = self._folders(folder, f"{folder.name}/")
            found |= {(split, _class_name(path)): path for path in inside}
        splits = Counter(split for split, _ in chosen)
        self.problems += [
            f"more than one folder stands for {split}/" for split, n in splits.items() if n > 1
        ]
        missing = [f"{split}/" for split in SPLITS if split not in splits]
        if missing and not only:
            there = ", ".join(f"{split}/" for split in sorted(splits))
            self.problems.append(f"{there} without {' and '.join(missing)}")
        return found

    def read(self, folders: Mapping[tuple[str, str], Path], classes: Sequence[str]) -> list[Photo]:
        """Photos of the class folders, in order, each hashed and labelled."""
        found = [(path, key) for key, folder in folders.items() for path in self._walk(folder)]
        label = {name: index for index, name in enumerate(classes)}
        photos = []
        unreadable = []
        digests = hash_files([path for path, _ in found])
        for (path, (split, name)), digest in zip(found, digests, strict=True):
            file = printable(path.relative_to(self.root))
            if isinstance(digest, OSError):
                unreadable.append(f"{file} ({digest.strerror})")
                digest = ""
            photos.append(Photo(path, file, label[name], split, digest))
        if unreadable:
            self.problems.append(f"files that cannot be read: {listed(unreadable)}")
        return sorted(photos, key=lambda photo: (("", *SPLITS).index(photo.split), photo.label))

    def _folders(self, folder: Path, called: str) -> list[Path]:
        """Sorted folders in a folder that is to hold class folders; the rest is counted."""
        try:
            entries = [(kind(path), path) for path in sorted(folder.iterdir())]
        except OSError as error:
            self.problems.append(f"{folder} cannot be listed ({error.strerror})")
            return []
        kinds = Counter(what for what, _ in entries)
        loose = kinds.pop("photo", 0)
        if not kinds.pop("folder", 0):
            self.problems.append(
                f"{called} holds no class folders (photos directly in it: {loose})"
            )
        self.ignored.update(kinds)
        self.ignored["outside class folders"] += loose
        return [path for what, path in entries if what == "folder"]

    def _walk(self, folder: Path) -> Iterable[Path]:
        """Photos of a class folder, in the order of their paths."""
        seen = self._above | {folder.parent.resolve()}
        try:
            return sorted(walk(folder, seen, self.ignored))
        except OSError as error:
            self.problems.append(f"{error.filename} cannot be listed ({error.strerror})")
            return []


def open_folder(root: Path, needed: str) -> ClassFolders:
    """A reading of a folder; DataError, ended by ``needed``, if it is none."""
    if not root.is_dir():
        what = "is a file, not a folder" if root.exists() else "does not exist"
        raise DataError(f"{root} {what}. {needed}")
    return ClassFolders(root)


def class_problems(keys: Iterable[tuple[str, str]]) -> list[str]:
    """Of (split, class name): classes that the training split has and another lacks, or reverse."""
    names: dict[str, set[str]] = {}
    for split, name in keys:
        names.setdefault(split, set()).add(name)
    known = names.pop("train", set())
    problems = []
    for split in sorted(names) if known else ():
        lacks = known - names[split]
        extra = names[split] - known
        problems += [
            f"{split}/ lacks the class {name!r}{near(name, extra)}" for name in sorted(lacks)
        ]
        problems += [
            f"{split}/ has a new class {name!r}{near(name, known)}" for name in sorted(extra)
        ]
    return problems


def hash_files(paths: Iterable[Path]) -> list[str | OSError]:
    """Hex sha256 of each file, or why it cannot be read; of a giant, that of its beginning."""
    return list(map_ahead(_sha256, paths))


def near(name: str, names: Iterable[str]) -> str:
    """A hint at the most similar of the names, in parentheses; "" if none is similar."""
    close = difflib.get_close_matches(name, sorted(names), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def listed(names: Sequence[str], at_most: int = 10) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - at_most:,} more" if len(names) > at_most else ""
    return ", ".join(names[:at_most]) + more


def _class_name(folder: Path) -> str:
    """What a class folder is called, as text that a model and its files can hold."""
    return printable(Path(folder.name))


def _has_splits(folders: list[Path]) -> bool:
    """Whether a folder named like a split is one, and no class.

    It is if nothing else is there, or if it holds folders itself.
    """
    named = [folder for folder in folders if folder.name.lower() in _SPLIT_FOLDERS]
    inside = [name for folder in named for name in next(os.walk(folder), ("", [], []))[1]]
    nested = any(not name.startswith(".") for name in inside)
    return bool(named) and (len(named) == len(folders) or nested)


def _sha256(path: Path) -> str | OSError:
    """Hex sha256 of a file, or of the beginning of one that is too large to be a photo."""
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size <= MAX_BYTES:
                return hashlib.file_digest(file, "sha256").hexdigest()
            return hashlib.sha256(file.read(2**20)).hexdigest()
    except OSError as error:
        return error
