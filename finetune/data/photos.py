"""Photo files: found one by one in folders, and decoded to upright uint8 RGB at the size that the network takes."""

import io
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from finetune.errors import DataError

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


class BadPhoto(ValueError):
    """The bytes are no picture that can be decoded; the message is the reason."""


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
