"""What there is to choose from: `finetune backbones`, `strategies`, `data` and `recipe schema`."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from finetune.cli.options import JsonOption, print_json


def backbones(as_json: JsonOption = False) -> None:
    """List the backbones: size, cuts, licence, and where their weights would come from."""
    from finetune.model.backbones import BACKBONES

    rows: dict[str, dict[str, Any]] = {name: {"parameters": b.parameters, "cuts": b.blocks, "weights": b.weights_file, "licence": b.licence,
                   "citation": b.citation} for name, b in BACKBONES.items()}  # fmt: skip
    if as_json:
        return print_json(rows)
    for name, row in rows.items():
        print(
            f"{name}: {row['parameters']:,} parameters\n  cuts, from the photo upwards: photo, {', '.join(row['cuts'])}"
        )
        print(f"  weights: {row['weights']}\n  licence: {row['licence']}\n  {row['citation']}")


def strategies(as_json: JsonOption = False) -> None:
    """List the strategies: where the cut lies, what crosses it, and what learns."""
    from finetune.recipe.strategies import LEARNS, STRATEGIES

    rows = {name: {"cut": LEARNS[s.learns][0], "crosses": s.crosses, "learns": LEARNS[s.learns][1],
                   "summary": s.summary, "defaults": s.defaults} for name, s in STRATEGIES.items()}  # fmt: skip
    if as_json:
        return print_json(rows)
    for name, row in rows.items():
        print(f"{name}: {row['summary']}")
        print(
            f"  cut: {row['cut']}; what crosses it: {row['crosses']}; what learns: {row['learns']}"
        )


def data(
    name: Annotated[str, typer.Argument(help="cats-and-dogs-small, sketches or digits.")],
    source: Annotated[
        Path | None, typer.Option("--from", help="A local copy: Kaggle's train/ folder or zip.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Find, build or download a named data set, and say where it is."""
    from finetune.data import catalog
    from finetune.data.dataset import SPLITS, read_folder

    folder = catalog.build(name, source) if source else catalog.locate(name)
    dataset = read_folder(folder, name)
    counts = {split: len(dataset.split(split)) for split in SPLITS}
    result = {
        "name": name,
        "folder": str(folder),
        "classes": list(dataset.classes),
        "photos": counts,
        "split": dataset.digest,
    }
    text = ", ".join(f"{count:,} {split}" for split, count in counts.items())
    print_json(result) if as_json else print(
        f"{folder}: {text}; classes {', '.join(dataset.classes)}"
    )


def recipe_schema() -> None:
    """Print the JSON Schema of recipes, for editors."""
    from finetune.recipe.recipe import schema

    print(json.dumps(schema(), indent=2))
