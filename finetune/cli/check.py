"""`finetune check`."""

from collections.abc import Sequence
from typing import Annotated, Any

import typer

from finetune.cli.options import JsonOption, print_json, reporter
from finetune.errors import DataError

_LISTED = 5  # files of each kind that are named; --json names them all


def check(
    data: Annotated[
        str, typer.Argument(help="A folder, or cats-and-dogs-small, sketches, digits.")
    ],
    size: Annotated[
        int, typer.Option(min=32, max=1024, help="Side of the photos in pixels.")
    ] = 224,
    as_json: JsonOption = False,
) -> None:
    """Look at photos before training: what is bad, what stands twice, what the test photos can tell."""
    from finetune.data.audit import audit
    from finetune.data.catalog import resolve

    dataset = resolve(data)
    with reporter().stage("photos checked", len(dataset.photos)) as advance:
        report = {"data": data, **audit(dataset, size, advance)}
    print_json(report) if as_json else print(_text(report))
    if not report["ok"]:
        raise DataError(
            f"{_count(report['bad'], 'photo')} cannot be decoded and {_count(report['leaks'], 'group')} of identical "
            "photos stand in more than one split or class; mend or remove them before you train."
        )


def _text(report: dict[str, Any]) -> str:
    sizes, test, points = (
        report["sizes"],
        report["test"]["photos"],
        100 * report["test"]["half_width"],
    )
    ignored = ", ".join(f"{count:,} {kind}" for kind, count in report["ignored"].items())
    small = (
        f"{sizes['smaller']:,} photos are smaller than {sizes['size']} px on a side"
        if sizes["smaller"]
        else ""
    )
    return "\n".join(
        [
            f"{report['data']}: {report['folder']}",
            *_table(report["photos"], report["classes"]),
            "split: drawn by content, 60/20/20" if report["hashed"] else "split: by folders",
            f"largest class / smallest class in train: {report['imbalance']:.2f}",
            f"sides: {sizes['shortest']} to {sizes['longest']} px{'; ' if small else ''}{small}",
            f"ignored: {ignored or 'none'}",
            *_files(
                "cannot be decoded", [[f"{bad['file']} ({bad['reason']})"] for bad in report["bad"]]
            ),
            *_files("identical, in more than one split or class", report["leaks"]),
            *_files("identical, in one class of one split", report["duplicates"]),
            *_files(
                "look alike, in two splits (a hint: look at them)", report["near_duplicates"], " ~ "
            ),
            f"{test:,} test photos tell an accuracy of 90 % to about ± {points:.1f} points (95 % interval)",
        ]
    )


def _table(photos: dict[str, dict[str, int]], classes: Sequence[str]) -> list[str]:
    """Photos by class and split, with sums."""
    width = max(len(name) for name in (*classes, "together"))
    rows = {name: [photos[split][name] for split in photos] for name in classes}
    rows["together"] = [sum(photos[split].values()) for split in photos]
    head = f"  {'':<{width}}" + "".join(f"{split:>12}" for split in photos)
    return [
        head,
        *(f"  {name:<{width}}" + "".join(f"{n:>12,}" for n in row) for name, row in rows.items()),
    ]


def _files(title: str, groups: Sequence[Sequence[str]], sign: str = " = ") -> list[str]:
    shown = [f"  {sign.join(group)}" for group in groups[:_LISTED]]
    more = (
        [f"  and {len(groups) - _LISTED:,} more; --json names all"] if len(groups) > _LISTED else []
    )
    return [f"{title}: {len(groups) or 'none'}", *shown, *more]


def _count(things: Sequence[object], name: str) -> str:
    return f"{len(things):,} {name}{'' if len(things) == 1 else 's'}"
