"""Photos that show the same: saved again, mirrored, cropped or shifted a little, or of one burst."""

from collections.abc import Sequence

import numpy as np
from PIL import Image

# Cosine of two descriptors from which on photos count as alike. Measured on cats-and-dogs-small: of
# 8 million pairs two are above 0.95 and show the same picture, the next are at 0.81 and 0.80; of
# 300 photos saved again (JPEG quality 60), also cropped by 5 %, shifted by 2 % or mirrored, all are
# above 0.8.
ALIKE = 0.8
# A few grey values are the whole of a tiny picture: many digits of 8 px look the same.
SMALLEST = 32

_GRID = 12
_THUMBNAIL = 64
_CROP = 0.05 * _THUMBNAIL
_FLAT = 8.0  # length of the steps, in grey values, below which a picture is an even surface
_ROWS = 256  # photos that are compared with all others at once


def thumbnail(photo: np.ndarray) -> np.ndarray:
    """The grey picture that is compared: uint8 (64, 64) from uint8 (height, width, 3)."""
    grey = Image.fromarray(photo).convert("L")
    return np.asarray(grey.resize((_THUMBNAIL, _THUMBNAIL), Image.Resampling.BOX))


def alike(thumbnails: Sequence[np.ndarray]) -> list[tuple[int, int]]:
    """Pairs of pictures that show the same, as far as their grey steps tell.

    The descriptor is the differences between neighbours on a grid of 12 x 12 means, centred, of
    length 1. Each picture is compared as it is, cropped by 5 % in its middle and at its four
    corners, and all that mirrored, with each other one as it is.

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
            found = np.argwhere(views[:, view] @ plain.T >= ALIKE) + (start, 0)
            pairs |= {(min(pair), max(pair)) for pair in found.tolist() if pair[0] != pair[1]}
    return sorted(pairs)


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
    side, crop = _THUMBNAIL, _CROP
    boxes = [(0.0, 0.0, side, side)]
    if views:
        low, high = crop / 2, side - crop / 2
        boxes += [(low, low, high, high)]
        boxes += [(x, y, x + side - crop, y + side - crop) for x in (0, crop) for y in (0, crop)]
    image = Image.fromarray(picture.astype(np.float32))
    size = (_GRID, _GRID)
    grids = np.stack([image.resize(size, Image.Resampling.BOX, box) for box in boxes])
    if views:
        grids = np.concatenate([grids, grids[:, :, ::-1]])
    across = np.diff(grids, axis=2)[:, :-1]
    down = np.diff(grids, axis=1)[:, :, :-1]
    steps = np.concatenate([across, down], axis=1).reshape(len(grids), -1)
    steps -= steps.mean(axis=1, keepdims=True)
    length = np.linalg.norm(steps, axis=1, keepdims=True)
    return np.where(length < _FLAT, 0, steps / np.maximum(length, _FLAT)).astype(np.float32)
