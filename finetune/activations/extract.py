"""Photos to stored activations: decode, augment, run the trunk, and commit what is computed."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any, NamedTuple, cast

import numpy as np
from filelock import FileLock, Timeout

from finetune.activations.engine import Engine
from finetune.activations.remote import Remote
from finetune.activations.store import Store, row_name
from finetune.data.photos import Photo, through
from finetune.disk import need_space
from finetune.errors import DataError, IntegrityError
from finetune.files import LOCK, READ_ONLY, make_folder, sweep
from finetune.progress import Reporter, count

_SHARD_BYTES = 64 * 2**20  # memory that waits to be committed
_COMMIT_SECONDS = 20.0  # work that a power cut can undo
_CHUNK = 32  # photos that are decoded into one array
_POLL_SECONDS = 1.0

Bad = list[tuple[Photo, str]]


class Extracted(NamedTuple):
    """How many rows were computed just now, and the photos that have none, with the reason."""

    computed: int
    bad: Bad


# photos -> what the engine takes of each, or why there is nothing
Read = Callable[[Sequence[Photo]], Iterator[tuple[Photo, np.ndarray | str]]]


def extract(
    stores: Sequence[Store],
    photos: Sequence[Photo],
    view: int,
    read: Read,
    open_engine: Callable[[], Engine],
    row_bytes: int,
    label: str,
    reporter: Reporter,
    in_parts: bool = False,
    remote: Remote | None = None,
) -> Extracted:
    """Make sure that every photo that can be decoded has a row of a view in the first store.

    What is computed for it is kept in the other stores, too.

    Photos are not tried beforehand: decoding them twice would cost a fifth of the time that
    DenseNet121 takes. Of processes that want the same rows, one computes and the others wait.

    Args:
        stores: cache entries, one for each output of the engine.
        photos: any number; copies of one content have one row.
        view: number of the view; 0 is the photo itself.
        read: reads photos.
        open_engine: called only if something is missing.
        row_bytes: size of a photo's rows, to ask for space before the work begins.
        label: what progress is reported as.
        reporter: warned of damaged shards, and of each bad photo when it is met.
        in_parts: other processes compute other photos of the same entries meanwhile, so that an
            entry is held for each commit alone.
        remote: has rows that other machines computed, and gets what is computed.

    Raises:
        OverflowError: a value that float16 cannot hold. IntegrityError: the trunk computed NaN.
        BusyError: the disk is full. DataError: the cache cannot be written, or a photo changed.
    """
    store = stores[0]
    by_name = {row_name(photo.sha256, view): photo for photo in photos}
    missing = store.missing(list(by_name))
    _report_damage(store, reporter)
    if not missing:
        return Extracted(0, [])
    turn = _open_to_all if in_parts else _turn
    with turn(stores, list(by_name), reporter) as missing:
        if missing and remote:
            with _held(store) if in_parts else nullcontext():
                remote.pull(store, missing, reporter)
            missing = store.missing(missing)
        if not missing:
            return Extracted(0, [])
        need_space(store.folder, len(missing) * row_bytes)
        wanted = [by_name[name] for name in missing]
        with reporter.stage(label, len(missing)) as advance:
            stream = through(open_engine(), read(wanted), _CHUNK)
            computed, bad = _fill(stores, stream, view, advance, reporter, in_parts, remote)
    reasons = {photo.sha256: reason for photo, reason in bad}
    named = [(photo, reasons[photo.sha256]) for photo in photos if photo.sha256 in reasons]
    return Extracted(computed, named)


def _report_damage(store: Store, reporter: Reporter) -> None:
    for shard in store.damaged:
        reporter.warn(
            f"{shard} fails its checksum; it was set aside and its photos are computed again."
        )
    store.damaged.clear()


@contextmanager
def _turn(stores: Sequence[Store], names: list[str], reporter: Reporter) -> Iterator[list[str]]:
    """Hold the cache entries, and yield what the first still lacks by then; nothing is held for
    nothing.
    """
    store = stores[0]
    with ExitStack() as held:
        with _writable(store, names):
            for each in sorted(stores, key=lambda each: each.folder):  # one order: no deadlock
                make_folder(each.folder)
                lock = FileLock(each.folder / LOCK)
                held.callback(lock.release)
                if not _awaited(lock, store, names, reporter):
                    break
                sweep(each.folder)
        for each in stores:
            each.refresh()
        yield store.missing(names)


@contextmanager
def _open_to_all(
    stores: Sequence[Store], names: list[str], reporter: Reporter
) -> Iterator[list[str]]:
    """Hold nothing yet, and yield what the first entry lacks."""
    with _writable(stores[0], names):
        for each in stores:
            make_folder(each.folder)
    for each in stores:
        each.refresh()
    yield stores[0].missing(names)


@contextmanager
def _writable(store: Store, names: list[str]) -> Iterator[None]:
    """DataError where the cache cannot be written."""
    try:
        yield
    except OSError as error:
        if error.errno not in READ_ONLY:
            raise
        missing = count(len(store.missing(names)), "row")
        raise DataError(
            f"{missing} must be computed and the cache {store.folder.parent} cannot be written "
            f"({error.strerror}). Make it writable, or set FINETUNE_CACHE to another folder."
        ) from error


def _awaited(lock: FileLock, store: Store, names: list[str], reporter: Reporter) -> bool:
    """Wait for a lock while the store lacks rows; whether it is held."""
    is_held = _acquired(lock)
    if not is_held:
        reporter.say("another process computes activations of this kind: waiting for it")
    while not is_held and store.missing(names):
        is_held = _acquired(lock)
        store.refresh()
    return is_held


def _acquired(lock: FileLock) -> bool:
    try:
        lock.acquire(timeout=_POLL_SECONDS)
    except Timeout:
        return False
    return True


def _fill(
    stores: Sequence[Store],
    stream: Iterator[tuple[Photo, Any]],
    view: int,
    advance: Callable[[int], None],
    reporter: Reporter,
    in_parts: bool,
    remote: Remote | None,
) -> Extracted:
    pending = [_Pending(store, is_held=not in_parts) for store in stores]
    bad: Bad = []
    computed = 0
    try:
        for item, found in stream:
            photo = cast(Photo, item)
            advance(1)
            if isinstance(found, str):
                reporter.warn(f"{photo.path} cannot be decoded: {found}")
                bad.append((photo, found))
                continue
            rows = found if isinstance(found, tuple) else (found,)
            name = row_name(photo.sha256, view)
            for each, row in zip(pending, rows, strict=True):
                if each.add(name, row) and remote:
                    remote.push(each.store, [name])
            computed += 1
    finally:  # also when interrupted: what is computed is kept
        for each in pending:
            each.commit()
    return Extracted(computed, bad)


class _Pending:
    """Rows on their way into a shard, committed by size and by time."""

    def __init__(self, store: Store, is_held: bool):
        self.store = store
        self._is_held = is_held
        self._names: list[str] = []
        self._rows: list[np.ndarray] = []
        self._since = time.perf_counter()

    def add(self, name: str, row: np.ndarray) -> bool:
        """Take a row; whether the shard that it completes was committed."""
        if not self.store.missing([name]):
            return False
        row = _narrow(row, self.store.dtype)
        self._names.append(name)
        self._rows.append(row)
        is_large = len(self._rows) * row.nbytes >= _SHARD_BYTES
        is_due = is_large or time.perf_counter() - self._since >= _COMMIT_SECONDS
        if is_due:
            self.commit()
        return is_due

    def commit(self) -> None:
        if self._rows:
            seconds = time.perf_counter() - self._since
            with nullcontext() if self._is_held else _held(self.store):
                self.store.add(self._names, np.stack(self._rows), seconds)
        self._names = []
        self._rows = []
        self._since = time.perf_counter()


@contextmanager
def _held(store: Store) -> Iterator[None]:
    """Hold an entry for a commit; all who write there do, so what is left there may go."""
    with FileLock(store.folder / LOCK):
        sweep(store.folder)
        yield


def _narrow(row: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """A row in the store's dtype.

    Raises:
        OverflowError: float16 cannot hold it; IntegrityError: it is not finite at all.
    """
    largest = np.abs(row).max() if dtype != np.uint8 else 0
    if not np.isfinite(largest):
        raise IntegrityError(
            "The trunk computed NaN or infinity; its weights are broken. Nothing of this was "
            "stored."
        )
    if dtype == np.float16 and largest > np.finfo(np.float16).max:
        raise OverflowError(
            f"an activation of {largest:g} is beyond float16's largest value, 65504"
        )
    if dtype == np.float16 and 0 < largest < np.finfo(np.float16).smallest_normal:
        raise OverflowError(  # as random weights of a deep network leave it
            f"the largest activation of a photo is {largest:g}, and float16 holds nothing below "
            "6.1e-05 exactly"
        )
    return row.astype(dtype)
