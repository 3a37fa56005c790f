"""Named data sets: where they are found, and how they are built when they are not there."""

import difflib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import filelock
import numpy as np
from PIL import Image

from finetune.data import hugging_face
from finetune.data.cats_and_dogs import write_cats_and_dogs, write_cats_and_dogs_small
from finetune.data.clothing import write_clothing
from finetune.data.dataset import Dataset, read_folder
from finetune.data.download import Report
from finetune.data.groups import groups
from finetune.data.labelled import read_labelled
from finetune.data.mnist import FILE as MNIST_FILE
from finetune.data.mnist import write_mnist
from finetune.disk import FULL
from finetune.errors import BusyError, DataError, UsageError
from finetune.files import cache_dir as cache_dir  # until all callers take it from there
from finetune.files import commit_folder, expanded, sha256_of

MANIFESTS = (".csv", ".parquet")
LOCK_SECONDS = 600  # how long to wait for another process that builds the same data set


def resolve(data: str, min_per_class: int = 0) -> Dataset:
    """Read the data set of a name of ``NAMES`` (built first if it is nowhere), or of a path.

    Args:
        data: the name, a folder as ``read_folder`` takes it, or a table as ``read_manifest`` does.
        min_per_class: as for ``read_folder``.

    Raises:
        DataError: it is none of these, or no usable data set.
    """
    if data in NAMES:
        return read_folder(locate(data), data, min_per_class)
    path = hugging_face.table_of(data)
    if _is_manifest(path):
        from finetune.data.manifest import read_manifest  # pandas: few data sets need it

        return _named(read_manifest(path, min_per_class), data, path)
    if path.exists():
        return read_folder(path, min_per_class=min_per_class)
    # a recipe's data is an absolute path by now: its folder must not count
    close = difflib.get_close_matches(path.name.lower().replace("_", "-"), NAMES, n=1)
    hint = f" (did you mean {close[0]}?)" if close else ""
    raise DataError(
        f"{data!r} is neither a folder nor the name of a data set{hint}. Give the path of a folder "
        "with class folders of photos, of a table of photos (.csv, .parquet), or one of these "
        f"names: {', '.join(NAMES)}."
    )


def resolve_labelled(data: str, classes: Sequence[str], split: str | None = None) -> Dataset:
    """Read photos to test a classifier on: a name or a path as for ``resolve``.

    Raises:
        UsageError, DataError: see ``read_labelled``.
    """
    path = hugging_face.table_of(data)
    if _is_manifest(path):
        from finetune.data.manifest import read_labelled_manifest

        return _named(read_labelled_manifest(path, classes, split), data, path)
    if data in NAMES:
        return read_labelled(locate(data), classes, split, data)
    # What is no folder is refused by `resolve`, which knows the names that there are.
    return read_labelled(path if path.exists() else resolve(data).root, classes, split)


def _named(dataset: Dataset, data: str, table: Path) -> Dataset:
    """The data set called as it was given, and not as the table that was found for it."""
    is_given = table == expanded(data)
    return dataset if is_given else replace(dataset, name=Path(data).name)


def _is_manifest(path: Path) -> bool:
    return path.is_file() and path.suffix.lower() in MANIFESTS


def read_dataset(data: str, min_per_class: int = 0, rule: str | None = None) -> Dataset:
    """Read a data set as a recipe asks for it, see ``resolve``, ``read_folder`` and ``groups``."""
    dataset = resolve(data, min_per_class)
    return groups(dataset, rule) if rule else dataset


def locate(name: str) -> Path:
    """Folder of a named data set: in ``FINETUNE_DATA_DIR``, else in the cache, built if missing.

    Of mnist, ``FINETUNE_DATA_DIR`` may hold the file mnist.npz instead.

    Raises:
        DataError: ``FINETUNE_DATA_DIR`` is no folder, or the set cannot be built.
    """
    copies = os.environ.get("FINETUNE_DATA_DIR")
    if copies and not Path(copies).is_dir():
        raise DataError(
            f"FINETUNE_DATA_DIR is {copies!r}, which is no folder. Correct the variable or unset "
            "it."
        )
    local = Path(copies, name.replace("-", "_")) if copies else None
    if local and local.is_dir():
        return local
    file = Path(copies, NAMES[name].file) if copies and NAMES[name].file else None
    return _from_file(name, file) if file and file.is_file() else build(name)


