"""Photo files: found in folders, read as one stream, and decoded to upright uint8 RGB squares."""

import hashlib
import os
import re
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import repeat
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from finetune.data.augment import AUGMENT_VERSION, augment
from finetune.data.decode import DECODE_VERSION as DECODE_VERSION
from finetune.data.decode import MAX_BYTES
from finetune.data.decode import RESIZE_MODES as RESIZE_MODES
from finetune.data.decode import SUFFIXES as SUFFIXES
from finetune.data.decode import BadPhoto as BadPhoto
from finetune.data.decode import decode as decode
from finetune.errors import DataError

T = TypeVar("T")
R = TypeVar("R")

# One kind through a whole stream: files, or photos of a data set.
Item = TypeVar("Item", bound="Path | Photo")

MIRRORED = -1  # the view of a photo that is its mirror image; views from 1 are random
_AHEAD = 64  # photos that are decoded before the consumer asks for them


@dataclass(frozen=True)
class Photo:
    """One photo file of a data set.

    ``file`` is its posix path relative to the data set's root, as ``printable`` writes it,
    ``label`` the index of its class, ``split`` its split and ``sha256`` the hex digest of the
    file's bytes (of a file above ``MAX_BYTES``, of its beginning); photos of one ``group`` are not
    independent of each other ("" is none). ``weight`` is its part in the loss.
    """

    path: Path
    file: str
    label: int
    split: str
    sha256: str
    group: str = ""
    weight: float = 1.0


@dataclass(frozen=True)
class Pixels:
    """How a photo becomes an array: side in pixels, resize mode and, for views, the
    augmentation; or its left and right change places.
    """

    size: int
    resize: str = "squash"
    augment: Mapping[str, float | bool] | None = None
    is_mirrored: bool = False

    def load(self, photo: Path | Photo, key: str | None = None) -> np.ndarray:
        """Read and decode a photo and, given a key, draw one view of it.

        Returns:
            uint8 (size, size, 3), RGB.

        Raises:
            BadPhoto: it cannot be read or decoded.
            DataError: the file of a ``Photo`` has changed since it was listed.
        """
        path = photo.path if isinstance(photo, Photo) else photo
        data = read_bytes(path)
        if isinstance(photo, Photo) and hashlib.sha256(data).hexdigest() != photo.sha256:
            raise DataError(
                f"{path} has changed since it was listed. Run again when the folder is at rest."
            )
        pixels = decode(data, self.size, self.resize)
        if self.is_mirrored:
            return pixels[:, ::-1]
        return pixels if key is None or self.augment is None else augment(pixels, self.augment, key)

    def fields(self) -> dict[str, Any]:
        """What of this belongs into the key of a cache entry."""
        augmented = {"augment_version": AUGMENT_VERSION} if self.augment else {}
        own = asdict(self)
        if not self.is_mirrored:  # or entries of earlier versions would be others
            del own["is_mirrored"]
        return {"decode_version": DECODE_VERSION, **augmented, **own}


def read_bytes(path: Path) -> bytes:
    """A photo file's bytes. Raises BadPhoto: it cannot be read, or is larger than any photo."""
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise BadPhoto(f"it has {size:,} bytes; allowed: {MAX_BYTES:,}")
        return path.read_bytes()
    except OSError as error:
        raise BadPhoto(f"it cannot be read: {error.strerror or error}") from error


def printable(path: Path) -> str:
    """A path as text that every file format holds; ``unprintable`` gives the path back.

    Posix, with ``\\xNN`` for each byte that is no UTF-8, and for a backslash that looks like one.
    """
    text = os.fsencode(path.as_posix()).replace(b"\\x", b"\\x5cx")
    return text.decode("utf-8", "backslashreplace")


def unprintable(text: str) -> Path:
    """The path that ``printable`` wrote as this text."""
    escape = re.compile(rb"\\x([0-9a-f]{2})")
    return Path(
        os.fsdecode(escape.sub(lambda code: bytes.fromhex(code[1].decode()), text.encode()))
    )


def read_photos(
    pixels: Pixels, photos: Iterable[Item], keys: Iterable[str | None] = repeat(None)
) -> Iterator[tuple[Item, np.ndarray | str]]:
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

    def load(item: tuple[Item, str | None]) -> tuple[Item, np.ndarray | str]:
        try:
            return item[0], pixels.load(*item)
        except BadPhoto as error:
            return item[0], str(error)

    return map_ahead(load, zip(photos, keys, strict=False))


def through(
    engine: Callable[[Iterable[np.ndarray]], Iterable[np.ndarray]],
    stream: Iterable[tuple[Item, np.ndarray | str]],
    batch: int,
) -> Iterator[tuple[Item, np.ndarray | str]]:
    """Run a stream of photos through an engine; bad photos keep their places.

    Args:
        engine: from batches (n, size, size, 3) to batches of n rows each, in order.
        stream: from ``read_photos``.
        batch: photos of each batch; the last may have fewer.

    Yields:
        (photo, its row), or (photo, reason) of a bad one, in order.
    """
    bad = deque[tuple[int, Item, str]]()  # with the number of good photos before each
    good = deque[Item]()
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
        paths: files, which are taken whatever their names are, and folders, of which every photo at
            any depth is taken.

    Returns:
        The photos path by path; those of a folder sorted by name, each folder in it visited once
        however it is linked.

    Raises:
        DataError: a path does not exist (at once, with all that do not); a folder cannot be listed
            (when it is its turn).
    """
    if missing := [str(path) for path in paths if not (path.is_file() or path.is_dir())]:
        raise DataError(
            f"No such file or folder: {', '.join(missing)}. Nothing was computed; correct the "
            "paths."
        )
    return (photo for path in paths for photo in (_listed(path) if path.is_dir() else [path]))


def _listed(folder: Path) -> Iterator[Path]:
    try:
        # A link upwards would lead out of the folder that was given.
        yield from walk(folder, set(folder.resolve().parents), Counter())
    except OSError as error:
        raise DataError(
            f"{error.filename} cannot be listed ({error.strerror}). "
            "Make it readable, or leave it out."
        ) from error


def walk(folder: Path, seen: set[Path], ignored: Counter[str]) -> Iterator[Path]:
    """Photos of a folder and of the folders in it, sorted by name.

    Args:
        folder: where to begin.
        seen: resolved folders that are not entered; those that are visited join them.
        ignored: counts by kind the entries that are no photos.

    Raises:
        OSError: a folder cannot be listed.
    """
    resolved = folder.resolve()
    if resolved in seen:
        ignored["link to a folder already visited"] += 1
        return
    seen.add(resolved)
    for path in sorted(folder.iterdir()):
        what = kind(path)
        if what == "photo":
            yield path
        elif what == "folder":
            yield from walk(path, seen, ignored)
        else:
            ignored[what] += 1
