"""`finetune cache`: the stored activations, listed, verified and cleared.

Of a store at a URL these look at the copy on disk, and touch nothing else.
"""

from typing import Any

from finetune.files import cache_dir, cache_url, shown_url
from finetune.progress import SILENT, Reporter


def ls() -> dict[str, Any]:
    """List what is stored: activations with backbone, cut, size, photos and bytes; trunks."""
    from finetune.activations.listing import entries
    from finetune.model.ir import artefacts

    networks = [
        {
            "folder": str(network.folder),
            "fields": network.fields,
            "cuts": list(network.cuts),
            "bytes": network.size,
            "digest": network.digest,
        }
        for network in artefacts(cache_dir())
    ]
    return {**_place(), "entries": entries(cache_dir()), "networks": networks}


def verify(*, reporter: Reporter = SILENT) -> dict[str, Any]:
    """Hash every stored shard again; damaged ones are set aside, and the next run computes them.

    Raises:
        IntegrityError: a damaged shard cannot be set aside.
    """
    from finetune.activations import maintenance

    cache = cache_dir()
    with reporter.stage("shards verified", len(maintenance.shards(cache)), "shard") as advance:
        return {**_place(), **maintenance.verify(cache, advance)}


def gc(*, older_than: int = 30, dry_run: bool = False) -> dict[str, Any]:
    """Remove what interrupted writes left, damaged shards, and entries that were not used for long.

    Args:
        older_than: days that a cache entry was not used.
        dry_run: remove nothing.
    """
    from finetune.activations.maintenance import collect

    removed = collect(cache_dir(), older_than, dry_run)
    total = sum(item["bytes"] for item in removed)
    return {**_place(), "dry_run": dry_run, "removed": removed, "bytes": total}


def _place() -> dict[str, str]:
    """The folder that was looked at, and the store at a URL that it is a copy of, if it is one."""
    return {
        "cache": str(cache_dir()),
        **({"copy_of": shown_url(cache_url())} if cache_url() else {}),
    }
