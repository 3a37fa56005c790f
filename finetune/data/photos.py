"""Photo files: found in folders, read as one stream, and decoded to upright uint8 RGB squares."""

import hashlib
import io
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import repeat
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from finetune.data.augment import AUGMENT_VERSION, augment
from finetune.errors import DataError

T = TypeVar("T")
R = TypeVar("R")

# Part of every store key: raise it when any pixel that this module returns changes.
DECODE_VERSION = 1

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff"})

# Antialiased: Pillow widens the bilinear kernel when it shrinks a picture.
_RESIZE: dict[str, Callable[[Image.Image, tuple[int, int]], Image.Image]] = {
    "squash": lambda photo, size: photo.resize(size, Image.Resampling.BILINEAR),
    "crop": lambda photo, size: ImageOps.fit(photo, size, Image.Resampling.BILINEAR),
    "pad": lambda photo, size: ImageOps.pad(photo, size, Image.Resampling.BILINEAR),
}
RESIZE_MODES = tuple(_RESIZE)


_AHEAD = 64  # photos that are decoded before the consumer asks for them


class BadPhoto(ValueError):
    """The bytes are no picture that can be decoded; the message is the reason."""


@dataclass(frozen=True)
class Photo:
    """One photo file of a data set.

    ``file`` is its posix path relative to the data set's root, ``label`` the index of its class,
    ``split`` its split and ``sha256`` the hex digest of the file's bytes.
    """

    path: Path
    file: str
    label: int
    split: str
    sha256: str


@dataclass(frozen=True)
class Pixels:
    """How a photo becomes an array: side in pixels, resize mode and, for views, the augmentation."""

    size: int
    resize: str = "squash"
    augment: Mapping[str, float | bool] | None = None

    def load(self, photo: Path | Photo, key: str | None = None) -> np.ndarray:
        """Read and decode a photo and, given a key, draw one view of it.

        Returns:
            uint8 (size, size, 3), RGB.

        Raises:
            BadPhoto: it cannot be read or decoded.
            DataError: the file of a ``Photo`` has changed since it was listed.
        """
        path = photo.path if isinstance(photo, Photo) else photo
        try:
            data = path.read_bytes()
        except OSError as error:
            raise BadPhoto(f"it cannot be read: {error.strerror or error}") from error
        if isinstance(photo, Photo) and hashlib.sha256(data).hexdigest() != photo.sha256:
            raise DataError(
                f"{path} has changed since it was listed. Run again when the folder is at rest."
            )
        pixels = decode(data, self.size, self.resize)
        return pixels if key is None or self.augment is None else augment(pixels, self.augment, key)

    def fields(self) -> dict[str, Any]:
        """What of this belongs into the key of a cache entry."""
        augmented = {"augment_version": AUGMENT_VERSION} if self.augment else {}
        return {"decode_version": DECODE_VERSION, **augmented, **asdict(self)}


def read_photos(
    pixels: Pixels, photos: Iterable[Path | Photo], keys: Iterable[str | None] = repeat(None)
) -> Iterator[tuple[Path | Photo, np.ndarray | str]]:
    """The stream of photos that every command reads, decoded in threads ahead of the consumer.

    Args:
        pixels: how to load them.
        photos: files, or photos of a data set, whose bytes must still be those that were listed.
        keys: of each photo the view to draw; None is the photo itself.

    Yields:
        (photo, uint8 (size, size, 3)), or (photo, reason) of a bad one, in order.

    Raises:
        DataError: the file of a ``Photo`` has changed since it was listed.
    """

    def load(item: tuple[Path | Photo, str | None]) -> tuple[Path | Photo, np.ndarray | str]:
        try:
            return item[0], pixels.load(*item)
        except BadPhoto as error:
            return item[0], str(error)

    return map_ahead(load, zip(photos, keys, strict=False))


