"""Stored rows in an order of one's own, read from disk as they are asked for."""

import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

import numpy as np

_OPEN_FILES = 64  # shards open at a time, of the 256 to 1,024 files that a process may open


@dataclass(frozen=True)
class Row:
    """Where a row stands: its shard, its place there, and the seconds that computing it took."""

    shard: Path
    index: int
    seconds: float


class Rows:
    """Stored rows in an order of one's own, read from disk as they are asked for.

    Rows are read with plain reads and not through a memory map, whose touched pages would count as
    resident memory. At most 64 files are open at a time in a process.
    """

    def __init__(self, rows: Sequence[Row]):
        self._rows = rows
        first = _header(rows[0].shard) if rows else None
        self.dtype = first.dtype if first else np.dtype(np.uint8)
        self.shape = (len(rows), *(first.shape[1:] if first else ()))
        self.nbytes = int(np.prod(self.shape)) * self.dtype.itemsize
        self.seconds = sum(row.seconds for row in rows)  # to compute them, whenever that was

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """Rows by index, (len(indices), ...)."""
        out = np.empty((len(indices), *self.shape[1:]), self.dtype)
        for target, index in zip(out, indices, strict=True):
            row = self._rows[index]
            _read(row.shard, row.index, target)
        return out

    def batches(self, size: int) -> Iterator[np.ndarray]:
        """All rows in order, ``size`` at a time; the last batch may be smaller."""
        for start in range(0, len(self), size):
            yield self[range(start, min(start + size, len(self)))]


@dataclass(frozen=True)
class _Open:
    file: FileIO
    offset: int
    shape: tuple[int, ...]
    dtype: np.dtype


_open: OrderedDict[Path, _Open] = OrderedDict()  # least recently used first
_open_lock = threading.Lock()  # training reads ahead in a thread


def _read(shard: Path, index: int, target: np.ndarray) -> None:
    with _open_lock:
        opened = _opened(shard)
        opened.file.seek(opened.offset + index * target.nbytes)
        if opened.file.readinto(target.data.cast("B")) != target.nbytes:
            raise OSError(f"{shard} is shorter than when it was checked")


@contextmanager
def closing_shards() -> Iterator[None]:
    """Around what reads rows: no shard stays open."""
    try:
        yield
    finally:
        close_shards()


def close_shards() -> None:
    """Close the shards that are open; whoever reads on opens them anew."""
    with _open_lock:
        while _open:
            _open.popitem()[1].file.close()


def _header(shard: Path) -> _Open:
    with _open_lock:
        return _opened(shard)


def _opened(shard: Path) -> _Open:
    if shard in _open:
        _open.move_to_end(shard)
        return _open[shard]
    file = FileIO(shard)
    np.lib.format.read_magic(file)  # type: ignore[arg-type]
    shape, _, dtype = np.lib.format.read_array_header_1_0(file)  # type: ignore[arg-type]
    while len(_open) >= _OPEN_FILES:
        _open.popitem(last=False)[1].file.close()
    _open[shard] = _Open(file, file.tell(), shape, dtype)  # type: ignore[arg-type]
    return _open[shard]
