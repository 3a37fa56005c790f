"""What the commands share: options, and where they talk. Nothing heavy is imported before a command needs it."""

import gc
import json
import sys
from collections.abc import Callable
from enum import Enum
from typing import Annotated, Any

import typer

from finetune.backend import load_keras
from finetune.model.backbones import BACKBONES
from finetune.progress import Reporter
from finetune.recipe.strategies import POOLINGS, STRATEGIES

settings = {"quiet": False, "verbose": False}  # of this process, set by `-q` and `-v`

# The tables' names as options; the tables themselves need no TensorFlow.
Backbone = Enum("Backbone", {name: name for name in BACKBONES}, type=str)  # type: ignore[misc]
Strategy = Enum("Strategy", {name: name for name in STRATEGIES}, type=str)  # type: ignore[misc]
Pool = Enum("Pool", {name: name for name in POOLINGS}, type=str)  # type: ignore[misc]
Pooling = Enum("Pooling", {name: name for name in ("none", "gap", "gmp")}, type=str)  # type: ignore[misc]

DataOption = Annotated[
    str | None, typer.Option(help="A folder, or cats-and-dogs-small, sketches, digits.")
]
BackboneOption = Annotated[Backbone | None, typer.Option()]
WeightsOption = Annotated[str | None, typer.Option(help="imagenet, random or a weight file.")]
SizeOption = Annotated[int | None, typer.Option(help="Side of the photos in pixels.")]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Any recipe key, dotted.")
]
JsonOption = Annotated[
    bool, typer.Option("--json", help="Print one JSON object on stdout and nothing else.")
]
SkipOption = Annotated[
    bool, typer.Option("--skip-bad", help="Leave out photos that cannot be decoded.")
]


def reporter() -> Reporter:
    """Where a command tells of its progress."""
    return Reporter(settings["quiet"])


def need_keras() -> None:
    """Import Keras, which takes seconds; its own messages are for `-v`."""
    load_keras(settings["verbose"])
    gc.freeze()  # half a million objects that stay; every full collection would look at all of them again


def say(text: str) -> None:
    """One line on stderr."""
    print(text, file=sys.stderr)


def print_json(value: Any) -> None:
    """One JSON object on stdout; ValueError for NaN, as JSON has no word for it."""
    print(json.dumps(value, allow_nan=False))


def plain(chosen: dict[str, Any]) -> dict[str, Any]:
    """Options as recipe keys: enumerations by their names."""
    return {key: value.value if isinstance(value, Enum) else value for key, value in chosen.items()}


def interruptible(action: Callable[[], dict[str, Any]], saved: Callable[[], str]) -> dict[str, Any]:
    """Run, and if interrupted say what is saved and how to go on."""
    try:
        return action()
    except KeyboardInterrupt:
        say(f"Interrupted: {saved()}")
        raise
