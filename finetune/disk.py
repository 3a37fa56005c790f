"""Whether there is room for what is to be written, and how its lack is said."""

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from finetune.errors import BusyError

FULL = (errno.ENOSPC, errno.EDQUOT)
_TRIAL = 1 << 20  # bytes


def need_space(path: Path, size: int) -> None:
    """Refuse to begin what cannot be finished.

    Args:
        path: the file or folder that will be written; it need not exist.
        size: bytes that it will take.

    Raises:
        BusyError: the disk has less.
    """
    folder = next(place for place in (path, *path.absolute().parents) if place.is_dir())
    free = shutil.disk_usage(folder).free
    if size > free:
        raise BusyError(
            f"The disk of {path} is too full: {size:,} bytes are needed there and {free:,} are "
            "free. Free some space and run again; nothing finished is lost."
        )


@contextmanager
def space_reported(path: Path, size: int) -> Iterator[None]:
    """Around what writes: a full disk is a ``BusyError`` that names the place.

    Args:
        path: what is written.
        size: bytes that it takes, 0 where they are not known.

    Raises:
        BusyError: the disk or the user's share of it is full.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        needed = f" ({size:,} bytes)" if size else ""
        raise BusyError(
            f"The disk is full: {path}{needed} was not written. Free some space and run again; "
            "nothing finished is lost."
        ) from error


@contextmanager
def library_writes(folder: Path) -> Iterator[None]:
    """Around a library that writes by itself and says of a full disk only that something failed, as
    OpenVINO does with a RuntimeError: a file of our own beside its own finds out.

    Raises:
        BusyError: the disk takes no more.
    """
    try:
        yield
    except RuntimeError:
        with suppress(OSError), space_reported(folder, 0):  # another fault than a full disk
            _try_to_write(folder)
        raise


def _try_to_write(folder: Path) -> None:
    with tempfile.TemporaryFile(dir=folder) as trial:
        trial.write(bytes(_TRIAL))
        trial.flush()
        os.fsync(trial.fileno())
