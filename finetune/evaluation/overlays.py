"""Heat and feature maps as pictures: on the photo, in contact sheets, in grids. No TensorFlow."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from finetune.data.decode import decode, sides, upright_sides

# Perceptually uniform, and brighter where hotter: it reads in grey, too.
_HEAT = (matplotlib.colormaps["inferno"](np.arange(256))[:, :3] * 255).round().astype(np.uint8)
_LIGHT, _OPACITY = 0.6, 0.8  # of the photo beneath, and of the greatest heat
_INK, _SOFT, _PAPER = "#1a1a1a", "#5f5f5f", "white"
_LARGEST = 2048  # pixels: of larger photos libjpeg decodes a half or less, as for a network
TILE, _CELL, _GAP, _TEXT, _TITLE = 224, 112, 14, 13, 600  # pixels


class Tile(NamedTuple):
    """A picture of a contact sheet and the lines of text beneath it."""

    picture: Image.Image
    lines: Sequence[str]


def open_photo(data: bytes, side: int | None = None) -> Image.Image:
    """A photo upright in RGB.

    Args:
        data: the file's bytes.
        side: length of the longer side in pixels; None keeps the photo's own size, up to 2,048.

    Raises:
        BadPhoto, OSError: the bytes cannot be decoded.
    """
    side = side or min(max(sides(data)), _LARGEST)
    padded = Image.fromarray(decode(data, side, "pad"))  # which refuses what costs too much
    return padded.crop(_inside_bars(upright_sides(data), side))


def spread(heat: np.ndarray, size: tuple[int, int], resize: str) -> np.ndarray:
    """Heat of the square that the network saw, back on the photo.

    Args:
        heat: float32 (h, w).
        size: width and height of the upright photo in pixels.
        resize: how the photo became the square, see ``data.decode.decode``.

    Returns:
        float32 (height, width), at least 0, bicubic between the heat's cells (bilinear would draw a
        star around each); 0 where ``crop`` left the photo out.
    """
    square, (rows, columns) = Image.fromarray(heat.astype(np.float32)), heat.shape
    if resize == "crop":
        seen = min(size)
        left, top = ((length - seen) // 2 for length in size)
        everywhere = np.zeros(size[::-1], np.float32)
        everywhere[top : top + seen, left : left + seen] = square.resize(
            (seen, seen), Image.Resampling.BICUBIC
        )
        return everywhere.clip(0)
    across, down = (
        length / max(size) if resize == "pad" else 1.0 for length in size
    )  # shares of the square
    box = [
        (1 - across) / 2 * columns,
        (1 - down) / 2 * rows,
        (1 + across) / 2 * columns,
        (1 + down) / 2 * rows,
    ]
    return np.asarray(square.resize(size, Image.Resampling.BICUBIC, box=tuple(box))).clip(0)


def peak(heat: np.ndarray) -> tuple[int, int] | None:
    """The hottest pixel, (x, y); None if there is no heat."""
    y, x = np.unravel_index(int(heat.argmax()), heat.shape)
    return (int(x), int(y)) if heat[y, x] > 0 else None


def overlay(photo: Image.Image, heat: np.ndarray) -> Image.Image:
    """Heat over a photo: the hotter, the brighter and the less transparent.

    Args:
        photo: RGB.
        heat: float32 (height, width), at least 0; scaled by its own maximum.
    """
    level = Image.fromarray((heat / (heat.max() or 1) * 255).round().astype(np.uint8))
    colours = level.copy()
    colours.putpalette(_HEAT.tobytes())
    dim = Image.blend(Image.new("RGB", photo.size), photo, _LIGHT)
    return Image.composite(
        colours.convert("RGB"), dim, level.point(lambda value: round(_OPACITY * value))
    )


def maps_grid(maps: np.ndarray, channels: int, title: str) -> Image.Image:
    """The most active channels of a layer, numbered, each from black (its least) to white.

    Args:
        maps: float32 (h, w, channels).
        channels: how many are shown at most, those with the highest mean absolute value.
        title: stands above.
    """
    order = np.argsort(-np.abs(maps).mean(axis=(0, 1)), kind="stable")[:channels]
    columns = math.ceil(math.sqrt(len(order)))
    tiles = [Tile(_grey(maps[:, :, channel]), [str(channel)]) for channel in order]
    rows = [tiles[start : start + columns] for start in range(0, len(tiles), columns)]
    return contact_sheet(rows, _CELL, title)


def contact_sheet(rows: Sequence[Sequence[Tile]], side: int = TILE, title: str = "") -> Image.Image:
    """Tiles in rows, on white.

    Args:
        rows: of tiles, whose pictures are at most ``side`` wide and high; text too long for that is
            shortened.
        side: of a tile in pixels.
        title: stands above; the sheet is as wide as it needs.
    """
    font, line = _font(_TEXT), _TEXT + 5
    heights = [
        max(tile.picture.height + line * len(tile.lines) for tile in row) + _GAP for row in rows
    ]
    across = _GAP + max(map(len, rows)) * (side + _GAP)
    title = _shortened(title, font, max(across - 2 * _GAP, _TITLE))
    width = max(across, math.ceil(font.getlength(title)) + 2 * _GAP)
    top = _GAP + (line + _GAP if title else 0)
    sheet = Image.new("RGB", (width, top + sum(heights)), _PAPER)
    pen = ImageDraw.Draw(sheet)
    pen.text((_GAP, _GAP), title, _INK, font)
    for row, height in zip(rows, heights, strict=True):
        bottom = top + max(tile.picture.height for tile in row)
        for place, (picture, lines) in enumerate(row):
            left = _GAP + place * (side + _GAP)
            sheet.paste(picture, (left, bottom - picture.height))
            for number, text in enumerate(lines):
                ink = _SOFT if number else _INK
                pen.text(
                    (left, bottom + 3 + number * line), _shortened(text, font, side), ink, font
                )
        top += height
    return sheet


def percent(share: float) -> str:
    """As many digits as it takes not to say 100 %: 97 %, 99.98 %."""
    digits = next((digits for digits in (0, 1, 2) if round(100 * share, digits) < 100), None)
    return "over 99.99\u00a0%" if digits is None else f"{100 * share:.{digits}f}\u00a0%"


def _inside_bars(size: tuple[int, int], side: int) -> tuple[int, int, int, int]:
    """Where ``PIL.ImageOps.pad`` puts a photo in a square: left, top, right, bottom."""
    width, height = (max(1, round(length / max(size) * side)) for length in size)
    left, top = round((side - width) * 0.5), round((side - height) * 0.5)
    return left, top, left + width, top + height


def _grey(channel: np.ndarray) -> Image.Image:
    """Small maps in whole multiples of their size, so that their places stay countable."""
    low, high = channel.min(), channel.max()
    picture = Image.fromarray(
        ((channel - low) / ((high - low) or 1) * 255).round().astype(np.uint8)
    )
    if max(picture.size) > _CELL:
        return ImageOps.contain(picture, (_CELL, _CELL), Image.Resampling.BOX)
    return ImageOps.scale(picture, _CELL // max(picture.size), Image.Resampling.NEAREST)


def _font(size: int) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which matplotlib brings along to every machine."""
    return ImageFont.truetype(
        Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"), size
    )


def _shortened(text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    """One printable line that fits; its middle goes first, since file names differ at both ends.

    Lone surrogates (bytes of a file name that are no UTF-8) and control characters have no
    layout.
    """
    text = "".join(letter if letter.isprintable() else "�" for letter in text)
    kept = len(text)
    shown = text
    while kept > 1 and font.getlength(shown) > width:
        kept -= 1
        shown = f"{text[: (kept + 1) // 2]}…{text[len(text) - kept // 2 :]}"
    return shown
