"""The commands: parse, delegate, print. Nothing heavy is imported before a command needs it."""

import errno
import json
import signal
import sys
import traceback
from collections.abc import Callable
from datetime import datetime
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from finetune import __version__
from finetune.backend import load_keras
from finetune.errors import BusyError, FinetuneError, SomeCellsFailed, UsageError
from finetune.model.backbones import BACKBONES
from finetune.strategies import POOLINGS, STRATEGIES

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
cache = typer.Typer(no_args_is_help=True, help="The stored activations.", rich_markup_mode=None)
app.add_typer(cache, name="cache")
recipe_commands = typer.Typer(no_args_is_help=True, help="Recipes as such.", rich_markup_mode=None)
app.add_typer(recipe_commands, name="recipe")

_options = {"quiet": False, "verbose": False}
_ANYWHERE = ("-q", "--quiet", "-v", "--verbose")  # allowed behind the command, too


# The tables' names as options; the tables themselves need no TensorFlow.
Backbone = Enum("Backbone", {name: name for name in BACKBONES}, type=str)
Strategy = Enum("Strategy", {name: name for name in STRATEGIES}, type=str)
Pool = Enum("Pool", {name: name for name in POOLINGS}, type=str)
Pooling = Enum("Pooling", {name: name for name in ("none", "gap", "gmp")}, type=str)

DataOption = Annotated[str | None, typer.Option(help="A folder, or cats-and-dogs-small, sketches, digits.")]
BackboneOption = Annotated[Backbone | None, typer.Option()]
WeightsOption = Annotated[str | None, typer.Option(help="imagenet, random or a weight file.")]
SizeOption = Annotated[int | None, typer.Option(help="Side of the photos in pixels.")]
SetOption = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Any recipe key, dotted.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout and nothing else.")]
SkipOption = Annotated[bool, typer.Option("--skip-bad", help="Leave out photos that cannot be decoded.")]


def _version(wanted: bool) -> None:
    if wanted:
        print(f"finetune {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress on stderr.")] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Tracebacks and the libraries' own messages.")
    ] = False,
    version: Annotated[bool, typer.Option("--version", help="Print it.", is_eager=True, callback=_version)] = False,
) -> None:
    """Fine-tune ImageNet backbones on your photos, and find out honestly which way of doing it is best."""
    _options.update(quiet=quiet, verbose=verbose)


