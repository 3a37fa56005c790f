"""`finetune cache`: the stored activations."""

from typing import Annotated, Any

import typer

from finetune.cli.options import JsonOption, print_json, reporter
from finetune.errors import IntegrityError


def ls(as_json: JsonOption = False) -> None:
    """List what is stored: backbone, cut, size, photos and bytes."""
    from finetune.activations.store import shelves
    from finetune.data.catalog import cache_dir

    found = shelves(cache_dir())
    if as_json:
        return print_json({"cache": str(cache_dir()), "shelves": found})
    for shelf in found:
        fields, pixels = shelf["fields"], shelf["fields"]["pixels"]
        views = " augmented" if pixels["augment"] else ""
        print(
            f"{shelf['key'][:12]}  {fields['backbone']:<12}{fields['cut']:<18}{pixels['size']:>4} px{views}  "
            f"{shelf['rows']:>7,} rows  {_mib(shelf['bytes'])}  {fields['dtype']}"
        )
    print(f"{_mib(sum(shelf['bytes'] for shelf in found))} in {cache_dir()}")


def verify(as_json: JsonOption = False) -> None:
    """Hash every stored shard again; damaged ones are set aside, so that the next run computes them anew."""
    from finetune.activations import maintenance as upkeep
    from finetune.data.catalog import cache_dir

    cache = cache_dir()
    with reporter().stage("shards verified", len(upkeep.shards(cache)), "shard") as advance:
        report = {"cache": str(cache), **upkeep.verify(cache, advance)}
    damaged = report["damaged"]
    print_json(report) if as_json else print(_verified(report))
    if damaged:
        raise IntegrityError(
            f"{len(damaged)} of {report['shards']:,} shards fail their checksum; they were set aside, and the next run "
            "computes their photos anew. Bytes that change by themselves speak of a failing disk or memory."
        )


def _verified(report: dict[str, Any]) -> str:
    lines = [f"damaged: {file}" for file in report["damaged"]]
    lines += [
        f"shards: {report['shards']:,} ({_mib(report['bytes'])}), damaged: {len(report['damaged']) or 'none'}"
    ]
    if report["orphans"]:
        orphans = (
            f"files of interrupted writes: {report['orphans']:,} ({_mib(report['orphan_bytes'])})"
        )
        lines += [f"{orphans}; `finetune cache gc` removes those older than an hour"]
    return "\n".join(lines)


def gc(
    older_than: Annotated[
        int, typer.Option(min=0, metavar="DAYS", help="Days a shelf was not used.")
    ] = 30,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would go and remove nothing.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Remove what interrupted writes left, shards set aside as damaged, and shelves that were not used for long."""
    from finetune.activations.maintenance import collect
    from finetune.data.catalog import cache_dir

    removed = collect(cache_dir(), older_than, dry_run)
    total = sum(item["bytes"] for item in removed)
    if as_json:
        return print_json(
            {"cache": str(cache_dir()), "dry_run": dry_run, "removed": removed, "bytes": total}
        )
    for item in removed:
        print(
            f"{_mib(item['bytes']):>12}  {item['kind']:<8}  {item['days']:>6.1f} days old  {item['path']}"
        )
    print(f"{_mib(total)} {'would be removed' if dry_run else 'removed'} from {cache_dir()}")


def _mib(size: int) -> str:
    return f"{size / 2**20:,.1f} MiB"
