"""A data set looked at before it is trained on: what is bad, what stands twice, and what its test photos can tell."""

import io
import math
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import repeat
from statistics import NormalDist
from typing import Any

import numpy as np
from PIL import Image

from finetune.data.dataset import SPLITS, Dataset, duplicates, leaks
from finetune.data.photos import Photo
from finetune.data.photos import BadPhoto, decode

# Hamming distance up to which two hashes count as one picture. Among the 8 million pairs of cats-and-dogs-small the two at
# 0 show the same picture and the next is at 7; of 150 photos saved again (JPEG quality 30 or 60) or halved, 99 % stay in 2.
NEAR = 2
# 72 grey values are the whole of a tiny picture: of the digits of 8 px, 193 pairs in two splits have the same hash.
SMALLEST_HASHED = 32


@dataclass(frozen=True)
class _Look:
    """What one photo shows: its sides in pixels and its hash (None for a tiny one), or why it cannot be decoded."""

    sides: tuple[int, int] = (0, 0)
    dhash: int | None = None
    reason: str | None = None


def audit(
    dataset: Dataset,
    size: int = 224,
    advance: Callable[[int], object] = lambda photos: None,
    workers: int = 2,
) -> dict[str, Any]:
    """Decode every photo once and report.

    Args:
        dataset: the photos.
        size: side in pixels that they will be resized to.
        advance: is told of each photo that was looked at.
        workers: threads (Pillow decodes outside the interpreter lock).

    Returns:
        What ``check --json`` prints, JSON values. ``photos`` is split -> class -> count; ``bad`` has a file and a reason
        each; ``leaks`` are groups of files with the same bytes in more than one split or class, ``duplicates`` such
        groups within one class of one split, ``near_duplicates`` pairs of files in two splits that look alike (a hint);
        ``imbalance`` is the largest class of the training split over the smallest; ``sizes`` are sides in pixels and the
        number of photos with a side below ``size``; ``test`` has the half width of Wilson's 95 % interval at 90 %
        accuracy, a fraction. ``ok`` if nothing is bad or leaks.
    """
    looks = []
    with ThreadPoolExecutor(workers) as pool:
        for look in pool.map(_look, dataset.photos, repeat(size)):
            looks.append(look)
            advance(1)
    bad = [
        (photo, look.reason)
        for photo, look in zip(dataset.photos, looks, strict=True)
        if look.reason
    ]
    found = Counter((photo.split, photo.label) for photo in dataset.photos)
    counts = {
        s: {name: found[s, label] for label, name in enumerate(dataset.classes)} for s in SPLITS
    }
    shared, train, test = leaks(dataset), counts["train"].values(), sum(counts["test"].values())
    return {
        "folder": str(dataset.root),
        "classes": list(dataset.classes),
        "photos": counts,
        "hashed": dataset.hashed,
        "split": dataset.digest,
        "bad": [{"file": photo.file, "reason": reason} for photo, reason in bad],
        "leaks": _files(shared),
        "duplicates": _files(duplicates(dataset)),
        "near_duplicates": _files(_near(dataset.photos, [look.dhash for look in looks])),
        "ignored": dataset.ignored,
        "imbalance": round(max(train) / min(train), 3),
        "sizes": _sizes([look.sides for look in looks if not look.reason], size),
        "test": {"photos": test, "half_width": round(half_width(test), 4)},
        "ok": not bad and not shared,
    }


def duplicates(dataset: Dataset) -> list[tuple[Photo, ...]]:
    """Groups of files with identical content within one class of one split; those of ``leaks`` are not among them."""
    groups: dict[str, list[Photo]] = {}
    for photo in dataset.photos:
        groups.setdefault(photo.sha256, []).append(photo)
    return [
        tuple(group)
        for group in groups.values()
        if len(group) > 1 and len({(photo.split, photo.label) for photo in group}) == 1
    ]


def difference_hash(photo: np.ndarray) -> int:
    """The 64 signs of the horizontal steps of a photo shrunk to 9 x 8 grey pixels (N. Krawetz, "Kind of Like That", 2013).

    Args:
        photo: uint8 (height, width, 3), RGB.

    Returns:
        0 to 2**64 - 1. Photos that look alike differ in few bits, whatever their size and compression.
    """
    # Lanczos keeps different photos further apart than bilinear (nearest pair of cats-and-dogs-small: 7 bits and not 3).
    grey = np.asarray(Image.fromarray(photo).convert("L").resize((9, 8), Image.Resampling.LANCZOS))
    return int.from_bytes(np.packbits(grey[:, 1:] > grey[:, :-1]).tobytes(), "big")


def half_width(photos: int, accuracy: float = 0.9) -> float:
    """Half the width of Wilson's 95 % interval of an accuracy measured on so many photos, a fraction.

    Wilson 1927, JASA 22:209: z / (1 + z^2/n) * sqrt(p (1 - p) / n + z^2 / (4 n^2)).
    """
    z, n = NormalDist().inv_cdf(0.975), photos
    return z / (1 + z**2 / n) * math.sqrt(accuracy * (1 - accuracy) / n + z**2 / (4 * n**2))


def _look(photo: Photo, size: int) -> _Look:
    try:
        data = photo.path.read_bytes()
        pixels = decode(data, size)
        with Image.open(io.BytesIO(data)) as header:
            sides = header.size
    except (BadPhoto, OSError) as error:
        return _Look(reason=str(error))
    return _Look(sides, difference_hash(pixels) if min(sides) >= SMALLEST_HASHED else None)


def _near(photos: Sequence[Photo], hashes: Sequence[int | None]) -> list[tuple[Photo, ...]]:
    """Pairs of photos of two splits with different bytes whose hashes differ in at most NEAR bits, in order."""
    known = [
        (photo, value) for photo, value in zip(photos, hashes, strict=True) if value is not None
    ]
    values = np.array([value for _, value in known], dtype=np.uint64)
    pairs: list[tuple[Photo, ...]] = []
    for first, (photo, _) in enumerate(known):
        distances = np.bitwise_count(values[first + 1 :] ^ values[first])
        others = [known[first + 1 + step][0] for step in np.flatnonzero(distances <= NEAR)]
        pairs += [
            (photo, other)
            for other in others
            if other.split != photo.split and other.sha256 != photo.sha256
        ]
    return pairs


def _files(groups: Sequence[tuple[Photo, ...]]) -> list[list[str]]:
    return [[photo.file for photo in group] for group in groups]


def _sizes(sides: Sequence[tuple[int, int]], size: int) -> dict[str, int | None]:
    """Shortest and longest side in pixels (None where no photo can be decoded), and how many photos are too small."""
    return {
        "shortest": min((min(pair) for pair in sides), default=None),
        "longest": max((max(pair) for pair in sides), default=None),
        "size": size,
        "smaller": sum(min(pair) < size for pair in sides),
    }
