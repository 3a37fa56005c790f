"""`finetune run`."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from finetune.cli.options import (
    BackboneOption,
    DataOption,
    JsonOption,
    Pool,
    SetOption,
    SizeOption,
    SkipOption,
    Strategy,
    WeightsOption,
    interruptible,
    plain,
    print_json,
    reporter,
)


def run(
    recipe: Annotated[Path | None, typer.Argument(help="A recipe in YAML.")] = None,
    data: DataOption = None,
    backbone: BackboneOption = None,
    strategy: Annotated[Strategy | None, typer.Option()] = None,
    head: Annotated[Pool | None, typer.Option()] = None,
    weights: WeightsOption = None,
    image_size: SizeOption = None,
    epochs: Annotated[int | None, typer.Option()] = None,
    seed: Annotated[int | None, typer.Option()] = None,
    settings: SetOption = None,
    skip_bad: SkipOption = False,
    out: Annotated[
        Path | None, typer.Option(help="The run folder (default: a new one in runs/).")
    ] = None,
    resume: Annotated[Path | None, typer.Option(help="Go on with the run in this folder.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the plan and do nothing.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Train one recipe, from photos to a saved classifier."""
    from finetune.commands import run as runs

    given = {
        "data": data,
        "backbone": backbone,
        "strategy": strategy,
        "head": head,
        "weights": weights,
        "image_size": image_size,
        "epochs": epochs,
        "seed": seed,
    }
    values = {**plain(given), "settings": settings or (), "skip_bad": skip_bad}
    values |= {"resume": resume, "reporter": reporter()}
    if dry_run:
        planned = runs.plan_run(recipe, **values)
        return print_json(planned) if as_json else print(_plan_text(planned))
    folder = resume or out
    result = interruptible(
        lambda: runs.run(recipe, out=out, **values).to_json(), lambda: _saved(folder or Path("runs"))
    )
    print_json(result) if as_json else print(_run_text(result))


def _saved(folder: Path) -> str:
    checkpoint = folder / "checkpoint.npz"
    epoch = (
        f"the last whole epoch is in {checkpoint}"
        if checkpoint.exists()
        else "no epoch was finished"
    )
    return f"{epoch}; stored activations are kept. Go on with `finetune run --resume {folder}`."


def _run_text(result: dict[str, Any]) -> str:
    test = result["test"]
    low, high = test["accuracy_interval"]
    percent = [
        f"{100 * value:.1f}"
        for value in (test["accuracy"], low, high, result["validation"]["accuracy"])
    ]
    return (
        f"test accuracy {percent[0]} % ({percent[1]} to {percent[2]}) on {test['n']:,} photos, "
        f"log loss {test['loss']:.4f}; validation accuracy {percent[3]} %\n"
        f"{result['strategy']} on {result['backbone']}, cut at {result['cut']}; "
        f"{result['seconds']['extract']:.0f} s for activations, {result['seconds']['train']:.0f} s for training\n"
        f"{result['run']}"
    )


def _plan_text(plan: dict[str, Any]) -> str:
    parameters, photos = plan["parameters"], plan["photos"]
    streamed = (
        f", {plan['streamed_per_epoch']:,} streamed through the trunk in each epoch"
        if plan["streamed_per_epoch"]
        else ""
    )
    return (
        f"{plan['strategy']} on {plan['backbone']}: cut at {plan['cut']} ({' x '.join(map(str, plan['shape']))})\n"
        f"trunk {parameters['trunk']:,} parameters, tail {parameters['tail']:,}, of which {parameters['trainable']:,} learn\n"
        f"photos: {', '.join(f'{count:,} {name}' for name, count in photos.items())}\n"
        f"activations: {plan['stored_rows']:,} rows stored, {plan['to_extract']:,} of them still to be computed "
        f"({plan['bytes_to_store'] / 2**20:,.1f} MiB){streamed}\n"
        f"{_nearest_text(plan['nearest'])}"
        f"at most {plan['epochs']} epochs; {_estimate_text(plan['estimate'])}"
    )


def _nearest_text(nearest: dict[str, Any]) -> str:
    """Why the store has none of these activations: what the most similar ones were computed with."""
    differences = "; ".join(
        f"{name}: stored {json.dumps(a)}, wanted {json.dumps(b)}"
        for name, (a, b) in nearest.items()
    )
    return f"the most similar stored activations differ in {differences}\n" if differences else ""


def _estimate_text(estimate: dict[str, float]) -> str:
    longest, shortest = (
        f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
        for seconds in (estimate["seconds"], estimate["seconds_at_least"])
    )
    return (
        f"about {longest}"
        if longest == shortest
        else f"{shortest} to {longest}, as early stopping will have it"
    )