def _from_file(name: str, file: Path) -> Path:
    """A set that is built from one file, again only where the file is another one."""
    record = cache_dir() / "data" / NAMES[name].folder() / "source.json"
    is_same = record.is_file() and json.loads(record.read_text(encoding="utf-8")).get(
        "sha256"
    ) == sha256_of(file)
    return record.parent if is_same else build(name, file)


def need_here(data: str) -> None:
    """Refuse what would download a named data set: of a dry run.

    Raises:
        DataError: the set is neither in ``FINETUNE_DATA_DIR`` nor in the cache.
    """
    if data.startswith(hugging_face.PREFIX):
        hugging_face.hub_files(data, only_here=True)
    if data not in NAMES or not NAMES[data].from_copy:
        return  # the package makes it itself
    copies = os.environ.get("FINETUNE_DATA_DIR")
    places = [Path(copies, data.replace("-", "_"))] if copies else []
    places += [cache_dir() / "data" / NAMES[data].folder()]
    places += [Path(copies, NAMES[data].file)] if copies and NAMES[data].file else []
    if not any(place.exists() for place in places):
        raise DataError(
            f"{data} is not on this machine, and a dry run downloads nothing. `finetune data "
            f"{data}` fetches or builds it; or give other photos with --data."
        )


def build(name: str, source: Path | None = None, progress: Report | None = None) -> Path:
    """Build a named data set in the cache, with a ``source.json`` that says where it comes from.

    It is built in a hidden folder and then renamed, under a lock: another process sees all of it or
    nothing, and an
    interrupted build leaves nothing behind but the part of a download that the next one goes on
    from.

    Args:
        name: one of ``NAMES``.
        source: a local copy to build from; a set that is in the cache already is then replaced,
        otherwise kept.
        progress: called with (bytes, bytes in all) while downloading; a bar on a terminal's stderr
        if missing.

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
            f"{name} is made by the package itself and takes no local copy: "
            f"leave out --from {source}."
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
                commit_folder(
                    folder, lambda new: _write_recorded(new, named.write(new, source, progress))
                )
    except filelock.Timeout as error:
        raise BusyError(
            f"Another process has been building {folder} for {LOCK_SECONDS} s. Try again later."
        ) from error
    except OSError as error:
        if error.errno in FULL:
            raise BusyError(
                f"No room on the disk for {name} in {folder}. Make room or set FINETUNE_CACHE."
            ) from error
        raise DataError(
            f"{name} cannot be built in {folder}: {error}. FINETUNE_CACHE names another cache."
        ) from error
    return folder


def _write_recorded(folder: Path, record: dict) -> None:
    (folder / "source.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


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
class NamedDataset:
    """A named data set: its folder in the cache, what writes it, whether a copy can be given."""

    folder: Callable[[], str]
    write: Callable[[Path, Path | None, Report | None], dict]
    from_copy: bool
    description: str
    file: str = ""  # in FINETUNE_DATA_DIR, where the set has one


NAMES = {
    "cats-and-dogs-small": NamedDataset(
        lambda: "cats_and_dogs_small",
        write_cats_and_dogs_small,
        True,
        "2,000/1,000/1,000 photos of Kaggle's Dogs vs. Cats (Asirra, Microsoft Research), "
        "cut as in Chollet's book",
    ),
    "cats-and-dogs": NamedDataset(
        lambda: "cats_and_dogs",
        write_cats_and_dogs,
        True,
        "all of them: 17,000/4,000/4,000 of Kaggle's 25,000, split by content",
    ),
    "clothing-small": NamedDataset(
        lambda: "clothing_small",
        write_clothing,
        True,
        "3,068/341/372 photos of ten kinds of clothes (CC0), 7:1 imbalance; from a local copy",
    ),
    "sketches": NamedDataset(
        _sketches_folder,
        _write_sketches,
        False,
        "200/100/100 cats and dogs of 128 px, drawn by the package itself: needs no network",
    ),
    "digits": NamedDataset(
        lambda: "digits",
        _write_digits,
        False,
        "scikit-learn's 1,797 scans of handwritten digits of 8 px, ten classes: needs no network",
    ),
    "mnist": NamedDataset(
        lambda: "mnist",
        write_mnist,
        True,
        "about 55,000/5,000/10,000 scans of handwritten digits of 28 px, from Keras's mnist.npz",
        MNIST_FILE,
    ),
}
