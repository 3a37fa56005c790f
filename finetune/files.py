"""One commit protocol for everything that is written, locks, digests, and where the cache is.

A committed file is there whole or not at all, also after a power cut.
"""

import errno
import hashlib
import json
import os
import re
import shutil
import tempfile
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import platformdirs
from filelock import FileLock, Timeout

from finetune.disk import space_reported
from finetune.errors import BusyError, UsageError

if TYPE_CHECKING:
    import pandas as pd

READ_ONLY = (errno.EACCES, errno.EPERM, errno.EROFS)
# What reading a damaged .npz raises: numpy parses a header before zipfile has checked its sum.
NPZ_DAMAGE = (
    *(ValueError, KeyError, TypeError, EOFError, RuntimeError, SyntaxError),
    *(tokenize.TokenError, zipfile.BadZipFile, zlib.error),
)
LOCK = ".lock"  # of a folder
_PATIENCE = 60  # seconds: what is written there takes less than one
_TEMPORARY = ".*.tmp"  # files and folders of a commit that is under way, or was killed


def cache_dir() -> Path:
    """``FINETUNE_CACHE``, or the platform's cache folder; of a cache at a URL the copy on disk,
    ``FINETUNE_CACHE_LOCAL`` or the platform's cache folder.
    """
    variable = "FINETUNE_CACHE_LOCAL" if cache_url() else "FINETUNE_CACHE"
    cache = os.environ.get(variable)
    return expanded(cache) if cache else platformdirs.user_cache_path("finetune")


