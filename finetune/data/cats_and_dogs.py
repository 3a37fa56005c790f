"""Cats and dogs: 25,000 photos from Kaggle or Microsoft, and the 4,000 of a book's cut."""

import re
import shutil
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from finetune.data.decode import BadPhoto, decode
from finetune.data.download import Report, describe, extract_members, fetch
from finetune.data.splits import draw
from finetune.errors import DataError
from finetune.files import cache_dir, sha256_of
from finetune.progress import count

# Numbers of the photos of each class, as in Chollet, Deep Learning with Python, 1st edition,
# listing 5.4.
CATS_AND_DOGS_SMALL = {
    "train": range(1000),
    "validation": range(1000, 1500),
    "test": range(1500, 2000),
}
# Numbers after the last stand in for photos that cannot be decoded; the archive has a handful of
# those in 25,000.
SPARES = 100
HELD_OUT = 0.16  # of the whole set's photos, for validation, and for test: 4,000 of 25,000 each
_FEWEST = 3  # good photos of a class

ARCHIVE_URL = "https://download.microsoft.com/download/3/E/1/3E1C3F21-ECDB-4869-8368-6DEBA77B919F/kagglecatsanddogs_5340.zip"
ARCHIVE_SIZE = 824_887_076
# Microsoft publishes no digest. This is the one that GoMLX (examples/dogsvscats) pins for the same
# address.
ARCHIVE_SHA256: str | None = "b7974bd00a84a99921f36ee4403f089853777b5ae8d151c76a86e64900334af9"
_NUMBERED = re.compile(r"(?:^|/)(cat|dog)[./](\d+)\.jpg$", re.IGNORECASE)
_COPIES = (
    "Give Kaggle's train/ folder or its zip (cat.N.jpg, dog.N.jpg), or Microsoft's archive or "
    "its PetImages/ folder (Cat/N.jpg, Dog/N.jpg); a zip within a zip has to be unpacked first."
)


def write_cats_and_dogs_small(folder: Path, source: Path | None, progress: Report | None) -> dict:
    """Write the 4,000 photos from a copy, or from the archive that is downloaded.

    Args:
        folder: where the class folders go.
        source: a copy of Kaggle's or Microsoft's photos; None means the download.
        progress: gets the bytes of the download.

    Returns:
        What is recorded of the source.

    Raises:
        DataError: the source does not exist or is no such copy, or the download fails.
    """
    kind = _Kind("cats-and-dogs-small", _member_name, _write_small)
    return _write(kind, folder, source, progress)


def write_cats_and_dogs(folder: Path, source: Path | None, progress: Report | None) -> dict:
    """Write all photos that can be decoded; of each class, 16 % validate and 16 % test.

    Of Kaggle's 25,000 that is 17,000/4,000/4,000. What a photo holds decides where it goes, as in
    ``splits.draw``; copies of one photo stay together.

    Args, Returns, Raises: as for ``write_cats_and_dogs_small``.
    """
    kind = _Kind("cats-and-dogs", _any_name, _write_all)
    return _write(kind, folder, source, progress)


class _Kind(NamedTuple):
    """Which set: its name, which members of an archive it takes, and what writes its photos."""

    name: str
    wanted: Callable[[str], str | None]
    write: Callable[[Path, Path, Path], dict]


def _write(kind: _Kind, folder: Path, source: Path | None, progress: Report | None) -> dict:
    if source is not None:
        if not source.exists():
            raise DataError(f"--from {source}: no such file or folder. {_COPIES}")
        record = {"source": str(source.resolve())} | (describe(source) if source.is_file() else {})
        return record | _write_from_copy(kind, folder, source)
    archive = cache_dir() / "downloads" / ARCHIVE_URL.rpartition("/")[2]
    try:
        record = fetch(ARCHIVE_URL, archive, ARCHIVE_SIZE, ARCHIVE_SHA256, progress)
    except DataError as error:
        raise DataError(
            f"{kind.name} is neither in FINETUNE_DATA_DIR nor in the cache, and {error} "
            f"Without network: `finetune data {kind.name} --from PATH` builds it from a copy "
            "of Kaggle's train/ folder or zip; FINETUNE_DATA_DIR names a folder with "
            f"{kind.name.replace('-', '_')}/ in it; `--data sketches` needs no photos."
        ) from error
    record |= _write_from_copy(kind, folder, archive)
    archive.unlink()
    return record


