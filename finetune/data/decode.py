"""One photo file's bytes to upright RGB pixels: the one place that opens pictures."""

import ctypes
import io
import warnings
from collections.abc import Callable
from contextlib import suppress

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError, features

# Part of every key of a cache entry: raise it when any pixel that this module returns changes.
DECODE_VERSION = 1

# One photo takes less than 1 GB: at most MAX_BYTES for its file and MAX_MEMORY while it is decoded.
MAX_BYTES = 128 * 2**20
MAX_MEMORY = 850_000_000
# Pillow holds a pixel in up to 4 bytes, and up to four such pictures: decoded, turned or with an
# alpha channel, on white paper, RGB. So 53 megapixels are allowed, and more of a JPEG file, which
# libjpeg scales while it decodes.
_BYTES_PER_PIXEL = 16
_MAX_SCANS = 64  # of a progressive JPEG, which writers give about 10: each goes over all pixels

# Pillow opens whatever it knows, if it is let: EPS, for one, starts Ghostscript. MPO is a JPEG
# file.
FORMATS = ["JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF"]
SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff"})
if features.check("avif"):
    FORMATS.append("AVIF")
    SUFFIXES |= {".avif"}
with suppress(ImportError):
    from pillow_heif import register_heif_opener

    register_heif_opener()
    FORMATS.append("HEIF")
    SUFFIXES |= {".heic", ".heif"}

# What is wrong with a photo is in the reason that it is bad for; stderr belongs to the commands.
warnings.filterwarnings("ignore", module=r"PIL\.")
with suppress(AttributeError, OSError):  # libtiff is out of reach where Pillow is linked statically
    _libtiff = ctypes.CDLL(Image.core.__file__)
    _libtiff.TIFFSetErrorHandler(None)
    _libtiff.TIFFSetWarningHandler(None)

# Antialiased: Pillow widens the bilinear kernel when it shrinks a picture.
_RESIZE: dict[str, Callable[[Image.Image, tuple[int, int]], Image.Image]] = {
    "squash": lambda photo, size: photo.resize(size, Image.Resampling.BILINEAR),
    "crop": lambda photo, size: ImageOps.fit(photo, size, Image.Resampling.BILINEAR),
    "pad": lambda photo, size: ImageOps.pad(photo, size, Image.Resampling.BILINEAR),
}
RESIZE_MODES = tuple(_RESIZE)


class BadPhoto(ValueError):
    """The file is no picture that can be decoded; the message is the reason."""


class TooLarge(ValueError):
    """The cause of a ``BadPhoto`` that would take too much memory."""


def decode(data: bytes, size: int, resize: str = "squash") -> np.ndarray:
    """Decode one photo file and resize it to a square.

    Args:
        data: the file's bytes, in one of ``FORMATS``; of an animation, the first frame.
        size: side of the square in pixels.
        resize: ``squash`` (both sides to ``size``), ``crop`` (the central square) or ``pad``
            (black bars).

    Returns:
        uint8 array of shape (size, size, 3), RGB, 0-255, turned upright by its EXIF orientation.

    Raises:
        BadPhoto: the bytes cannot be decoded, or would take too much memory.
    """
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as photo:
            declared = photo.width * photo.height
            # libjpeg scales by 1/2, 1/4 or 1/8; twice the target leaves the resize its say.
            photo.draft(None, (2 * size, 2 * size))
            _check_cost(photo, declared, data, size)
            ImageOps.exif_transpose(photo, in_place=True)
            return np.asarray(_RESIZE[resize](_to_rgb(photo), (size, size)))
    except Exception as error:  # Pillow's plugins raise OSError, SyntaxError, struct.error, ...
        raise _bad(error) from error


def sides(data: bytes) -> tuple[int, int]:
    """Width and height of a photo in pixels, from its header; raises BadPhoto."""
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as photo:
            return photo.size
    except Exception as error:
        raise _bad(error) from error


def upright_sides(data: bytes) -> tuple[int, int]:
    """Width and height of a photo as it is looked at; raises BadPhoto.

    For photos that ``decode`` has read: some formats have their orientation behind the pixels.
    """
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as photo:
            is_turned = photo.getexif().get(ExifTags.Base.Orientation) in (5, 6, 7, 8)
            return photo.size[::-1] if is_turned else photo.size
    except Exception as error:
        raise _bad(error) from error


def _bad(error: Exception) -> BadPhoto:
    name = type(error).__name__
    if isinstance(error, UnidentifiedImageError):  # whose own text names a buffer in memory
        return BadPhoto(f"{name}: no picture in a known format")
    return BadPhoto(f"{name}: {error}" if str(error) else name)


def _check_cost(photo: Image.Image, declared: int, data: bytes, size: int) -> None:
    """Refuse from the header alone what would take too much memory or time.

    Raises:
        TooLarge: it says how much memory. ValueError: too many scans.
    """
    needed = _BYTES_PER_PIXEL * photo.width * photo.height
    needed += 4 * size * max(photo.size)  # resized along one side first
    if photo.format in ("JPEG", "MPO"):
        scans = data.count(b"\xff\xda")
        if scans > _MAX_SCANS:
            raise ValueError(f"{scans:,} scans; allowed: {_MAX_SCANS}")
        if scans > 1:  # libjpeg may have to hold the coefficients of the whole picture
            needed += 2 * len(photo.getbands()) * declared
    if photo.format == "TIFF":
        tags = photo.tag_v2  # type: ignore[attr-defined]
        needed += _BYTES_PER_PIXEL * tags.get(322, 0) * tags.get(323, 0)  # sides of a tile
    if needed > MAX_MEMORY:
        raise TooLarge(
            f"{declared / 1e6:,.0f} megapixels would take up to {needed / 1e6:,.0f} MB of memory; "
            f"allowed: {MAX_MEMORY / 1e6:,.0f} MB"
        )


def _to_rgb(photo: Image.Image) -> Image.Image:
    """Any Pillow mode to 8-bit RGB; transparent pixels show white paper."""
    if photo.mode.startswith("I") or photo.mode == "F":
        photo = Image.fromarray(_eight_bits(np.asarray(photo)))
    if photo.has_transparency_data:
        photo = photo if photo.mode == "RGBA" else photo.convert("RGBA")
        photo = Image.alpha_composite(Image.new("RGBA", photo.size, "white"), photo)
    return photo if photo.mode == "RGB" else photo.convert("RGB")


def _eight_bits(grey: np.ndarray) -> np.ndarray:
    """16-bit grey (or floats in 0-1) to uint8; Pillow itself would clip all above 255."""
    highest = 1 if grey.dtype.kind == "f" else 65535
    low, high = grey.min(), grey.max()
    if not (low >= 0 and high <= highest):  # written so that NaN fails, too
        kind = "floating-point" if highest == 1 else "integer"
        raise ValueError(f"{kind} pixels from {low:g} to {high:g}; allowed: 0 to {highest}")
    return np.round(grey * 255).astype(np.uint8) if highest == 1 else (grey // 257).astype(np.uint8)
