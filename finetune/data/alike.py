"""Photos that show the same: saved again, mirrored, cropped or shifted, or of one burst."""

from collections.abc import Sequence

import numpy as np
from PIL import Image

# Cosine of two coarse descriptors from which on photos are compared finely. Of 300 photos of
# cats-and-dogs-small saved again (JPEG quality 60), also cropped by 5 %, shifted by 2 % or
# mirrored, all are above it; but so are 1,591 pairs of 1,500 clothes that lie on plain floors.
CANDIDATE = 0.8
# Correlation of all grey steps from which on they count as alike. Of 72 photos cropped by 5 % at
# any place, shifted by 2 % or mirrored at least 98 % are above it (tests/data/test_audit.py); of
# those 1,591 pairs nine, one of which is the same picture.
ALIKE = 0.6
# A few grey values are the whole of a tiny picture: many digits of 8 px look the same.
SMALLEST = 32

_GRID = 12
_THUMBNAIL = 64
_FLAT = 8.0  # length of the steps, in grey values, below which a picture is an even surface
_ROWS = 256  # photos that are compared with all others at once


def thumbnail(photo: np.ndarray) -> np.ndarray:
    """The grey picture that is compared: uint8 (64, 64) from uint8 (height, width, 3)."""
    grey = Image.fromarray(photo).convert("L")
    return np.asarray(grey.resize((_THUMBNAIL, _THUMBNAIL), Image.Resampling.BOX))


def alike(thumbnails: Sequence[np.ndarray]) -> list[tuple[int, int]]:
    """Pairs of pictures that show the same, as far as their grey steps tell.

    The coarse descriptor is the differences between neighbours on a grid of 12 x 12 means, centred,
    of length 1. Each picture is compared as it is, cropped by 5 % in its middle and at its four
    corners, and all that mirrored, with each other one as it is. Pairs that pass are correlated
    finely, see ``_correlation``.

    Args:
        thumbnails: n pictures from ``thumbnail``.

    Returns:
        Pairs (first, second) of indexes, first < second, in order.
    """
    if not len(thumbnails):
        return []
    plain = np.concatenate([_describe(picture, views=False) for picture in thumbnails])
    pairs: set[tuple[int, int]] = set()
    for start in range(0, len(thumbnails), _ROWS):
        views = np.stack([_describe(picture) for picture in thumbnails[start : start + _ROWS]])
        for view in range(views.shape[1]):
            rows, columns = np.nonzero(views[:, view] @ plain.T >= CANDIDATE)
            found = zip((rows + start).tolist(), columns.tolist(), strict=True)
            pairs |= {(min(pair), max(pair)) for pair in found if pair[0] != pair[1]}
    return [pair for pair in sorted(pairs) if _is_alike(*(thumbnails[index] for index in pair))]


def _is_alike(first: np.ndarray, second: np.ndarray) -> bool:
    """Whether one of two thumbnails, or a part of it, shows the other."""
    return max(_correlation(first, second), _correlation(second, first)) >= ALIKE


def _correlation(picture: np.ndarray, other: np.ndarray) -> float:
    """Of the grey steps of a thumbnail's views with those of another one, at the best of the shifts
    by up to two pixels: -1 to 1.
    """
    across, down = _steps(_views(picture))
    other_across, other_down = _steps(other.astype(np.float32)[None])
    products = _spectrum(across) * np.conj(_spectrum(other_across))
    products += _spectrum(down) * np.conj(_spectrum(other_down))
    found = np.fft.irfft2(products, s=(_THUMBNAIL, _THUMBNAIL))
    near = found[:, [0, 1, 2, -2, -1]][:, :, [0, 1, 2, -2, -1]].max(axis=(1, 2))
    lengths = np.sqrt((across**2 + down**2).sum(axis=(1, 2)))
    other_length = np.sqrt((other_across**2 + other_down**2).sum())
    return float((near / np.maximum(lengths * other_length, _FLAT**2)).max())


def _views(picture: np.ndarray) -> np.ndarray:
    """A thumbnail whole, cropped by 5 % in its middle and by 5 and 2 % at its corners; mirrored."""
    side = float(_THUMBNAIL)
    edge = 0.025 * side
    boxes = [(0.0, 0.0, side, side), (edge, edge, side - edge, side - edge)]
    for crop in (0.05 * side, 0.02 * side):
        boxes += [
            (x, y, x + side - crop, y + side - crop) for x in (0.0, crop) for y in (0.0, crop)
        ]
    image = Image.fromarray(picture.astype(np.float32))
    size = (_THUMBNAIL, _THUMBNAIL)
    views = np.stack([np.asarray(image.resize(size, Image.Resampling.BOX, box)) for box in boxes])
    return np.concatenate([views, views[:, :, ::-1]])


def _steps(pictures: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Differences between neighbours of (n, h, w): across and down, each (n, h - 7, w - 7).

    The border is left out: a picture that was shifted may have an empty one.
    """
    inner = pictures[:, 3:-3, 3:-3]
    return np.diff(inner, axis=2)[:, :-1], np.diff(inner, axis=1)[:, :, :-1]


def _spectrum(steps: np.ndarray) -> np.ndarray:
    return np.fft.rfft2(steps, s=(_THUMBNAIL, _THUMBNAIL))


def components(pairs: Sequence[tuple[int, int]]) -> list[list[int]]:
    """Sets of indexes that pairs connect, each sorted, in the order of their first."""
    member: dict[int, list[int]] = {}
    for pair in pairs:
        first, second = (member.setdefault(index, [index]) for index in pair)
        if first is not second:
            first += second
            member |= dict.fromkeys(second, first)
    distinct = {id(group): sorted(group) for group in member.values()}
    return sorted(distinct.values())


def _describe(picture: np.ndarray, views: bool = True) -> np.ndarray:
    """Unit vectors float32 (views, 242) of a thumbnail; zeros for an even surface."""
    side = float(_THUMBNAIL)
    crop = 0.05 * side
    boxes = [(0.0, 0.0, side, side)]
    if views:
        low, high = crop / 2, side - crop / 2
        boxes += [(low, low, high, high)]
        boxes += [
            (x, y, x + side - crop, y + side - crop) for x in (0.0, crop) for y in (0.0, crop)
        ]
    image = Image.fromarray(picture.astype(np.float32))
    size = (_GRID, _GRID)
    resized = [image.resize(size, Image.Resampling.BOX, box) for box in boxes]
    grids = np.stack([np.asarray(grid) for grid in resized])
    if views:
        grids = np.concatenate([grids, grids[:, :, ::-1]])
    across = np.diff(grids, axis=2)[:, :-1]
    down = np.diff(grids, axis=1)[:, :, :-1]
    steps = np.concatenate([across, down], axis=1).reshape(len(grids), -1)
    steps -= steps.mean(axis=1, keepdims=True)
    length = np.linalg.norm(steps, axis=1, keepdims=True)
    return np.where(length < _FLAT, 0, steps / np.maximum(length, _FLAT)).astype(np.float32)
