"""`finetune compare`."""

from pathlib import Path
from typing import Annotated

import typer

from finetune.cli.options import JsonOption, interruptible, need_keras, print_json, reporter
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
    from finetune.recipe.matrix import collect

    cells = collect(recipes)
    if dry_run:
        need_keras()
        from finetune.execution import plan as planner

        plan = planner.plan(cells, reporter())
        return print_json(plan) if as_json else print(planner.text(plan))
    from finetune.commands import compare as comparison

    result = interruptible(
        lambda: comparison.compare(cells, out, reporter(), photos),
        lambda: f"finished cells are kept in {out}. Give the same command again to go on.",
    )
    print_json(result) if as_json else print(
        f"{(out / 'results.md').read_text()}\n{result['report']}"
    )
    failed = [cell["name"] for cell in result["cells"] if cell["status"] != "done"]
    if failed:
        raise SomeCellsFailed(
            f"{len(failed)} of {len(cells)} cells have no result: {', '.join(failed[:5])}; the report says why."
        )
    return None
