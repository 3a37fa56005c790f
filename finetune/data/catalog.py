"""Named data sets: where they are found, and how they are built when they are not there."""

import difflib
import errno
import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import filelock
import numpy as np
from PIL import Image

from finetune.data.dataset import Dataset, read_folder
from finetune.data.download import Report, describe, extract_members, fetch
from finetune.data.photos import BadPhoto, decode
from finetune.errors import BusyError, DataError, UsageError
from finetune.files import cache_dir as cache_dir  # until all callers take it from there

# Numbers of the photos of each class, as in Chollet, Deep Learning with Python, 1st edition, listing 5.4.
CATS_AND_DOGS_SMALL = {
    "train": range(1000),
    "validation": range(1000, 1500),
    "test": range(1500, 2000),
}
# Numbers after the last stand in for photos that cannot be decoded; the archive has a handful of those in 25,000.
SPARES = 100

ARCHIVE_URL = "https://download.microsoft.com/download/3/E/1/3E1C3F21-ECDB-4869-8368-6DEBA77B919F/kagglecatsanddogs_5340.zip"
ARCHIVE_SIZE = 824_887_076
# Microsoft publishes no digest. This is the one that GoMLX (examples/dogsvscats) pins for the same address.
ARCHIVE_SHA256: str | None = "b7974bd00a84a99921f36ee4403f089853777b5ae8d151c76a86e64900334af9"

LOCK_SECONDS = 600  # how long to wait for another process that builds the same data set
_NUMBERED = re.compile(r"(?:^|/)(cat|dog)[./](\d+)\.jpg$", re.IGNORECASE)
_COPIES = (
    "Give Kaggle's train/ folder or its zip (cat.N.jpg, dog.N.jpg), or Microsoft's archive or its PetImages/ folder "
    "(Cat/N.jpg, Dog/N.jpg); a zip within a zip has to be unpacked first."
)


def resolve(data: str) -> Dataset:
    """Read the data set of a name of ``NAMES`` (built first if it is nowhere) or of a folder's path.

    Raises:
        DataError: neither a name nor a folder, or the folder is no usable data set.
    """
    if data in NAMES:
        return read_folder(locate(data), data)
    folder = Path(data).expanduser()
    if folder.exists():
        return read_folder(folder)
    near = difflib.get_close_matches(data.lower().replace("_", "-"), NAMES, n=1)
    raise DataError(
        f"{data!r} is neither a folder nor the name of a data set{f' (did you mean {near[0]}?)' if near else ''}. "
        f"Give the path of a folder with class folders of photos, or one of these names: {', '.join(NAMES)}."
    )


def locate(name: str) -> Path:
    """Folder of a named data set: the copy in ``FINETUNE_DATA_DIR``, else the cache's, built first if it is not there.

    Raises:
        DataError: ``FINETUNE_DATA_DIR`` is no folder, or the set cannot be built.
    """
    copies = os.environ.get("FINETUNE_DATA_DIR")
    if copies and not Path(copies).is_dir():
        raise DataError(
            f"FINETUNE_DATA_DIR is {copies!r}, which is no folder. Correct the variable or unset it."
        )
    local = Path(copies, name.replace("-", "_")) if copies else None
    return local if local and local.is_dir() else build(name)


def build(name: str, source: Path | None = None, progress: Report | None = None) -> Path:
    """Build a named data set in the cache, with a ``source.json`` that says where it comes from.

    It is built in a hidden folder and then renamed, under a lock: another process sees all of it or nothing, and an
    interrupted build leaves nothing behind but the part of a download that the next one goes on from.

    Args:
        name: one of ``NAMES``.
        source: a local copy to build from; a set that is in the cache already is then replaced, otherwise kept.
        progress: called with (bytes, bytes in all) while downloading; a bar on a terminal's stderr if missing.

    Returns:
        The data set's folder.

    Raises:
        UsageError: no such name, or it is not built from copies.
        DataError: the source cannot be used, or the cache cannot be written.
        BusyError: another process is building it, or the disk is full.
    """
    if name not in NAMES:
        raise UsageError(f"{name!r} is not the name of a data set; allowed: {', '.join(NAMES)}.")
    named = NAMES[name]
    if source is not None and not named.from_copy:
        raise UsageError(
            f"{name} is made by the package itself and takes no local copy: leave out --from {source}."
        )
    folder = cache_dir() / "data" / named.folder()
    if (
        source is None and folder.is_dir()
    ):  # whole, as it was renamed; a cache that cannot be written will do
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(folder.with_name(f".{folder.name}.lock"), timeout=LOCK_SECONDS):
            if source is not None or not folder.exists():
                _build_whole(folder, lambda new: named.write(new, source, progress))
    except filelock.Timeout as error:
        raise BusyError(
            f"Another process has been building {folder} for {LOCK_SECONDS} s. Try again later."
        ) from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise BusyError(
                f"No room on the disk for {name} in {folder}. Make room or set FINETUNE_CACHE."
            ) from error
        raise DataError(
            f"{name} cannot be built in {folder}: {error}. FINETUNE_CACHE names another cache."
        ) from error
    return folder