def _write_from_copy(kind: _Kind, folder: Path, source: Path) -> dict:
    """Write a set's photos out of a folder or zip, which is unpacked first."""
    copy = source
    if source.is_file():
        copy = folder / ".unpacked"
        extract_members(source, kind.wanted, copy)
    record = kind.write(folder, copy, source)
    if copy != source:
        shutil.rmtree(copy)
    return record


def _write_small(folder: Path, copy: Path, source: Path) -> dict:
    """Copy the photos of the book's cut, with a spare for each bad one."""
    photos = _numbered_photos(copy, source)
    _check_complete(photos, source)
    substituted = []
    for animal in ("cat", "dog"):
        spares = iter(
            sorted(key for key in photos if key[0] == animal and key[1] >= _first_spare())
        )
        for split, numbers in CATS_AND_DOGS_SMALL.items():
            target = folder / split / f"{animal}s"
            target.mkdir(parents=True)
            for number in numbers:
                key = (animal, number)
                while why := _why_bad(photos[key]):
                    bad, spare = key, next(spares, None)
                    if spare is None:
                        raise DataError(
                            f"{source} has too few good {animal}s: "
                            f"{photos[bad].name} is bad: {why}."
                        )
                    key = spare
                    substituted.append(
                        {"photo": photos[bad].name, "by": photos[key].name, "reason": why}
                    )
                shutil.copyfile(photos[key], target / f"{animal}.{key[1]}.jpg")
    return {"substituted": substituted}


def _write_all(folder: Path, copy: Path, source: Path) -> dict:
    """Copy every good photo into the split that its content draws."""
    photos = _numbered_photos(copy, source)
    reasons = {key: _why_bad(photos[key]) for key in sorted(photos)}
    counts = {}
    for animal in ("cat", "dog"):
        good = [key for key, why in reasons.items() if key[0] == animal and not why]
        digests = {key: sha256_of(photos[key]) for key in good}
        units = Counter(digests.values())
        if len(units) < _FEWEST:
            raise DataError(
                f"cats-and-dogs cannot be built: {source} has {count(len(units), f'good {animal}')}"
                f", and {_FEWEST} are the least, 12,500 all of them. {_COPIES}"
            )
        split = draw(units, HELD_OUT)
        for key, digest in digests.items():
            target = folder / split[digest] / f"{animal}s" / f"{animal}.{key[1]}.jpg"
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(photos[key], target)
        counts[f"{animal}s"] = len(good)
    bad = [{"photo": photos[key].name, "reason": why} for key, why in reasons.items() if why]
    return {"photos": counts, "left_out": bad}


def _numbered_photos(folder: Path, source: Path) -> dict[tuple[str, int], Path]:
    """(cat or dog, number) -> photo, at any depth of a folder."""
    photos: dict[tuple[str, int], Path] = {}
    for path in sorted(folder.rglob("*.[jJ][pP][gG]")):
        if match := _NUMBERED.search(path.relative_to(folder).as_posix()):
            key = (match[1].lower(), int(match[2]))
            if key in photos:
                raise DataError(
                    f"{source} has two photos {key[0]}.{key[1]}: {photos[key]} and {path}. "
                    f"{_COPIES}"
                )
            photos[key] = path
    return photos


def _check_complete(photos: Mapping[tuple[str, int], Path], source: Path) -> None:
    """No number of the book's cut lacks."""
    needed = [
        (animal, n)
        for animal in ("cat", "dog")
        for numbers in CATS_AND_DOGS_SMALL.values()
        for n in numbers
    ]
    if missing := [
        f"{animal}.{number}.jpg" for animal, number in needed if (animal, number) not in photos
    ]:
        found = (
            f"{len(missing):,} of the {len(needed):,} photos, {missing[0]} for one, "
            f"are not in {source}"
        )
        raise DataError(f"cats-and-dogs-small cannot be built: {found}. {_COPIES}")


def _member_name(name: str) -> str | None:
    ours = _any_name(name)
    return ours if ours and int(ours.split(".")[1]) < _first_spare() + SPARES else None


def _any_name(name: str) -> str | None:
    match = _NUMBERED.search(name.replace("\\", "/"))
    return f"{match[1].lower()}.{int(match[2])}.jpg" if match else None


def _first_spare() -> int:
    return max(numbers.stop for numbers in CATS_AND_DOGS_SMALL.values())


def _why_bad(photo: Path) -> str | None:
    try:
        decode(photo.read_bytes(), size=8)
    except BadPhoto as error:
        return str(error)
    return None
