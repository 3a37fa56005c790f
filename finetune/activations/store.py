"""The store of activations: content-addressed, verified, shared by every recipe that agrees on what lies below the cut.

    <cache>/activations/<key>/manifest.json         the fields that the key is made of, readable
                              <shard>.npy           rows of activations, (n, ...)
                              <shard>.json          which photo each row belongs to, and the sha256 of the .npy file

The key is a sha256 over the fields, and a row is named by the sha256 of a photo's bytes (and the number of its view):
never by a path or a time, so that a renamed or moved photo is found again and an edited one is not. A shard exists from
the moment its .json is there; everything before that is invisible.
"""

import errno
import hashlib
import json
import os
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from finetune.files import commit, commit_json

FORMAT_VERSION = 1


def row_name(sha256: str, view: int = 0) -> str:
    """The name of a photo's row; view 0 is the photo itself."""
    return f"{sha256}#{view}" if view else sha256


@dataclass(frozen=True)
class _Row:
    shard: Path
    index: int
    seconds: float


class Store:
    """One shelf of the store: rows that agree in every field of the key.

    Args:
        root: the cache directory.
        fields: JSON values that the activations are a function of, beside the photo itself.
        dtype: of the stored rows; part of the key.
    """

    def __init__(self, root: Path, fields: dict[str, Any], dtype: str):
        self.fields = {"format": FORMAT_VERSION, "dtype": dtype, **fields}
        self.dtype = np.dtype(dtype)
        self.key = hashlib.sha256(json.dumps(self.fields, sort_keys=True).encode()).hexdigest()
        self.folder = root / "activations" / self.key[:32]
        self.damaged: list[Path] = []
        self._rows: dict[str, _Row] = {}
        self._read_index()

    def _read_index(self) -> None:
        for manifest in sorted(self.folder.glob("shard-*.json")):
            self._take(manifest, json.loads(manifest.read_text()))

    def _take(self, manifest: Path, content: dict[str, Any]) -> None:
        each = content["seconds"] / max(1, len(content["rows"]))
        for index, name in enumerate(content["rows"]):
            self._rows.setdefault(name, _Row(manifest.with_suffix(".npy"), index, each))

    def missing(self, names: Sequence[str]) -> list[str]:
        """The names, in order and once each, that have no row yet; shards that fail their checksum do not count."""
        for shard in {self._rows[name].shard for name in names if name in self._rows}:
            self._check(shard)
        return [name for name in dict.fromkeys(names) if name not in self._rows]

    def _check(self, shard: Path) -> None:
        """Compare a shard with its sha256 once per process; a damaged one is set aside, its rows are computed again."""
        if not _verified(shard):
            self.damaged.append(shard)
            set_aside(shard)
            self._rows = {name: row for name, row in self._rows.items() if row.shard != shard}

    def add(self, names: Sequence[str], rows: np.ndarray, seconds: float = 0.0) -> None:
        """Commit rows as one shard.

        Args:
            names: one name for each row.
            rows: (n, ...) of the store's dtype.
            seconds: what it took to compute them; remembered, so that a cost can be told long afterwards.
        """
        if len(names) != len(rows) or rows.dtype != self.dtype:
            raise ValueError(
                f"{len(names)} names for {len(rows)} rows of {rows.dtype}; the store holds {self.dtype}"
            )
        if not (self.folder / "manifest.json").exists():
            commit_json(
                self.folder / "manifest.json",
                {"key": self.key, "fields": self.fields, "shape": rows.shape[1:]},
            )
        shard = self.folder / f"shard-{uuid.uuid4().hex}.npy"
        commit(shard, lambda file: np.save(file, rows, allow_pickle=False))
        content = {"sha256": _sha256(shard), "seconds": round(seconds, 3), "rows": list(names)}
        commit_json(shard.with_suffix(".json"), content)
        self._take(shard.with_suffix(".json"), content)

    def rows(self, names: Sequence[str]) -> "Rows":
        """A view of rows in the given order, which marks the shelf as used; raises KeyError for a name that is missing."""
        rows = Rows([self._rows[name] for name in names])
        _mark_used(self.folder / "manifest.json")
        return rows


