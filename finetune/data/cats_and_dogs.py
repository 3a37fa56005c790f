"""Cats and dogs small: 4,000 photos cut from Kaggle's or Microsoft's 25,000."""

import re
import shutil
from pathlib import Path

from finetune.data.decode import BadPhoto, decode
from finetune.data.download import Report, describe, extract_members, fetch
from finetune.errors import DataError
from finetune.files import cache_dir

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


def write_cats_and_dogs(folder: Path, source: Path | None, progress: Report | None) -> dict:
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
    if source is not None:
        if not source.exists():
            raise DataError(f"--from {source}: no such file or folder. {_COPIES}")
        record = {"source": str(source.resolve())} | (describe(source) if source.is_file() else {})
        return record | _write_from_copy(folder, source)
    archive = cache_dir() / "downloads" / ARCHIVE_URL.rpartition("/")[2]
    try:
        record = fetch(ARCHIVE_URL, archive, ARCHIVE_SIZE, ARCHIVE_SHA256, progress)
    except DataError as error:
        raise DataError(
            f"cats-and-dogs-small is neither in FINETUNE_DATA_DIR nor in the cache, and {error} "
            "Without network: `finetune data cats-and-dogs-small --from PATH` builds it from a "
            "copy "
            "of Kaggle's train/ folder or zip; FINETUNE_DATA_DIR names a folder with "
            "cats_and_dogs_small/ in it; `--data sketches` needs no photos."
        ) from error
    record |= _write_from_copy(folder, archive)
    archive.unlink()
    return record


def _write_from_copy(folder: Path, source: Path) -> dict:
    """Copy the set's photos out of a folder or zip, with a spare for each bad one."""
    copy = source
    if source.is_file():
        copy = folder / ".unpacked"
        extract_members(source, _member_name, copy)
    photos, substituted = _numbered_photos(copy, source), []
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
    if copy != source:
        shutil.rmtree(copy)
    return {"substituted": substituted}


def _numbered_photos(folder: Path, source: Path) -> dict[tuple[str, int], Path]:
    """(cat or dog, number) -> photo, at any depth of a folder; no number of the set lacks."""
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
    return photos


def _member_name(name: str) -> str | None:
    match = _NUMBERED.search(name.replace("\\", "/"))
    return (
        f"{match[1].lower()}.{int(match[2])}.jpg"
        if match and int(match[2]) < _first_spare() + SPARES
        else None
    )


def _first_spare() -> int:
    return max(numbers.stop for numbers in CATS_AND_DOGS_SMALL.values())


def _why_bad(photo: Path) -> str | None:
    try:
        decode(photo.read_bytes(), size=8)
    except BadPhoto as error:
        return str(error)
    return None
