"""Tables that hold the bytes of photos -> files and a table of them in the cache, made once."""

import csv
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import filelock

from finetune.data.photos import MAX_BYTES, SUFFIXES
from finetune.data.splits import SPLITS
from finetune.disk import need_space
from finetune.errors import BusyError, DataError, need
from finetune.files import cache_dir, commit_folder
from finetune.progress import count

TABLE = "photos.csv"
_LOCK_SECONDS = 600
_ROWS = 8  # photos that are held at once; a few bytes of Parquet may stand for very many
# A data set may take this many bytes, and this many times the bytes of its tables: photos are
# compressed, so that tables hardly compress them any further.
_SPARE = 2**30
_GROWTH = 20
_BLOCK = 4096  # bytes that the smallest file takes
_NEEDED = "Needed: one column of images with their bytes, and one of class labels."


@dataclass(frozen=True)
class _Row:
    """A photo that was unpacked: its file, class, split, and the sha256 of its bytes."""

    file: str
    label: str
    split: str
    sha256: str


def unpacked(source: str, key: str, files: Sequence[tuple[str, Path]]) -> Path:
    """The table in the cache, made under a lock if it is not there."""
    folder = cache_dir() / "data" / f"hf-{key[:32]}"
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        try:
            with filelock.FileLock(folder.with_name(f".{folder.name}.lock"), _LOCK_SECONDS):
                if not folder.is_dir():
                    need_space(folder, sum(path.stat().st_size for _, path in files))
                    commit_folder(folder, lambda new: _write(source, files, new))
        except filelock.Timeout as error:
            raise BusyError(
                f"Another process has been unpacking {source} for {_LOCK_SECONDS} s. Try again "
                "later."
            ) from error
    return folder / TABLE


def _write(source: str, files: Sequence[tuple[str, Path]], new: Path) -> None:
    tables = sum(path.stat().st_size for _, path in files)
    most = _SPARE + _GROWTH * tables
    rows: list[_Row] = []
    written = 0
    for row in (row for split, path in files for row in _photos(source, split, path, new)):
        written += max(_BLOCK, (new / row.file).stat().st_size)
        if written > most:
            raise DataError(
                f"{source} unpacks to more than {most:,} bytes of photos; no more are allowed for "
                f"{tables:,} bytes of tables. Unpack it yourself, and give its folder."
            )
        rows.append(row)
    if not rows:
        raise DataError(f"{source} holds no labelled photos. {_NEEDED}")
    rows = _settled(rows)
    splits = {row.split for row in rows}
    with (new / TABLE).open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["file", "label", *(["split"] if len(splits) > 1 else [])])
        for row in rows:
            split = [row.split] if len(splits) > 1 else []
            writer.writerow([row.file, row.label, *split])


def _photos(source: str, split: str, path: Path, new: Path) -> Iterator[_Row]:
    """Write the photos of one table; those without a label (-1, as hidden ones have) are left."""
    schema, read = _opened(path)
    image, label, names = _columns(source, schema)
    (new / split).mkdir(exist_ok=True)
    number = len(list((new / split).iterdir()))
    for batch in read([image, label]):
        cells = zip(batch.column(image).to_pylist(), batch.column(label).to_pylist(), strict=True)
        for photo, value in cells:
            if value in (None, -1):
                continue
            name = _class_of(source, value, names)
            content = _content(source, photo or {})
            suffix = Path(photo.get("path") or "").suffix.lower()
            file = f"{split}/{number:07d}{suffix if suffix in SUFFIXES else '.png'}"
            (new / file).write_bytes(content)
            number += 1
            yield _Row(file, name, split, hashlib.sha256(content).hexdigest())


def _content(source: str, photo: Mapping[str, Any]) -> bytes:
    content = photo.get("bytes")
    if not content:
        raise DataError(f"{source} names photos without holding them. {_NEEDED}")
    if len(content) > MAX_BYTES:
        raise DataError(
            f"{source} holds a photo of {len(content):,} bytes; allowed are {MAX_BYTES:,}. Unpack "
            "it yourself, and give its folder."
        )
    return content


def _class_of(source: str, value: Any, names: Sequence[str]) -> str:
    if names and not (isinstance(value, int) and 0 <= value < len(names)):
        there = count(len(names), "class")
        raise DataError(f"{source} has a label {value!r:.100}, and {there}. {_NEEDED}")
    return names[value] if names else str(value)


def _opened(path: Path) -> tuple[Any, Callable[[list[str]], Iterator[Any]]]:
    """The schema of an Arrow stream or a Parquet file, and what reads record batches of columns."""
    pa = need("pyarrow", "hf")
    pq = need("pyarrow.parquet", "hf")
    with _readable(path):
        if path.suffix == ".parquet":
            table = pq.ParquetFile(path)
            return table.schema_arrow, lambda columns: _each(
                path, table.iter_batches(batch_size=_ROWS, columns=columns)
            )
        reader = pa.ipc.open_stream(pa.memory_map(str(path)))
        return reader.schema, lambda columns: _each(path, reader)


def _each(path: Path, batches: Iterable[Any]) -> Iterator[Any]:
    with _readable(path):
        yield from batches


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:  # pyarrow's errors are ValueErrors
        raise DataError(f"{path} cannot be read: {error}. Fetch or save it again.") from error


def _columns(source: str, schema: Any) -> tuple[str, str, list[str]]:
    """The columns of images and of labels, and the class names, by the features that they have."""
    features = _features(schema)
    kinds = {name: row.get("_type") for name, row in features.items() if isinstance(row, dict)}
    images = [name for name, kind in kinds.items() if kind == "Image" and _holds(schema, name)]
    labels = [name for name, kind in kinds.items() if kind == "ClassLabel" and name in schema.names]
    if len(images) != 1 or len(labels) != 1:
        found = ", ".join(f"{name} ({kind})" for name, kind in kinds.items()) or "none of a type"
        raise DataError(f"{source} has the columns {found}. {_NEEDED}")
    return images[0], labels[0], features[labels[0]].get("names") or []


def _features(schema: Any) -> dict[str, Any]:
    """What `datasets` wrote of each column; nothing where it is not there, or damaged."""
    try:
        features = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
    except (ValueError, LookupError, TypeError, RecursionError):
        return {}
    return features if isinstance(features, dict) else {}


def _holds(schema: Any, name: str) -> bool:
    """Whether a column holds the bytes of photos."""
    kind = schema.field(name).type if name in schema.names else None
    return "bytes" in [field.name for field in getattr(kind, "fields", [])]


def _settled(rows: list[_Row]) -> list[_Row]:
    """Where train and one other split are there, a fifth of train becomes the third one."""
    missing = set(SPLITS) - {row.split for row in rows}
    if len(missing) != 1 or "train" in missing:
        return rows
    (split,) = missing
    contents: dict[str, set[str]] = {}
    for row in rows:
        if row.split == "train":
            contents.setdefault(row.label, set()).add(row.sha256)
    taken = {sha for found in contents.values() for sha in sorted(found)[: max(1, len(found) // 5)]}
    return [
        replace(row, split=split) if row.split == "train" and row.sha256 in taken else row
        for row in rows
    ]