class Rows:
    """Stored rows in an order of one's own, read from disk as they are asked for.

    Rows are read with plain reads and not through a memory map, whose touched pages would count as resident memory.
    """

    def __init__(self, rows: Sequence[_Row]):
        self._rows = rows
        shards = sorted({row.shard for row in rows})
        # np.load parses the header (and refuses pickles); the map itself is dropped again.
        headers = {shard: np.load(shard, mmap_mode="r", allow_pickle=False) for shard in shards}
        self._files = {shard: shard.open("rb", buffering=0) for shard in shards}
        self._offsets = {shard: header.offset for shard, header in headers.items()}
        first = headers[shards[0]]
        self.dtype, self.shape = first.dtype, (len(rows), *first.shape[1:])
        self.nbytes = int(np.prod(self.shape)) * self.dtype.itemsize
        self.seconds = sum(
            row.seconds for row in rows
        )  # what computing them took, whenever that was

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """Rows by index, (len(indices), ...)."""
        out = np.empty((len(indices), *self.shape[1:]), self.dtype)
        for target, index in zip(out, indices, strict=True):
            row = self._rows[index]
            file = self._files[row.shard]
            file.seek(self._offsets[row.shard] + row.index * target.nbytes)
            if file.readinto(memoryview(target).cast("B")) != target.nbytes:
                raise OSError(f"{row.shard} is shorter than when it was checked")
        return out

    def batches(self, size: int) -> Iterator[np.ndarray]:
        """All rows in order, ``size`` at a time; the last batch may be smaller."""
        for start in range(0, len(self), size):
            yield self[range(start, min(start + size, len(self)))]


_VERIFIED: set[tuple[Path, int, int]] = (
    set()
)  # shards of this process that had their sha256, as they were then


def _verified(shard: Path) -> bool:
    """Whether a shard is intact, hashed once per process unless the file has changed since."""
    if not shard.exists():
        return False
    stamp = (shard, shard.stat().st_mtime_ns, shard.stat().st_size)
    if stamp not in _VERIFIED and intact(shard):
        _VERIFIED.add(stamp)
    return stamp in _VERIFIED


def intact(shard: Path) -> bool:
    """Whether a shard has the sha256 that its .json recorded; not if either file cannot be made sense of."""
    try:
        expected = json.loads(shard.with_suffix(".json").read_text())["sha256"]
    except (ValueError, KeyError, TypeError):
        return False
    return shard.exists() and _sha256(shard) == expected


def set_aside(shard: Path) -> None:
    """Take a damaged shard out of use: without its .json it is invisible."""
    shard.with_suffix(".json").rename(shard.with_suffix(".damaged"))


def _mark_used(manifest: Path) -> None:
    """Date a shelf's last use, by which `finetune cache gc` goes; a cache that may only be read stays as it is."""
    try:
        os.utime(manifest)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def shelves(root: Path) -> list[dict[str, Any]]:
    """What the store holds: one row per shelf with its fields, its number of rows, bytes and folder."""
    found = []
    for manifest in sorted((root / "activations").glob("*/manifest.json")):
        folder = manifest.parent
        rows = sum(
            len(json.loads(path.read_text())["rows"]) for path in folder.glob("shard-*.json")
        )
        size = sum(path.stat().st_size for path in folder.iterdir())
        found.append(
            {**json.loads(manifest.read_text()), "rows": rows, "bytes": size, "folder": str(folder)}
        )
    return found


def nearest_difference(root: Path, store: Store) -> dict[str, tuple[Any, Any]]:
    """Why a shelf is empty: the fields in which the most similar shelf differs.

    Args:
        root: the cache directory.
        store: the shelf that was looked for.

    Returns:
        Field -> (stored, wanted), JSON values; of a field that is a table only what differs in it. Empty if the shelf
        holds rows, or if there is no other.
    """
    wanted = json.loads(json.dumps(store.fields))  # tuples as the lists that they are in a manifest
    others = [
        shelf["fields"] for shelf in shelves(root) if shelf["key"] != store.key and shelf["rows"]
    ]
    return (
        {}
        if store._rows
        else min((_difference(fields, wanted) for fields in others), key=len, default={})
    )


def _difference(stored: dict[str, Any], wanted: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    found = {}
    for name in (name for name in stored | wanted if stored.get(name) != wanted.get(name)):
        old, new = stored.get(name), wanted.get(name)
        if isinstance(old, dict) and isinstance(new, dict):
            inner = _difference(old, new)
            old, new = ({key: pair[side] for key, pair in inner.items()} for side in (0, 1))
        found[name] = (old, new)
    return found
