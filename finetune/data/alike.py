"""Photos that show the same: saved again, mirrored, cropped or shifted, or of one burst."""

import functools
import itertools
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image
from threadpoolctl import threadpool_limits

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
_SHIFT = 2  # pixels of a thumbnail
# 15 s or so on one core. Without an end, 1,000 photos by one fixed camera would take half an hour,
# for each is a candidate of each.
_MOST_PAIRS = 20_000


def thumbnail(photo: np.ndarray) -> np.ndarray:
    """The grey picture that is compared: uint8 (64, 64) from uint8 (height, width, 3)."""
    grey = Image.fromarray(photo).convert("L")
    return np.asarray(grey.resize((_THUMBNAIL, _THUMBNAIL), Image.Resampling.BOX))


def alike(
    thumbnails: Sequence[np.ndarray], warn: Callable[[str], object] = lambda text: None
) -> list[tuple[int, int]]:
    """Pairs of pictures that show the same, as far as their grey steps tell.

    The coarse descriptor is the differences between neighbours on a grid of 12 x 12 means, centred,
    of length 1. Each picture is compared as it is, cropped by 5 % in its middle and at its four
    corners, and all that mirrored, with each other one as it is. Pairs that pass are correlated
    finely, see ``_seen_in``.

    Args:
        thumbnails: n pictures from ``thumbnail``.
        warn: is told if more pairs passed than are compared finely.

    Returns:
        Pairs (first, second) of indexes, first < second, in order.
    """
    if not len(thumbnails):
        return []
    pairs, is_cut = _candidates(thumbnails)
    if is_cut:
        warn(
            f"More than {len(pairs):,} pairs of photos are of one composition, as those of a fixed "
            f"camera are; only the {len(pairs):,} most alike were compared in detail, so that some "
            "near-duplicates may have been missed. Name what belongs together with `groups`."
        )
    with threadpool_limits(1, "blas"):  # products so small only wait for a second thread
        found = _seen_in(thumbnails, pairs)
        found[~found] = _seen_in(thumbnails, pairs[~found][:, ::-1])
    return [(int(first), int(second)) for first, second in pairs[found]]


def _candidates(thumbnails: Sequence[np.ndarray]) -> tuple[np.ndarray, bool]:
    """Pairs whose coarse descriptors agree, the best of them if there are too many: int (p, 2) in
    order, first < second; and whether there were too many.
    """
    n = len(thumbnails)
    plain = np.concatenate([_describe(picture, views=False) for picture in thumbnails])
    keys, scores = np.empty(0, np.int64), np.empty(0, np.float32)
    is_cut = False
    for start in range(0, n, _ROWS):
        views = np.stack([_describe(picture) for picture in thumbnails[start : start + _ROWS]])
        cosines = functools.reduce(np.maximum, (view @ plain.T for view in views.swapaxes(0, 1)))
        rows, columns = np.nonzero(cosines >= CANDIDATE)
        found = cosines[rows, columns]
        rows += start
        both = np.minimum(rows, columns) * n + np.maximum(rows, columns)
        apart = rows != columns
        keys, scores = np.append(keys, both[apart]), np.append(scores, found[apart])
        keys, scores = _once(keys, scores)
        is_cut |= len(keys) > _MOST_PAIRS
        best = np.sort(np.argsort(-scores, kind="stable")[:_MOST_PAIRS])
        keys, scores = keys[best], scores[best]
    return np.stack(np.divmod(keys, n), axis=1), is_cut


def _once(keys: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each key once, with its highest score, in order."""
    order = np.argsort(-scores, kind="stable")
    keys, first = np.unique(keys[order], return_index=True)
    return keys, scores[order][first]


def _seen_in(thumbnails: Sequence[np.ndarray], pairs: np.ndarray) -> np.ndarray:
    """Whether a view of each pair's first picture shows its second one: bool (p,).

    The grey steps of each view are correlated with those of the other picture, at the best of the
    shifts by up to two pixels.
    """
    found = np.zeros(len(pairs), bool)
    order = np.argsort(pairs[:, 0], kind="stable").tolist()
    for first, rows in itertools.groupby(order, key=lambda row: int(pairs[row, 0])):
        views = _flat(*_steps(_views(thumbnails[first])))
        lengths = np.linalg.norm(views, axis=1, keepdims=True)
        for row in rows:
            other = _shifted(thumbnails[pairs[row, 1]])
            length = np.linalg.norm(other[len(other) // 2])
            likeness = views @ other.T / np.maximum(lengths * length, _FLAT**2)
            found[row] = likeness.max() >= ALIKE
    return found


def _shifted(picture: np.ndarray) -> np.ndarray:
    """Grey steps of a picture shifted by up to two pixels each way, 25 rows, the middle one as it
    is; what a shift leaves empty is 0.
    """
    steps = np.concatenate(_steps(picture.astype(np.float32)[None]))
    framed = np.pad(steps, [(0, 0), (_SHIFT, _SHIFT), (_SHIFT, _SHIFT)])
    windows = np.lib.stride_tricks.sliding_window_view(framed, steps.shape)[0]
    return windows.reshape(-1, steps.size)


def _flat(across: np.ndarray, down: np.ndarray) -> np.ndarray:
    """Both kinds of steps of n pictures side by side: (n, numbers)."""
    return np.concatenate([across.reshape(len(across), -1), down.reshape(len(down), -1)], axis=1)


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
