"""A table of photos instead of class folders: a CSV or Parquet file with a row for each photo."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from finetune.data.class_folders import hash_files, listed
from finetune.data.dataset import Dataset, settle
from finetune.data.labelled import labelled
from finetune.data.photos import Photo, printable
from finetune.data.splits import SPLITS
from finetune.errors import DataError
from finetune.progress import count

_COLUMNS = ("file", "label", "split", "group", "weight")
_SPLIT_NAMES = {split: split for split in SPLITS} | {"val": "validation", "valid": "validation"}
_NEEDED = (
    "Needed: a row for each photo with the columns file (its path, relative to the table) and "
    "label, and, if wanted, split (train, validation or test for every row), group and weight."
)


def read_manifest(path: Path, min_per_class: int = 0) -> Dataset:
    """Read a table of photos, hash each file and settle its split.

    Args:
        path: .csv (UTF-8, with a head line) or .parquet. Columns: ``file``, relative to the
            table's folder; ``label``, the class; ``split``, drawn 60/20/20 where there is no such
            column; ``group``, photos that stay on one side; ``weight``, a positive number.
            Others are ignored.
        min_per_class: as for ``read_folder``.

    Raises:
        DataError: the table cannot be read, names files that are not there, or is no usable data
            set; the message lists what is wrong.
    """
    table = _read(path)
    classes = tuple(sorted(set(table["label"])))
    photos, problems = _photos(path, table, classes)
    if problems:
        raise DataError(f"{path} cannot be used as a data set: {'; '.join(problems)}. {_NEEDED}")
    needed = SPLITS if "split" in table else ("",)
    keys = [(split, name) for split in needed for name in classes]
    unsettled = Dataset(path.stem, path, classes, photos, {})  # the path as errors name it
    return replace(settle(unsettled, keys, min_per_class, [], _NEEDED), root=path.parent)


def read_labelled_manifest(path: Path, classes: Sequence[str], split: str | None) -> Dataset:
    """Read a table of photos to test a classifier on, as ``dataset.read_labelled`` does a folder.

    Args:
        path: as for ``read_manifest``; without a column ``split`` all rows are read.
        classes: the classifier's.
        split: one of ``SPLITS``, or ``all``; test if missing.
    """
    table = _read(path)
    if "split" in table and split != "all":
        wanted = table["split"].map(_split_of) == (split or "test")
        table = table[wanted]
    known = (*classes, *sorted({*table["label"]} - {*classes}))
    photos, problems = _photos(path, table, known)
    read = Dataset(path.stem, path, known, photos, {})
    return replace(labelled(read, classes, split, problems, _NEEDED), root=path.parent)


def _photos(
    path: Path, table: pd.DataFrame, classes: Sequence[str]
) -> tuple[tuple[Photo, ...], list[str]]:
    """The photos of the rows, in order, and what is wrong with them."""
    labels = table["label"].tolist()
    paths = [path.parent / file for file in table["file"]]
    digests = hash_files(paths)
    problems = _label_problems(labels) + _file_problems(table["file"].tolist(), paths, digests)
    splits = [""] * len(table)
    if "split" in table:
        splits = [_split_of(split) for split in table["split"]]
        if unknown := sorted(set(splits) - set(SPLITS)):
            names = listed([repr(split) for split in unknown], 5)
            problems.append(f"unknown splits: {names}; allowed: {', '.join(SPLITS)}")
    groups = table["group"].tolist() if "group" in table else [""] * len(table)
    weights = _weights(table, problems)
    label_of = {name: label for label, name in enumerate(classes)}
    photos = (
        Photo(place, printable(Path(file)), label_of[label], split, str(digest), group, weight)
        for place, file, label, split, digest, group, weight in zip(
            paths, table["file"], labels, splits, digests, groups, weights, strict=True
        )
    )
    return tuple(photos), problems


def _split_of(cell: str) -> str:
    return _SPLIT_NAMES.get(cell.strip().lower(), cell)


def _read(path: Path) -> pd.DataFrame:
    """The table's known columns as text, without missing cells."""
    try:
        if path.suffix.lower() == ".parquet":
            table = pd.read_parquet(path)
        else:
            table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except ImportError as error:
        raise DataError(
            f'{path} needs pyarrow to be read: `pip install "finetune-cut[parquet]"`, or give a '
            ".csv file."
        ) from error
    except (OSError, ValueError) as error:  # pandas's and pyarrow's errors are ValueErrors
        raise DataError(f"{path} cannot be read as a table: {error}. {_NEEDED}") from error
    if "file" not in table and "file_name" in table:  # as Hugging Face calls it
        table = table.rename(columns={"file_name": "file"})
    if missing := [name for name in ("file", "label") if name not in table]:
        raise DataError(
            f"{path} lacks the columns {' and '.join(missing)}; it has "
            f"{listed([str(name) for name in table.columns])}. {_NEEDED}"
        )
    table = table[[name for name in _COLUMNS if name in table]].astype(object)
    table = table.where(table.notna(), "").astype(str)
    if table.empty:
        raise DataError(f"{path} has no rows. {_NEEDED}")
    return table


def _label_problems(labels: list[str]) -> list[str]:
    """Empty labels, several in one cell, and labels typed in two ways."""
    problems = [f"{count(labels.count(''), 'row')} without a label"] if "" in labels else []
    several = sorted({label for label in labels if "|" in label})
    if several:
        problems.append(
            f"several labels for one photo ({listed(list(map(repr, several)), 5)}): a classifier "
            "here names one class for each photo, so give one label, without |"
        )
    ways: dict[str, set[str]] = {}
    for label in labels:
        ways.setdefault(" ".join(label.split()).casefold(), set()).add(label)
    twice = [" and ".join(map(repr, sorted(found))) for found in ways.values() if len(found) > 1]
    if twice:
        problems.append(f"labels typed in more than one way: {listed(twice, 5)}")
    return problems


def _file_problems(files: list[str], paths: list[Path], digests: list[str | OSError]) -> list[str]:
    problems = []
    unreadable = [
        f"{file!r} ({digest.strerror})"
        for file, digest in zip(files, digests, strict=True)
        if isinstance(digest, OSError)
    ]
    if unreadable:
        problems.append(f"files that cannot be read: {listed(unreadable, 5)}")
    twice = [repr(path.name) for path, n in Counter(paths).items() if n > 1]
    if twice:
        problems.append(f"files in more than one row: {listed(twice, 5)}")
    return problems


def _weights(table: pd.DataFrame, problems: list[str]) -> list[float]:
    if "weight" not in table:
        return [1.0] * len(table)
    numbers = pd.to_numeric(table["weight"], errors="coerce")
    wrong = table["weight"][~((numbers > 0) & (numbers < float("inf")))].tolist()
    if wrong:
        problems.append(
            f"weights that are no positive numbers: {listed(list(map(repr, wrong)), 5)}"
        )
    return numbers.tolist()