def _build_whole(folder: Path, write: Callable[[Path], dict]) -> None:
    """Write a data set beside its place and rename it; the lock's holder may clear what a killed build left there."""
    new, old = (folder.with_name(f".{folder.name}.{state}") for state in ("new", "old"))
    for left in (new, old):
        shutil.rmtree(left, ignore_errors=True)
    try:
        new.mkdir()
        (new / "source.json").write_text(json.dumps(write(new), indent=2) + "\n", encoding="utf-8")
        if folder.exists():
            os.replace(folder, old)
        os.replace(new, folder)
    finally:
        for left in (new, old):
            shutil.rmtree(left, ignore_errors=True)


def _write_cats_and_dogs(folder: Path, source: Path | None, progress: Report | None) -> dict:
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
            f"cats-and-dogs-small is neither in FINETUNE_DATA_DIR nor in the cache, and {error} Without network: "
            "`finetune data cats-and-dogs-small --from PATH` builds it from a copy of Kaggle's train/ folder or zip; "
            "FINETUNE_DATA_DIR names a folder with cats_and_dogs_small/ in it; `--data sketches` needs no photos."
        ) from error
    record |= _write_from_copy(folder, archive)
    archive.unlink()
    return record


def _write_from_copy(folder: Path, source: Path) -> dict:
    """Copy the set's photos out of a folder or zip, with a spare one for each that cannot be decoded."""
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
                            f"{source} has too few good {animal}s: {photos[bad].name} is bad: {why}."
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
    """(cat or dog, number) -> photo, at any depth of a folder unpacked from ``source``; no number of the set lacks."""
    photos: dict[tuple[str, int], Path] = {}
    for path in sorted(folder.rglob("*.[jJ][pP][gG]")):
        if match := _NUMBERED.search(path.relative_to(folder).as_posix()):
            key = (match[1].lower(), int(match[2]))
            if key in photos:
                raise DataError(
                    f"{source} has two photos {key[0]}.{key[1]}: {photos[key]} and {path}. {_COPIES}"
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
        found = f"{len(missing):,} of the {len(needed):,} photos, {missing[0]} for one, are not in {source}"
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


def _write_sketches(folder: Path, source: Path | None, progress: Report | None) -> dict:
    from finetune.data.sketches import SKETCHES_VERSION, write_sketches

    write_sketches(folder, seed=0)
    return {"source": "drawn by finetune.data.sketches", "version": SKETCHES_VERSION, "seed": 0}


def _sketches_folder() -> str:
    from finetune.data.sketches import SKETCHES_VERSION

    return f"sketches-v{SKETCHES_VERSION}"


def _write_digits(folder: Path, source: Path | None, progress: Report | None) -> dict:
    import sklearn.datasets

    digits = sklearn.datasets.load_digits()
    for number, (grey, label) in enumerate(zip(digits.images, digits.target, strict=True)):
        target = folder / str(label)
        target.mkdir(exist_ok=True)
        # 0-16 to 0-255.
        Image.fromarray(np.round(grey * 255 / 16).astype(np.uint8)).save(
            target / f"digit.{number:04d}.png"
        )
    return {"source": "sklearn.datasets.load_digits", "scikit-learn": sklearn.__version__}


@dataclass(frozen=True)
class Named:
    """A named data set: its folder in the cache, what writes it, and whether it is built from a copy or a download."""

    folder: Callable[[], str]
    write: Callable[[Path, Path | None, Report | None], dict]
    from_copy: bool
    description: str


NAMES = {
    "cats-and-dogs-small": Named(
        lambda: "cats_and_dogs_small",
        _write_cats_and_dogs,
        True,
        "2,000/1,000/1,000 photos of Kaggle's Dogs vs. Cats (Asirra, Microsoft Research), cut as in Chollet's book",
    ),
    "sketches": Named(
        _sketches_folder,
        _write_sketches,
        False,
        "200/100/100 cats and dogs of 128 px, drawn by the package itself: needs no network",
    ),
    "digits": Named(
        lambda: "digits",
        _write_digits,
        False,
        "scikit-learn's 1,797 scans of handwritten digits of 8 px, ten classes: needs no network",
    ),
}
