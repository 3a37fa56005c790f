"""Maintenance of the store: every shard hashed again, and what nobody needs any more removed."""

import os
import re
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from finetune.activations.store import intact, read_manifest, set_aside
from finetune.errors import IntegrityError
from finetune.files import LOCK
from finetune.model import ir

DAY = 86_400.0  # seconds
HOUR = 3_600.0  # what is younger may be another process's work
_ENTRY = re.compile(r"[0-9a-f]{32}")  # nothing else in the cache is ever looked at

Files = Mapping[Path, os.stat_result]


def shards(root: Path) -> list[Path]:
    """The .npy files of all shards in the store of a cache directory, sorted; one may be missing
    beside its .json.
    """
    manifests = [
        manifest for folder in _folders(root) for manifest in sorted(folder.glob("shard-*.json"))
    ]
    return [manifest.with_suffix(".npy") for manifest in manifests]


def verify(root: Path, advance: Callable[[int], object] = lambda shards: None) -> dict[str, Any]:
    """Hash every shard again and set damaged files aside, so that their rows are computed anew.

    Args:
        root: the cache directory.
        advance: is given 1 for each shard that was hashed.

    Returns:
        JSON values: shards, networks and bytes (hashed), damaged (files; folders of networks),
        orphans and orphan_bytes (files of writes that were interrupted, or are under way), ok.

    Raises:
        IntegrityError: a damaged file cannot be set aside.
    """
    found = shards(root)
    damaged = []
    size = 0
    for shard in found:
        if not intact(shard) and shard.with_suffix(".json").exists():  # else removed meanwhile
            damaged.append(shard)
        size += shard.stat().st_size if shard.exists() else 0
        advance(1)
    manifests = [folder / "manifest.json" for folder in _folders(root)]
    broken = [path for path in manifests if path.exists() and read_manifest(path) is None]
    networks = ir.artefacts(root)
    unsound = [network for network in networks if not ir.intact(network)]
    size += sum(network.size for network in networks)
    try:
        for path in damaged + broken:
            with suppress(FileNotFoundError):  # another process was first
                set_aside(path)
        for network in unsound:
            ir.set_aside(network)
            broken.append(network.folder)
    except OSError as error:
        raise IntegrityError(
            f"{', '.join(map(str, damaged + broken))}: damaged, and cannot be set aside "
            f"({error.strerror}). Make the cache writable, or set FINETUNE_CACHE to another folder."
        ) from error
    orphans = [status.st_size for status in _orphans(root)]
    orphans += [path.stat().st_size for path in ir.leftovers(root)]
    return {
        "shards": len(found),
        "networks": len(networks),
        "bytes": size,
        "damaged": [str(path) for path in damaged + broken],
        "orphans": len(orphans),
        "orphan_bytes": sum(orphans),
        "ok": not damaged + broken,
    }


def collect(root: Path, days: float = 30.0, dry_run: bool = False) -> list[dict[str, Any]]:
    """Remove old orphans, files that were set aside, and cache entries not used for long.

    An entry is used when its rows are read (``Store.rows`` marks it) or written. One that was used
    within the last hour is never removed, however small ``days`` is, nor is a younger orphan.

    Args:
        root: the cache directory.
        days: entries that were not used for so many days go.
        dry_run: remove nothing.

    Returns:
        What was removed, or would be: kind (``entry``, ``network``, ``orphan``, ``damaged``), path,
        bytes, days (since its last use).
    """
    removed = []
    for folder in _folders(root):
        files = _files(folder)
        age = {file: time.time() - status.st_mtime for file, status in files.items()}
        unused = min(age.values(), default=time.time() - folder.stat().st_mtime)
        if unused > max(days * DAY, HOUR):
            size = sum(status.st_size for status in files.values())
            removed.append(_item("entry", folder, size, unused))
            doomed = list(files)
        else:
            left = {
                file: kind
                for file, kind in _left(files).items()
                if kind == "damaged" or age[file] > HOUR
            }
            removed += [
                _item(kind, file, files[file].st_size, age[file]) for file, kind in left.items()
            ]
            doomed = list(left)
        if not dry_run:
            _remove(folder, doomed)
    return removed + _networks(root, days, dry_run)


def _networks(root: Path, days: float, dry_run: bool) -> list[dict[str, Any]]:
    """The kept networks that are not used any more, and what interrupted writes left of others."""
    found = {network.folder: network.size for network in ir.artefacts(root)}
    age = {folder: _age(folder / "manifest.json") for folder in found}
    unused = [folder for folder in found if age[folder] > max(days * DAY, HOUR)]
    removed = [_item("network", folder, found[folder], age[folder]) for folder in unused]
    left = [file for file in ir.leftovers(root) if _age(file) > HOUR]
    removed += [_item("orphan", file, file.stat().st_size, _age(file)) for file in left]
    doomed = [(folder / name) for folder in unused for name in _names(folder)]
    files = [] if dry_run else [*doomed, *left]
    for file in files:
        file.unlink(missing_ok=True)
    for folder in {file.parent for file in files}:
        if {path.name for path in folder.iterdir()} <= {LOCK}:
            shutil.rmtree(folder)
    return removed


def _names(folder: Path) -> list[str]:
    """The files of a network, the manifest that makes them visible first."""
    return sorted((file.name for file in folder.iterdir()), key=lambda name: name[-5:] != ".json")


def _age(file: Path) -> float:
    return time.time() - file.stat().st_mtime


def _folders(root: Path) -> list[Path]:
    return sorted(
        path
        for path in (root / "activations").glob("*")
        if _ENTRY.fullmatch(path.name) and path.is_dir()
    )


def _files(folder: Path) -> Files:
    """The files of a cache entry at one moment, sorted."""
    found = {}
    for file in sorted(folder.iterdir()):
        with suppress(FileNotFoundError):  # another process has just named its temporary file
            found[file] = file.stat()
    return found


def _left(files: Files) -> dict[Path, str]:
    """What of an entry's files is of no use: ``orphan`` (an interrupted write) or ``damaged`` (set
    aside).
    """
    found = {}
    for file in files:
        alone = file.suffix == ".npy" and file.with_suffix(".json") not in files
        if file.suffix == ".damaged" or (alone and file.with_suffix(".damaged") in files):
            found[file] = "damaged"
        elif file.suffix == ".tmp" or alone:
            found[file] = "orphan"
    return found


def _orphans(root: Path) -> list[os.stat_result]:
    snapshots = [_files(folder) for folder in _folders(root)]
    return [
        files[file]
        for files in snapshots
        for file, kind in _left(files).items()
        if kind == "orphan"
    ]


def _item(kind: str, path: Path, size: int, age: float) -> dict[str, Any]:
    return {"kind": kind, "path": str(path), "bytes": size, "days": round(age / DAY, 2)}


def _remove(folder: Path, doomed: list[Path]) -> None:
    """Shards first lose the .json that makes them visible, so that an interrupted removal leaves
    orphans only.
    """
    for file in sorted(
        doomed, key=lambda file: (file.name == "manifest.json", file.suffix != ".json")
    ):
        file.unlink(missing_ok=True)
    if not any(folder.iterdir()):
        folder.rmdir()
