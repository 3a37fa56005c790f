"""`finetune compare`."""

from pathlib import Path
from typing import Annotated

import typer

from finetune.cli.options import JsonOption, interruptible, print_json, reporter
from finetune.errors import SomeCellsFailed


def compare(
    recipes: Annotated[
        list[Path], typer.Argument(help="Recipes in YAML, or folders that hold some.")
    ],
    out: Annotated[Path, typer.Option(help="Its folder; the same command goes on with it.")] = Path(
        "compared"
    ),
    photos: Annotated[
        bool, typer.Option(help="Show photos in the report, or only their names.")
    ] = True,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the plan and do nothing.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Run many recipes, share what they share, and say which differences are real."""
    from finetune.commands import compare as comparison

    if dry_run:
        planned = comparison.plan_compare(*recipes, reporter=reporter())
        if as_json:
            return print_json(planned)
        from finetune.execution.plan import plan_text

        return print(plan_text(planned))
    result = interruptible(
        lambda: comparison.compare(*recipes, out=out, photos=photos, reporter=reporter()),
        lambda: f"finished trials are kept in {out}. Give the same command again to go on.",
    )
    print_json(result) if as_json else print(
        f"{(out / 'results.md').read_text()}\n{result['report']}"
    )
    failed = [cell["name"] for cell in result["cells"] if cell["status"] != "done"]
    if failed:
        raise SomeCellsFailed(
            f"{len(failed)} of {len(result['cells'])} cells have no result: {', '.join(failed[:5])}; the report says why."
        )
    return None
