"""Photos to activations: decode, augment, run the trunk, and store what is not stored yet."""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from finetune.activations.engine import Engine
from finetune.activations.store import Store, row_name
from finetune.data.photos import BadPhoto, Photo, Pixels, chunks, map_ahead
from finetune.errors import IntegrityError
from finetune.files import commit_text

_SHARD_BYTES = (
    64 * 2**20
)  # memory that waits to be committed, and the work that a power cut can undo
_CHUNK = 32


def stream(
    pixels: Pixels,
    photos: Iterable[Photo],
    keys: Iterable[str | None],
    engine: Engine,
    size: int = _CHUNK,
) -> Iterator[np.ndarray]:
    """Activations of photos in order, decoded in threads while the trunk runs.

    Args:
        pixels: how to load them.
        photos: n photos.
        keys: n keys of views; None is the photo itself.
        engine: see ``compile_trunk``.
        size: rows of each array that is yielded; the last may have fewer.
    """
    loaded = map_ahead(lambda item: pixels.load(*item), zip(photos, keys, strict=True))
    yield from engine(np.stack(chunk) for chunk in chunks(loaded, size))


def open_store(cache: Path, fields: dict[str, Any], dtype: str, pixels: Pixels) -> Store:
    """The store of these activations; float32 instead of float16 where float16 is known not to hold them."""
    store = Store(cache, {**fields, "pixels": pixels.fields()}, dtype)
    return (
        Store(cache, {**fields, "pixels": pixels.fields()}, "float32")
        if _overflowed(store).exists()
        else store
    )


def _overflowed(store: Store) -> Path:
    return store.folder / "overflow.txt"


class Extracted(NamedTuple):
    """A store that holds a row of every item but the bad ones, and how many rows were computed just now."""

    store: Store
    computed: int
    bad: list[tuple[Photo, str]]


def extract(
    cache: Path,
    fields: dict[str, Any],
    dtype: str,
    pixels: Pixels,
    items: Sequence[tuple[Photo, int]],
    open_engine: Callable[[], Engine],
    advance: Callable[[int], None] = lambda rows: None,
    warn: Callable[[str], None] = lambda text: None,
) -> Extracted:
    """Make sure that every (photo, view) that can be decoded has a stored row.

    Photos are not tried beforehand: decoding them twice would cost a fifth of the time that DenseNet121 takes.

    Args:
        cache: the cache directory.
        fields: what lies below the cut: backbone, preprocessing, weights, cut.
        dtype: of the rows; values that float16 cannot hold turn the store to float32.
        pixels: how to load photos.
        items: (photo, view number); view 0 is the photo itself.
        open_engine: called only if something is missing.
        advance: is told of the rows that were computed.
        warn: is told once if the store turns to float32, of damaged shards, and of each bad photo when it is met.
    """
    store = open_store(cache, fields, dtype, pixels)
    try:
        return Extracted(store, *_fill(store, pixels, items, open_engine, advance, warn))
    except OverflowError as error:
        commit_text(_overflowed(store), f"{error}\n")
        warn(f"{error}: these activations are stored as float32.")
        return extract(cache, fields, dtype, pixels, items, open_engine, advance, warn)


def _fill(
    store: Store,
    pixels: Pixels,
    items: Sequence[tuple[Photo, int]],
    open_engine: Callable[[], Engine],
    advance: Callable[[int], None],
    warn: Callable[[str], None],
) -> tuple[int, list[tuple[Photo, str]]]:
    by_name = {row_name(photo.sha256, view): (photo, view) for photo, view in items}
    missing = store.missing(list(by_name))
    for shard in store.damaged:
        warn(f"{shard} fails its checksum; it was set aside and its photos are computed again.")
    if not missing:
        return 0, []
    good, bad = deque[str](), list[tuple[Photo, str]]()
    loaded = map_ahead(lambda name: _load(pixels, *by_name[name]), missing)
    decodable = _without_bad(missing, by_name, loaded, good, bad, warn)
    computed, waiting, clock = 0, list[np.ndarray](), time.perf_counter()
    try:
        for batch in open_engine()(np.stack(chunk) for chunk in chunks(decodable, _CHUNK)):
            waiting.append(_narrow(batch, store.dtype))
            computed += len(batch)
            advance(len(batch))
            if sum(rows.nbytes for rows in waiting) >= _SHARD_BYTES:
                _commit(store, good, waiting, time.perf_counter() - clock)
                clock = time.perf_counter()
    finally:  # also when interrupted: what is computed is kept
        _commit(store, good, waiting, time.perf_counter() - clock)
    return computed, bad


def _load(pixels: Pixels, photo: Photo, view: int) -> np.ndarray | BadPhoto:
    try:
        return pixels.load(photo, f"stored/{photo.sha256}/{view}" if view else None)
    except BadPhoto as error:
        return error


def _without_bad(
    names: Iterable[str],
    by_name: Mapping[str, tuple[Photo, int]],
    loaded: Iterable[np.ndarray | BadPhoto],
    good: deque[str],
    bad: list[tuple[Photo, str]],
    warn: Callable[[str], None],
) -> Iterator[np.ndarray]:
    """What could be decoded; notes the names of the good and the reasons of the bad."""
    for name, pixels in zip(names, loaded, strict=True):
        if isinstance(pixels, BadPhoto):
            photo, _ = by_name[name]
            warn(f"{photo.path} cannot be decoded: {pixels}")
            bad.append((photo, str(pixels)))
        else:
            good.append(name)
            yield pixels


def _commit(store: Store, names: deque[str], waiting: list[np.ndarray], seconds: float) -> None:
    if waiting:
        rows = np.concatenate(waiting)
        store.add([names.popleft() for _ in rows], rows, seconds)
        waiting.clear()


def _narrow(rows: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Rows in the store's dtype.

    Raises:
        OverflowError: float16 cannot hold them; IntegrityError: they are not finite at all.
    """
    if dtype == np.float16 and np.abs(rows).max() > np.finfo(np.float16).max:
        raise OverflowError(
            f"an activation of {np.abs(rows).max():g} is beyond float16's largest value, 65504"
        )
    if not np.isfinite(rows).all():
        raise IntegrityError(
            "The trunk computed NaN or infinity; its weights are broken. Nothing of this was stored."
        )
    return rows.astype(dtype, copy=False)
