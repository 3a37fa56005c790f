"""Photos that stand, as they are or nearly so, in more than one split: their test asks memory."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from finetune.data.audit import look_at, pairs_alike
from finetune.data.dataset import Dataset, leaks
from finetune.data.decode import DECODE_VERSION
from finetune.data.photos import Photo, map_ahead
from finetune.files import READ_ONLY, cache_dir, commit_json, writing
from finetune.progress import SILENT, Reporter, count

_SIZE = 224  # side in pixels of what is compared, as in `finetune check`
_MOST = 20_000  # photos: every one is compared with every other, which takes minutes beyond
_VERSION = f"{DECODE_VERSION}-4"  # of the comparison, in the name of what is kept of it


def overlap(dataset: Dataset, reporter: Reporter = SILENT) -> dict[str, Any]:
    """What a data set holds in more than one split.

    The look-alikes of a data set are kept in the cache: only its first run decodes photos for them.

    Args:
        dataset: the photos.
        reporter: of progress.

    Returns:
        JSON values: ``leaks``, groups of files with the same content in more than one split or
        class; ``near_duplicates``, pairs of files in two splits that look alike (None for a data
        set too large to compare all); ``test_photos``, the test files that have a copy or a
        look-alike in another split.
    """
    copies = leaks(dataset)
    near = None if len(dataset.photos) > _MOST else _near(dataset, reporter)
    tested = {
        photo.file
        for group in [*copies, *(near or [])]
        if len({photo.split for photo in group}) > 1
        for photo in group
        if photo.split == "test"
    }
    return {
        "leaks": _files(copies),
        "near_duplicates": None if near is None else _files(near),
        "test_photos": sorted(tested),
    }


def look_alikes(dataset: Dataset, reporter: Reporter = SILENT) -> list[tuple[Photo, Photo]] | None:
    """Pairs that look alike, within a split or not; None for a data set too large to compare."""
    return None if len(dataset.photos) > _MOST else _alike(dataset, reporter)


def overlap_warning(found: Mapping[str, Any]) -> str | None:
    """One sentence on what ``overlap`` found, without names of files, for a run may be shared;
    None for nothing.
    """
    copies = found["leaks"]
    near = found["near_duplicates"] or []
    if not copies and not near:
        return None
    parts = []
    if copies:
        parts.append(
            f"{count(len(copies), 'group')} of identical photos in more than one split or class"
        )
    if near:
        parts.append(f"{count(len(near), 'pair')} of photos in two splits that look alike")
    known = len(found["test_photos"])
    verb = "has" if known == 1 else "have"
    return (
        f"There {'is' if len(copies or near) == 1 else 'are'} {' and '.join(parts)}: "
        f"{count(known, 'test photo')} {verb} a copy or a look-alike in another split, so that "
        "figures may flatter. `finetune check` lists them."
    )


def _near(dataset: Dataset, reporter: Reporter) -> list[tuple[Photo, Photo]]:
    """Pairs in two splits."""
    return [(a, b) for a, b in _alike(dataset, reporter) if a.split != b.split]


def _alike(dataset: Dataset, reporter: Reporter) -> list[tuple[Photo, Photo]]:
    """Kept by their contents: the digest of a data set has no file names in it."""
    path = cache_dir() / "alike" / f"{dataset.digest}-{_VERSION}.json"
    contents = _kept(path)
    if contents is None:
        contents = _compared(dataset, reporter)
        try:
            with writing(path.parent):
                commit_json(path, contents)
        except OSError as error:
            if error.errno not in READ_ONLY:  # such a cache will do; it is compared again next time
                raise
    by_place: dict[tuple[str, str], Photo] = {}
    for photo in dataset.photos:
        by_place.setdefault((photo.split, photo.sha256), photo)
    return [(by_place[tuple(a)], by_place[tuple(b)]) for a, b in contents]


def _kept(path: Path) -> Any:
    """What was found before; None if it is not there, or damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None


def _compared(dataset: Dataset, reporter: Reporter) -> list[list[list[str]]]:
    """Pairs of (split, sha256)."""
    with reporter.stage("photos compared with each other", len(dataset.photos)) as advance:
        seen = list(_thumbnails(dataset.photos, advance))
    return [
        [[photo.split, photo.sha256] for photo in pair] for pair in pairs_alike(seen, reporter.warn)
    ]


def _thumbnails(
    photos: Sequence[Photo], advance: Callable[[int], object]
) -> Iterator[tuple[Photo, np.ndarray]]:
    for photo, seen in zip(photos, map_ahead(lambda p: look_at(p, _SIZE), photos), strict=True):
        advance(1)
        if seen.thumbnail is not None:
            yield photo, seen.thumbnail


def _files(groups: Sequence[tuple[Photo, ...]]) -> list[list[str]]:
    return [[photo.file for photo in group] for group in groups]
