"""The store of activations: content-addressed, verified, shared by all recipes that agree below the
cut.

    <cache>/activations/<key>/manifest.json   the fields that the key is made of, readable
                              <shard>.npy     rows of activations, (n, ...)
                              <shard>.json    the photo of each row, and the digests of both files

The key is a sha256 over the fields, and a row is named by the sha256 of a photo's bytes (and the
number of its view): never by a path or a time, so that a renamed or moved photo is found again and
an edited one is not. A shard exists from the moment its .json is there; before that it is
invisible. Needs neither Keras nor a recipe.
"""

import errno
import hashlib
import json
import os
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from finetune.activations.rows import Row, Rows
from finetune.data.photos import Pixels
from finetune.files import READ_ONLY, commit, commit_json, digest_of, sha256_of
from finetune.model.backbones import INPUT
from finetune.model.backbones import backbone as row_of
from finetune.model.preprocessing import Preprocessing

FORMAT_VERSION = 2


def entry_fields(
    backbone: str,
    weights: str,
    cut: str,
    precision: str,
    pixels: Pixels,
    preprocessing: Preprocessing | None = None,
) -> dict[str, Any]:
    """What the activations of a photo are a function of: the fields of a cache entry's key.

    Args:
        backbone: a name of ``known_backbones``.
        weights: digest of the backbone's weights; or their name, where only equality counts.
        cut: name of the cut; photos themselves depend on nothing but ``pixels``.
        precision: what the trunk computes in; an int8 trunk adds its digest.
        pixels: how photos are loaded.
        preprocessing: in front of the backbone; None is its own.
    """
    if cut == INPUT:
        return {"cut": INPUT, "pixels": pixels.fields()}
    preprocessing = preprocessing or row_of(backbone).preprocessing
    return {
        "backbone": backbone,
        "weights": weights,
        "cut": cut,
        "precision": precision,
        "preprocessing": {
            name: np.atleast_1d(value).tolist() for name, value in vars(preprocessing).items()
        },
        "pixels": pixels.fields(),
    }


def row_name(sha256: str, view: int = 0) -> str:
    """The name of a photo's row; view 0 is the photo itself."""
    return f"{sha256}#{view}" if view else sha256


class Store:
    """One cache entry: rows that agree in every field of the key.

    Args:
        root: the cache directory.
        fields: see ``entry_fields``.
        dtype: of the stored rows; part of the key.

    Attributes:
        damaged: files that failed their checksum; they were set aside, and their rows are missing.
        trunk_pass: digest of the fields without the cut: one pass of a photo fills the entries of
            several cuts.
    """

    def __init__(self, root: Path, fields: dict[str, Any], dtype: str):
        self.fields = {"format": FORMAT_VERSION, "dtype": dtype, **fields}
        self.dtype = np.dtype(dtype)
        self.key = hashlib.sha256(json.dumps(self.fields, sort_keys=True).encode()).hexdigest()
        self.trunk_pass = digest_of({k: v for k, v in self.fields.items() if k != "cut"})
        self.folder = root / "activations" / self.key[:32]
        self.damaged: list[Path] = []
        self._rows: dict[str, Row] = {}
        self._known: set[Path] = set()
        self.refresh()

    def __len__(self) -> int:
        return len(self._rows)

    def refresh(self) -> None:
        """Take note of shards that other processes have committed."""
        for path in sorted(set(self.folder.glob("shard-*.json")) - self._known):
            content = read_shard(path)
            if content is None:
                self._set_aside(path.with_suffix(".npy"))
            else:
                self._take(path, content)

    def _take(self, path: Path, content: dict[str, Any]) -> None:
        each = content["seconds"] / max(1, len(content["rows"]))
        self._known.add(path)
        for index, name in enumerate(content["rows"]):
            self._rows.setdefault(name, Row(path.with_suffix(".npy"), index, each))

    def missing(self, names: Sequence[str]) -> list[str]:
        """The names, in order and once each, that have no row; damaged shards do not count."""
        for shard in {self._rows[name].shard for name in names if name in self._rows}:
            if not _verified(shard):
                self._set_aside(shard)
        return [name for name in dict.fromkeys(names) if name not in self._rows]

    def _set_aside(self, shard: Path) -> None:
        self.damaged.append(shard)
        self._known.add(shard.with_suffix(".json"))
        try:
            set_aside(shard)
        except OSError as error:  # another process was first, or the cache may only be read
            if error.errno not in (errno.ENOENT, *READ_ONLY):
                raise
        self._rows = {name: row for name, row in self._rows.items() if row.shard != shard}

    def add(self, names: Sequence[str], rows: np.ndarray, seconds: float = 0.0) -> None:
        """Commit rows as one shard.

        Args:
            names: one name for each row.
            rows: (n, ...) of the store's dtype.
            seconds: what it took to compute them; a comparison tells costs long afterwards.

        Raises:
            BusyError: the disk is full.
        """
        if len(names) != len(rows) or rows.dtype != self.dtype:
            raise ValueError(
                f"{len(names)} names for {len(rows)} rows of {rows.dtype}; "
                f"the store holds {self.dtype}"
            )
        self._describe(rows.shape[1:])
        shard = self.folder / f"shard-{uuid.uuid4().hex}.npy"
        commit(shard, lambda file: _write_array(file, rows), rows.nbytes)
        content = {
            "sha256": sha256_of(shard),
            "shape": list(rows.shape),
            "seconds": round(seconds, 3),
            "rows": list(names),
        }
        self._show(shard, content)

    def adopt(self, content: dict[str, Any], rows: bytes) -> None:
        """Commit a shard that another store has.

        Args:
            content: what its .json says, see ``parse_shard``.
            rows: its .npy file, of the sha256 in ``content``.

        Raises:
            BusyError: the disk is full.
        """
        self._describe(content["shape"][1:])
        shard = self.folder / f"shard-{digest_of(content)[:32]}.npy"
        commit(shard, lambda file: file.write(rows), len(rows))
        self._show(shard, content)

    def _describe(self, shape: Sequence[int]) -> None:
        """Write the entry's manifest, if it is not there."""
        manifest = self.folder / "manifest.json"
        if read_manifest(manifest) is None:
            commit_json(manifest, {"key": self.key, "fields": self.fields, "shape": list(shape)})

    def _show(self, shard: Path, content: dict[str, Any]) -> None:
        """Make a shard visible."""
        commit_json(shard.with_suffix(".json"), {**content, "digest": digest_of(content)})
        self._take(shard.with_suffix(".json"), content)

    def shards(self, names: Sequence[str]) -> list[Path]:
        """The .npy files that hold rows of these names, as far as there are any."""
        return sorted({self._rows[name].shard for name in names if name in self._rows})

    def rows(self, names: Sequence[str]) -> Rows:
        """Rows in the given order, which marks the entry as used; KeyError names a missing one."""
        rows = Rows([self._rows[name] for name in names])
        _mark_used(self.folder / "manifest.json")
        return rows