def through(
    engine: Callable[[Iterable[np.ndarray]], Iterable[np.ndarray]],
    stream: Iterable[tuple[Path | Photo, np.ndarray | str]],
    batch: int,
) -> Iterator[tuple[Path | Photo, np.ndarray | str]]:
    """Run a stream of photos through an engine; bad photos keep their places.

    Args:
        engine: from batches (n, size, size, 3) to batches of n rows each, in order.
        stream: from ``read_photos``.
        batch: photos of each batch; the last may have fewer.

    Yields:
        (photo, its row), or (photo, reason) of a bad one, in order.
    """
    bad = deque[tuple[int, Path | Photo, str]]()  # with the number of good photos before each
    good = deque[Path | Photo]()
    count = 0

    def decoded() -> Iterator[np.ndarray]:
        nonlocal count
        for photo, found in stream:
            if isinstance(found, str):
                bad.append((count, photo, found))
            else:
                count += 1
                good.append(photo)
                yield found

    done = 0
    for rows in engine(np.stack(chunk) for chunk in chunks(decoded(), batch)):
        for row in rows:
            while bad and bad[0][0] == done:
                yield bad.popleft()[1:]
            yield good.popleft(), row
            done += 1
    yield from (entry[1:] for entry in bad)


def map_ahead(function: Callable[[T], R], items: Iterable[T], ahead: int = _AHEAD) -> Iterator[R]:
    """``map`` in threads, in order, with at most ``ahead`` results waiting.

    ``Executor.map`` would queue all items at once.
    """
    # Pillow releases the interpreter lock while it decodes.
    pool = ThreadPoolExecutor(os.cpu_count() or 2)
    waiting: deque = deque()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) >= ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def chunks(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Lists of ``size`` items; the last may be shorter (itertools.batched needs Python 3.12)."""
    chunk: list[T] = []
    for item in items:
        chunk.append(item)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def decode(data: bytes, size: int, resize: str = "squash") -> np.ndarray:
    """Decode one photo file and resize it to a square.

    Args:
        data: the file's bytes (JPEG, PNG, BMP, GIF, WebP or TIFF; of an animation, the first frame).
        size: side of the square in pixels.
        resize: ``squash`` (both sides to ``size``), ``crop`` (the central square) or ``pad`` (black bars).

    Returns:
        uint8 array of shape (size, size, 3), RGB, 0-255, turned upright by its EXIF orientation.

    Raises:
        BadPhoto: the bytes cannot be decoded.
    """
    try:
        with Image.open(io.BytesIO(data)) as photo:
            # libjpeg scales by 1/2, 1/4 or 1/8 while it decodes; twice the target leaves the antialiased resize its say.
            photo.draft(None, (2 * size, 2 * size))
            upright = ImageOps.exif_transpose(photo)
            return np.asarray(_RESIZE[resize](_to_rgb(upright), (size, size)))
    except UnidentifiedImageError as error:  # whose own text names a buffer in memory
        raise BadPhoto("UnidentifiedImageError: no picture in a known format") from error
    except Exception as error:  # Pillow's plugins raise OSError, SyntaxError, struct.error, DecompressionBombError, ...
        raise BadPhoto(
            f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        ) from error


def _to_rgb(photo: Image.Image) -> Image.Image:
    """Any Pillow mode to 8-bit RGB; transparent pixels show white paper."""
    if photo.mode.startswith("I") or photo.mode == "F":
        photo = Image.fromarray(_eight_bits(np.asarray(photo)))
    if photo.has_transparency_data:
        photo = photo.convert("RGBA")
        paper = Image.new("RGBA", photo.size, "white")
        photo = Image.alpha_composite(paper, photo)
    return photo.convert("RGB")


def _eight_bits(grey: np.ndarray) -> np.ndarray:
    """16-bit grey (or floats in 0-1) to uint8; Pillow's own conversion would clip everything above 255."""
    if grey.dtype.kind == "f":
        if grey.min() < 0 or grey.max() > 1:
            raise ValueError(
                f"floating-point pixels from {grey.min():g} to {grey.max():g}; allowed: 0 to 1"
            )
        return np.round(grey * 255).astype(np.uint8)
    return (np.clip(grey, 0, 65535) // 257).astype(np.uint8)


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
        raise DataError(
            f"No such file or folder: {', '.join(missing)}. Nothing was computed; correct the paths."
        )
    return (photo for path in paths for photo in (_walk(path) if path.is_dir() else [path]))


def _walk(folder: Path, seen: set[Path] | None = None) -> Iterator[Path]:
    resolved = folder.resolve()
    seen = (
        set(resolved.parents) if seen is None else seen
    )  # a link upwards would lead out of the folder that was given
    if resolved in seen:
        return
    seen.add(resolved)
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        raise DataError(
            f"{folder} cannot be listed ({error.strerror}). Make it readable, or leave it out."
        ) from error
    for path in (folder / name for name in names):
        match kind(path):
            case "photo":
                yield path
            case "folder":
                yield from _walk(path, seen)
