"""What the store holds, and why it does not hold what was looked for."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from finetune.activations.store import Store, read_manifest, read_shard


def entries(root: Path) -> list[dict[str, Any]]:
    """What the store holds: of each entry its fields, number of rows, bytes and folder.

    Entries whose manifest is damaged are left out; ``maintenance.verify`` names them.
    """
    found = []
    for manifest in sorted((root / "activations").glob("*/manifest.json")):
        content = read_manifest(manifest)
        if content is None:
            continue
        folder = manifest.parent
        shards = [read_shard(path) for path in folder.glob("shard-*.json")]
        rows = sum(len(shard["rows"]) for shard in shards if shard)
        found.append({**content, "rows": rows, "bytes": _bytes(folder), "folder": str(folder)})
    return found


def _bytes(folder: Path) -> int:
    size = 0
    for path in folder.iterdir():
        with suppress(FileNotFoundError):  # another process has just named its temporary file
            size += path.stat().st_size
    return size


def nearest_difference(root: Path, store: Store) -> dict[str, tuple[Any, Any]]:
    """Why an entry is empty: the fields in which the most similar entry differs.

    Args:
        root: the cache directory.
        store: the entry that was looked for.

    Returns:
        Field -> (stored, wanted), JSON values; of a field that is a table only what differs in it.
        Empty if the entry holds rows, or if there is no other.
    """
    if len(store):
        return {}
    wanted = json.loads(json.dumps(store.fields))  # tuples as the lists that a manifest has
    others = [
        entry["fields"] for entry in entries(root) if entry["key"] != store.key and entry["rows"]
    ]
    return min((_difference(fields, wanted) for fields in others), key=len, default={})


def _difference(stored: dict[str, Any], wanted: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    found = {}
    for name in (name for name in stored | wanted if stored.get(name) != wanted.get(name)):
        old = stored.get(name)
        new = wanted.get(name)
        if isinstance(old, dict) and isinstance(new, dict):
            inner = _difference(old, new)
            old, new = ({key: pair[side] for key, pair in inner.items()} for side in (0, 1))
        found[name] = (old, new)
    return found