def _write_array(file: BinaryIO, rows: np.ndarray) -> None:
    """What ``np.save`` writes; its ``tofile`` would lose the error number of a full disk."""
    rows = np.ascontiguousarray(rows)
    np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(rows))
    file.write(rows.reshape(-1).view(np.uint8).data)


_VERIFIED: set[tuple[Path, int, int]] = set()  # shards that this process has hashed, as they were


def _verified(shard: Path) -> bool:
    """Whether a shard is intact, hashed once per process unless the file has changed since."""
    if not shard.exists():
        return False
    status = shard.stat()
    stamp = (shard, status.st_mtime_ns, status.st_size)
    if stamp not in _VERIFIED and intact(shard):
        _VERIFIED.add(stamp)
    return stamp in _VERIFIED


def read_shard(path: Path) -> dict[str, Any] | None:
    """What a shard's .json says: sha256, shape, seconds, rows; None if it is damaged or gone.

    Raises:
        OSError: it cannot be read now, and what it says is not known.
    """
    try:
        return parse_shard(path.read_bytes())
    except FileNotFoundError:
        return None


def parse_shard(text: bytes) -> dict[str, Any] | None:
    """What the text of a shard's .json says, see ``read_shard``."""
    content = _parse(text)
    if content is None:
        return None
    body = {name: value for name, value in content.items() if name != "digest"}
    return body if content.get("digest") == digest_of(body) else None


def read_manifest(path: Path) -> dict[str, Any] | None:
    """What a manifest says: key, fields, shape; None if it is missing or damaged."""
    content = _read_json(path)
    if content is None or not isinstance(content.get("fields"), dict):
        return None
    key = hashlib.sha256(json.dumps(content["fields"], sort_keys=True).encode()).hexdigest()
    return content if content.get("key") == key and "shape" in content else None


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        return _parse(path.read_bytes())
    except OSError:
        return None


def _parse(text: bytes) -> dict[str, Any] | None:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


def intact(shard: Path) -> bool:
    """Whether a shard has the sha256 that its .json recorded, and its .json is whole."""
    content = read_shard(shard.with_suffix(".json"))
    try:
        return content is not None and sha256_of(shard) == content["sha256"]
    except FileNotFoundError:
        return False


def set_aside(shard: Path) -> None:
    """Take a damaged shard out of use: without its .json it is invisible."""
    shard.with_suffix(".json").rename(shard.with_suffix(".damaged"))


def _mark_used(manifest: Path) -> None:
    """Date an entry's last use, by which `finetune cache gc` goes, unless it may only be read."""
    try:
        os.utime(manifest)
    except FileNotFoundError:  # damaged and set aside: the next rows that are stored write it anew
        return
    except OSError as error:
        if error.errno not in READ_ONLY:
            raise