def expanded(path: str | Path) -> Path:
    """The path with its ``~`` written out, or as it is: where no such user is, no file is."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def cache_url() -> str:
    """``FINETUNE_CACHE`` where it is a URL (``s3://bucket/prefix``), else empty."""
    cache = os.environ.get("FINETUNE_CACHE", "")
    return cache if "://" in cache else ""


def shown_url(url: str) -> str:
    """A URL without the name and password that it may hold."""
    return re.sub("//[^/@]*@", "//", url)


def commit(path: Path, write: Callable[[BinaryIO], object], size: int = 0) -> None:
    """Write a file so that a reader sees the old one or the new one, never a part.

    The order is the one that Pillai et al. (OSDI 2014, "All File Systems Are Not Created Equal")
    found necessary: temporary file in the same directory, fsync, rename, fsync of the directory.

    Args:
        path: the file to make or replace; its directory is made if missing.
        write: is called with the open temporary file.
        size: bytes that it will write, where they are known; named if the disk is full.

    Raises:
        BusyError: the disk is full. OSError: the directory cannot be written.
        In both cases the old file is untouched.
    """
    with space_reported(path, size):
        make_folder(path.parent)
        handle, temporary = tempfile.mkstemp(
            dir=path.parent, prefix=f".{path.name}.", suffix=".tmp"
        )
        try:
            with os.fdopen(handle, "wb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(temporary, 0o666 & ~_UMASK)  # mkstemp makes files for their owner alone
            os.replace(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
        sync_folder(path.parent)


def commit_by_name(path: Path, write: Callable[[Path], object], size: int = 0) -> None:
    """Commit a file whose writer wants a name and not an open file, as Keras does; see ``commit``.

    Args:
        path: the file to make or replace.
        write: is called with a path of the same name in a directory of its own beside it.
        size: as for ``commit``.
    """
    with space_reported(path, size):
        make_folder(path.parent)
        with tempfile.TemporaryDirectory(
            dir=path.parent, prefix=f".{path.name}.", suffix=".tmp"
        ) as folder:
            temporary = Path(folder, path.name)
            write(temporary)
            with temporary.open("rb+") as file:  # Windows syncs only what may be written
                os.fsync(file.fileno())
            os.replace(temporary, path)
        sync_folder(path.parent)


def commit_folder(folder: Path, write: Callable[[Path], object]) -> None:
    """Commit a folder: it is built under a hidden name beside its place and then renamed.

    Args:
        folder: the folder to make or replace; the caller holds a lock on it, so that what is left
            of a killed commit may go.
        write: is called with the empty folder to fill.
    """
    make_folder(folder.parent)
    new = folder.with_name(f".{folder.name}.new.tmp")
    old = folder.with_name(f".{folder.name}.old.tmp")
    for left in (new, old):
        shutil.rmtree(left, ignore_errors=True)
    try:
        new.mkdir()
        write(new)
        _sync_below(new)
        if folder.exists():
            os.replace(folder, old)
        os.replace(new, folder)
        sync_folder(folder.parent)
    finally:
        for left in (new, old):
            shutil.rmtree(left, ignore_errors=True)


def commit_text(path: Path, text: str) -> None:
    """Commit a text file as UTF-8."""
    data = text.encode()
    commit(path, lambda file: file.write(data), len(data))


def commit_json(path: Path, value: Any) -> None:
    """Commit a value as indented JSON; NaN is refused, as JSON has no word for it."""
    commit_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def commit_csv(path: Path, table: "pd.DataFrame") -> None:
    """Commit a table as CSV in which no text, not even a column's name, is a formula."""
    safe = table.rename(columns=as_text).apply(_as_texts)
    commit(path, lambda file: safe.to_csv(file, index=False))


def _as_texts(column: "pd.Series") -> "pd.Series":
    if column.dtype.kind in "biuf":  # numbers keep their type, and so their digits
        return column
    return column.map(lambda cell: as_text(cell) if isinstance(cell, str) else cell)


_FORMULA = tuple("=+-@\t\r\n")  # OWASP, "CSV Injection": spreadsheets compute cells that begin so


def as_text(cell: str) -> str:
    """A cell of a CSV file that no spreadsheet takes for a formula; ``from_text`` undoes it."""
    return f"'{cell}" if cell.startswith((*_FORMULA, "'")) else cell


def from_text(cell: str) -> str:
    """What ``as_text`` was given."""
    return cell.removeprefix("'")


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder for this process alone and sweep what killed writers left in it.

    The folder is made if missing, and removed again if an error leaves nothing in it.

    Raises:
        BusyError: another process holds it.
        UsageError: it is a file, or may not be written.
    """
    is_new = not folder.exists()
    try:
        make_folder(folder)
    except (FileExistsError, NotADirectoryError, PermissionError) as error:
        raise UsageError(
            f"{folder} cannot be used as a folder ({error.strerror}). Choose another --out."
        ) from error
    lock = folder / LOCK
    try:
        with space_reported(lock, 0):
            held = FileLock(lock).acquire(timeout=0)
        with held:
            sweep(folder)
            yield
    except Timeout as error:
        raise BusyError(
            f"Another process works in {folder}. Wait for it, or choose another --out."
        ) from error
    except BaseException:
        if is_new and {path.name for path in folder.iterdir()} <= {LOCK}:
            shutil.rmtree(folder, ignore_errors=True)
        raise


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Hold a folder of the cache for a short write, after whoever holds it, and sweep what killed
    writers left in it; the folder is made if missing.

    Raises:
        BusyError: another process holds it for a minute, or the disk is full.
    """
    make_folder(folder)
    lock = folder / LOCK
    try:
        with space_reported(lock, 0):
            held = FileLock(lock).acquire(timeout=_PATIENCE)
    except Timeout as error:
        raise BusyError(
            f"Another process has been writing in {folder} for {_PATIENCE} s. Is it stopped? Let "
            "it go on, or end it, and run again; nothing finished is lost."
        ) from error
    with held:
        sweep(folder)
        yield


def sweep(folder: Path) -> None:
    """Remove the temporary files of killed writers; for a process that holds the folder's lock."""
    for path in folder.glob(_TEMPORARY):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def sha256_of(path: Path) -> str:
    """Hex sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_of(value: Any) -> str:
    """Hex sha256 of a JSON value in its canonical form: sorted keys, no spaces."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def make_folder(folder: Path) -> None:
    """Make a folder and its parents, durably: each new entry is synced in the folder above it."""
    with space_reported(folder, 0):
        missing = [place for place in (folder, *folder.parents) if not place.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        for made in reversed(missing):
            sync_folder(made.parent)


def sync_folder(folder: Path) -> None:
    """Make durable which names a folder holds."""
    if os.name == "nt":  # Windows cannot open directories, and commits renames by itself
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _sync_below(folder: Path) -> None:
    for path in [*folder.rglob("*"), folder]:
        if path.is_dir():
            sync_folder(path)
        else:
            with path.open("rb+") as file:  # Windows syncs only what may be written
                os.fsync(file.fileno())


def _read_umask() -> int:
    umask = os.umask(0)
    os.umask(umask)
    return umask


_UMASK = _read_umask()
