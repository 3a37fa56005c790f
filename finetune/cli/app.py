"""The commands: parse, delegate, print. One module for each; nothing heavy is imported before a command needs it."""

import errno
import signal
import sys
import traceback
from collections.abc import Callable
from typing import Annotated, Any

import typer

from finetune import __version__
from finetune.cli.cache import gc, ls, verify
from finetune.cli.check import check
from finetune.cli.compare import compare
from finetune.cli.ensemble import ensemble
from finetune.cli.evaluate import evaluate
from finetune.cli.explain import explain
from finetune.cli.export import export
from finetune.cli.extract import extract_features
from finetune.cli.lists import backbones, data, recipe_schema, strategies
from finetune.cli.options import say, settings
from finetune.cli.predict import predict
from finetune.cli.run import run
from finetune.errors import BusyError, FinetuneError

_ANYWHERE = ("-q", "--quiet", "-v", "--verbose")  # allowed behind the command, too

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
_COMMANDS: tuple[Callable[..., None], ...] = (
    run,
    compare,
    ensemble,
    predict,
    evaluate,
    extract_features,
    explain,
    export,
    check,
    backbones,
    strategies,
    data,
)
for command in _COMMANDS:
    app.command()(command)
cache = typer.Typer(no_args_is_help=True, help="The stored activations.", rich_markup_mode=None)
for upkeep in (ls, verify, gc):
    cache.command()(upkeep)
app.add_typer(cache, name="cache")
recipe = typer.Typer(no_args_is_help=True, help="Recipes as such.", rich_markup_mode=None)
recipe.command("schema")(recipe_schema)
app.add_typer(recipe, name="recipe")


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
    version: Annotated[
        bool, typer.Option("--version", help="Print it.", is_eager=True, callback=_version)
    ] = False,
) -> None:
    """Fine-tune ImageNet backbones on your photos, and find out honestly which way of doing it is best."""
    settings.update(quiet=quiet, verbose=verbose)


class _Terminated(KeyboardInterrupt):
    """SIGTERM, handled like Ctrl-C but for its exit code."""


def _terminated(*_: Any) -> None:
    raise _Terminated


def main() -> None:
    """Entry point: every error to one paragraph on stderr and its exit code."""
    signal.signal(signal.SIGTERM, _terminated)
    sys.argv[1:] = sorted(
        sys.argv[1:], key=lambda word: word not in _ANYWHERE
    )  # a stable sort: they come first
    try:
        app()
    except KeyboardInterrupt as error:
        sys.exit(143 if isinstance(error, _Terminated) else 130)
    except Exception as error:
        if settings["verbose"]:
            traceback.print_exc()
        failure = error if isinstance(error, FinetuneError) else _explained(error)
        say(f"error: {failure}")
        sys.exit(failure.exit_code)


def _explained(error: Exception) -> FinetuneError:
    """What is nobody's mistake but the disk's, or ours."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return BusyError(
            f"The disk is full ({error}). Free some space and run again; nothing finished is lost."
        )
    name, text = type(error).__name__, " ".join(str(error).split())[:300]
    return FinetuneError(
        f"{name}: {text}. This is unexpected; `finetune -v ...` shows where it happened."
    )