@app.command()
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
    out: Annotated[Path | None, typer.Option(help="The run folder (default: a new one in runs/).")] = None,
    resume: Annotated[Path | None, typer.Option(help="Go on with the run in this folder.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and do nothing.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Train one recipe, from photos to a saved classifier."""
    from finetune.recipe import load
    from finetune.results.folder import read_recipe, read_result

    chosen = {"data": data, "backbone": backbone, "strategy": strategy, "weights": weights, "image_size": image_size}
    chosen |= {"epochs": epochs, "seed": seed, "skip_bad": skip_bad or None}
    if resume and (recipe or out or settings or head or any(value is not None for value in chosen.values())):
        raise UsageError("--resume takes the recipe of the run folder; give it no recipe, --out or other settings.")
    heads = [f"head.pool={head.value}"] if head else []
    resolved = load(read_recipe(resume) if resume else recipe, _plain(chosen), [*heads, *(settings or [])])
    folder = resume or out or Path("runs", f"{resolved.strategy}-{resolved.backbone}-{datetime.now():%Y%m%d-%H%M%S-%f}")
    if resume and (result := read_result(resume)):
        _say(f"{resume} is finished already; nothing was done.")
    else:
        load_keras(_options["verbose"])
        from finetune import run as runs

        if dry_run:
            result = runs.plan(resolved, _reporter())
        else:
            result = _interruptible(lambda: runs.run(resolved, folder, _reporter()), lambda: _saved(folder))
    _print_json(result) if as_json else print(_plan_text(result) if dry_run else _run_text(result))


@app.command()
def compare(
    recipes: Annotated[list[Path], typer.Argument(help="Recipes in YAML, or folders that hold some.")],
    out: Annotated[Path, typer.Option(help="Its folder; the same command goes on with it.")] = Path("compared"),
    photos: Annotated[bool, typer.Option(help="Show photos in the report, or only their names.")] = True,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and do nothing.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Run many recipes, share what they share, and say which differences are real."""
    from finetune.matrix import collect

    cells = collect(recipes)
    if dry_run:
        load_keras(_options["verbose"])
        from finetune import planner

        plan = planner.plan(cells, _reporter())
        return _print_json(plan) if as_json else print(planner.text(plan))
    from finetune import compare as comparison

    result = _interruptible(
        lambda: comparison.compare(cells, out, _reporter(), photos),
        lambda: f"finished cells are kept in {out}. Give the same command again to go on.",
    )
    _print_json(result) if as_json else print(f"{(out / 'results.md').read_text()}\n{result['report']}")
    failed = [cell["name"] for cell in result["cells"] if cell["status"] != "done"]
    if failed:
        raise SomeCellsFailed(
            f"{len(failed)} of {len(cells)} cells have no result: {', '.join(failed[:5])}; the report says why."
        )
    return None


@recipe_commands.command("schema")
def recipe_schema() -> None:
    """Print the JSON Schema of recipes, for editors."""
    from finetune.recipe import schema

    print(json.dumps(schema(), indent=2))


@app.command()
def extract_features(
    data: DataOption = None,
    backbone: BackboneOption = None,
    weights: WeightsOption = None,
    image_size: SizeOption = None,
    cut: Annotated[str | None, typer.Option(help="Name of the cut (default: above the last block).")] = None,
    pooling: Annotated[Pooling, typer.Option(help="What is written: whole maps or pooled features.")] = Pooling["gap"],
    settings: SetOption = None,
    skip_bad: SkipOption = False,
    out: Annotated[Path | None, typer.Option(help="Where features.npy and index.csv go (default: features/).")] = None,
    as_json: JsonOption = False,
) -> None:
    """Run the photos through the backbone once; write features.npy and index.csv."""
    from finetune.recipe import load

    chosen = {"data": data, "backbone": backbone, "weights": weights, "image_size": image_size}
    chosen |= {"strategy": "cached-features", "skip_bad": skip_bad or None}
    resolved = load(None, _plain(chosen), settings)
    load_keras(_options["verbose"])
    from finetune import features

    result = features.extract_features(resolved, cut, pooling.value, out or Path("features"), _reporter())
    shape = " x ".join(map(str, result["shape"]))
    speed = "from the store" if result["cached"] else f"{result['images_per_second']:.1f} photos per second"
    _print_json(result) if as_json else print(f"{result['out']}: features.npy ({shape}), index.csv; {speed}")


@app.command()
def backbones(as_json: JsonOption = False) -> None:
    """List the backbones: size, cuts, licence, and where their weights would come from."""
    from finetune.model.backbones import BACKBONES

    rows = {name: {"parameters": b.parameters, "cuts": b.blocks, "weights": b.weights_file, "licence": b.licence,
                   "citation": b.citation} for name, b in BACKBONES.items()}  # fmt: skip
    if as_json:
        return _print_json(rows)
    for name, row in rows.items():
        print(
            f"{name}: {row['parameters']:,} parameters\n  cuts, from the photo upwards: photo, {', '.join(row['cuts'])}"
        )
        print(f"  weights: {row['weights']}\n  licence: {row['licence']}\n  {row['citation']}")


@app.command()
def data(
    name: Annotated[str, typer.Argument(help="cats-and-dogs-small, sketches or digits.")],
    source: Annotated[Path | None, typer.Option("--from", help="A local copy: Kaggle's train/ folder or zip.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Find, build or download a named data set, and say where it is."""
    from finetune.data import catalog
    from finetune.data.folder import SPLITS, read_folder

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
    _print_json(result) if as_json else print(f"{folder}: {text}; classes {', '.join(dataset.classes)}")


@cache.command("ls")
def cache_ls(as_json: JsonOption = False) -> None:
    """List what is stored: backbone, cut, size, photos and bytes."""
    from finetune.activations.store import shelves
    from finetune.data.catalog import cache_dir

    found = shelves(cache_dir())
    if as_json:
        return _print_json({"cache": str(cache_dir()), "shelves": found})
    for shelf in found:
        fields, pixels = shelf["fields"], shelf["fields"]["pixels"]
        views = " augmented" if pixels["augment"] else ""
        print(
            f"{shelf['key'][:12]}  {fields['backbone']:<12}{fields['cut']:<18}{pixels['size']:>4} px{views}  "
            f"{shelf['rows']:>7,} rows  {shelf['bytes'] / 2**20:>8,.1f} MiB  {fields['dtype']}"
        )
    print(f"{sum(shelf['bytes'] for shelf in found) / 2**20:,.1f} MiB in {cache_dir()}")


def _plain(chosen: dict[str, Any]) -> dict[str, Any]:
    return {key: value.value if isinstance(value, Enum) else value for key, value in chosen.items()}


def _interruptible(action: Callable[[], dict[str, Any]], saved: Callable[[], str]) -> dict[str, Any]:
    """Run, and if interrupted say what is saved and how to go on."""
    try:
        return action()
    except KeyboardInterrupt:
        _say(f"Interrupted: {saved()}")
        raise


def _saved(folder: Path) -> str:
    checkpoint = folder / "checkpoint.npz"
    epoch = f"the last whole epoch is in {checkpoint}" if checkpoint.exists() else "no epoch was finished"
    return f"{epoch}; stored activations are kept. Go on with `finetune run --resume {folder}`."


def _run_text(result: dict[str, Any]) -> str:
    test, low, high = result["test"], *result["test"]["accuracy_interval"]
    percent = [f"{100 * value:.1f}" for value in (test["accuracy"], low, high, result["validation"]["accuracy"])]
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
        f"({plan['bytes_to_store'] / 2**20:,.1f} MiB){streamed}\nat most {plan['epochs']} epochs"
    )


def _reporter():
    from finetune.progress import Reporter

    return Reporter(_options["quiet"])


def _say(text: str) -> None:
    print(text, file=sys.stderr)


def _print_json(value: Any) -> None:
    print(json.dumps(value, allow_nan=False))


class _Terminated(KeyboardInterrupt):
    """SIGTERM, handled like Ctrl-C but for its exit code."""


def _terminated(*_: Any) -> None:
    raise _Terminated


def main() -> None:
    """Entry point: every error to one paragraph on stderr and its exit code."""
    signal.signal(signal.SIGTERM, _terminated)
    sys.argv[1:] = sorted(sys.argv[1:], key=lambda word: word not in _ANYWHERE)  # a stable sort: they come first
    try:
        app()
    except KeyboardInterrupt as error:
        sys.exit(143 if isinstance(error, _Terminated) else 130)
    except Exception as error:
        if _options["verbose"]:
            traceback.print_exc()
        failure = error if isinstance(error, FinetuneError) else _explained(error)
        _say(f"error: {failure}")
        sys.exit(failure.exit_code)


def _explained(error: Exception) -> FinetuneError:
    """What is nobody's mistake but the disk's, or ours."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return BusyError(f"The disk is full ({error}). Free some space and run again; nothing finished is lost.")
    name, text = type(error).__name__, " ".join(str(error).split())[:300]
    return FinetuneError(f"{name}: {text}. This is unexpected; `finetune -v ...` shows where it happened.")
