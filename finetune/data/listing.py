"""Photos in files and folders, found one by one: of a folder with any number of photos only the names are held."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from finetune.data.decode import SUFFIXES
from finetune.errors import DataError

_SYSTEM_NAMES = frozenset({"thumbs.db", "desktop.ini", "__macosx"})


def kind(path: Path) -> str:
    """``folder``, ``photo``, or why an entry of a folder is ignored."""
    if path.name.startswith("."):
        return "hidden"
    if path.name.lower() in _SYSTEM_NAMES:
        return "system file"
    if os.path.isdir(path):
        return "folder"
    if path.suffix.lower() not in SUFFIXES:
        return "other suffix"
    return "photo" if os.path.isfile(path) else "broken link or special file"


def list_photos(paths: Sequence[Path]) -> Iterator[Path]:
    """Find photos lazily.

    Args:
        paths: files, which are taken whatever their names are, and folders, of which every photo at any depth is taken.

    Returns:
        The photos path by path; those of a folder sorted by name, each folder in it visited once however it is linked.

    Raises:
        DataError: a path does not exist (at once, with all that do not); a folder cannot be listed (when it is its turn).
    """
    if missing := [str(path) for path in paths if not (path.is_file() or path.is_dir())]:
        raise DataError(f"No such file or folder: {', '.join(missing)}. Nothing was computed; correct the paths.")
    return (photo for path in paths for photo in (_walk(path) if path.is_dir() else [path]))


def _walk(folder: Path, seen: set[Path] | None = None) -> Iterator[Path]:
    resolved = folder.resolve()
    seen = set(resolved.parents) if seen is None else seen  # a link upwards would lead out of the folder that was given
    if resolved in seen:
        return
    seen.add(resolved)
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        raise DataError(f"{folder} cannot be listed ({error.strerror}). Make it readable, or leave it out.") from error
    for path in (folder / name for name in names):
        match kind(path):
            case "photo":
                yield path
            case "folder":
                yield from _walk(path, seen)
