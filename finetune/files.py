"""One commit protocol for everything that is written: a file is there whole, or not at all, also after a power cut."""

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import platformdirs
from filelock import FileLock, Timeout

from finetune.errors import BusyError

if TYPE_CHECKING:
    import pandas as pd


def cache_dir() -> Path:
    """``FINETUNE_CACHE``, or the platform's cache folder."""
    cache = os.environ.get("FINETUNE_CACHE")
    return Path(cache).expanduser() if cache else platformdirs.user_cache_path("finetune")


def commit(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Write a file so that a reader sees the old one or the new one, never a part.

    The order is the one that Pillai et al. (OSDI 2014, "All File Systems Are Not Created Equal") found necessary:
    temporary file in the same directory, fsync, rename, fsync of the directory.

    Args:
        path: the file to make or replace; its directory is made if missing.
        write: is called with the open temporary file.

    Raises:
        OSError: the disk is full or the directory cannot be written; the old file is untouched.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_UMASK)  # mkstemp makes files for their owner alone
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
    _sync_directory(path.parent)


def commit_by_name(path: Path, write: Callable[[Path], object]) -> None:
    """Commit a file whose writer wants a name and not an open file, as Keras does; see ``commit``.

    Args:
        path: the file to make or replace.
        write: is called with a path of the same name in a directory of its own beside it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        temporary = Path(folder, path.name)
        write(temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    _sync_directory(path.parent)


def commit_text(path: Path, text: str) -> None:
    """Commit a text file as UTF-8."""
    commit(path, lambda file: file.write(text.encode()))


def commit_json(path: Path, value: Any) -> None:
    """Commit a value as indented JSON; NaN is refused, as JSON has no word for it."""
    commit_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def commit_csv(path: Path, table: "pd.DataFrame") -> None:
    """Commit a table as CSV in which no text, not even a column's name, is a formula."""
    safe = table.rename(columns=as_text).map(
        lambda cell: as_text(cell) if isinstance(cell, str) else cell
    )
    commit(path, lambda file: safe.to_csv(file, index=False))


_FORMULA = tuple("=+-@\t\r\n")  # OWASP, "CSV Injection": spreadsheets compute cells that begin so


def as_text(cell: str) -> str:
    """A cell of a CSV file that no spreadsheet takes for a formula; ``from_text`` undoes it."""
    return f"'{cell}" if cell.startswith((*_FORMULA, "'")) else cell


def from_text(cell: str) -> str:
    """What ``as_text`` was given."""
    return cell.removeprefix("'")


def sha256_of(path: Path) -> str:
    """Hex sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder for this process alone; it is made if missing. Raises BusyError if another process holds it."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / ".lock").acquire(timeout=0):
            yield
    except Timeout as error:
        raise BusyError(
            f"Another process works in {folder}. Wait for it, or choose another --out."
        ) from error


def _sync_directory(folder: Path) -> None:
    if os.name == "nt":  # Windows cannot open directories, and commits renames by itself
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _read_umask() -> int:
    umask = os.umask(0)
    os.umask(umask)
    return umask


_UMASK = _read_umask()
