"""The command line: what typer needs, errors to exit codes, and signals."""

import difflib
import errno
import functools
import io
import os
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from finetune import __version__
from finetune.cli import manage, train, use
from finetune.cli.verbs import say, settings
from finetune.disk import FULL
from finetune.errors import BusyError, FinetuneError, Terminated, UsageError
from finetune.recipe.reading import nested_keys
from finetune.recipe.recipe import Recipe

_UNUSABLE = (
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.EEXIST,
    errno.ENAMETOOLONG,
)
_ANYWHERE = ("-q", "--quiet", "-v", "--verbose")  # allowed behind the command, too
# What people call a command before they know its name.
_OTHER_NAMES = {
    "train": "run",
    "fit": "run",
    "classify": "predict",
    "test": "evaluate",
    "eval": "evaluate",
    "gradcam": "explain",
    "convert": "export",
    "features": "extract-features",
    "datasets": "data",
    "models": "backbones",
}

# What `finetune --help` says of each; more than 57 characters are cut on 80 columns.
_SUMMARIES = {
    "run": "Train one recipe, from photos to a saved classifier.",
    "compare": "Run many recipes, and say which differences are real.",
    "tune": "Search the settings of a recipe on stored activations.",
    "ensemble": "Combine runs into one model, and say whether it pays.",
    "extract-features": "Write the backbone's features of photos as an array.",
    "predict": "Classify photos.",
    "evaluate": "Measure a classifier on labelled photos.",
    "explain": "Show where in photos a classifier finds its evidence.",
    "export": "Write a classifier for other runtimes, and check it.",
    "push": "Share a run on Hugging Face's hub.",
    "serve": "Answer over HTTP, with a page for photos.",
    "check": "Look at photos before training: bad ones, copies, sizes.",
    "advise": "Say which strategy, and what more photos would buy.",
    "doctor": "Say what is installed, and how to mend what is wrong.",
    "data": "Find, build or download a named data set.",
    "describe": "Show a backbone: shapes, cuts, memory, multiply-adds.",
    "backbones": "List the backbones.",
    "strategies": "List the strategies.",
}


class _Commands(TyperGroup):
    """Commands that are suggested by their other names, too."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        near = difflib.get_close_matches(args[0], [*self.commands, *_OTHER_NAMES]) if args else []
        if near and args[0] not in self.commands:
            names = dict.fromkeys(_OTHER_NAMES.get(name, name) for name in near)
            meant = " or ".join(f"'{name}'" for name in names)
            ctx.fail(f"No such command '{args[0]}'. Did you mean {meant}?")
        return super().resolve_command(ctx, args)


class _Command(TyperCommand):
    """A command whose unknown options are looked for among the keys of a recipe."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except Exception as error:  # of the click that typer brings along, or of click's own
            if hasattr(error, "message"):
                error.message = str(error.message).removeprefix("Value error, ")
            name = getattr(error, "option_name", "")
            key = name.lstrip("-").replace("-", "_")
            known = nested_keys() | {name: name for name in Recipe.model_fields}
            takes_any = any("--set" in item.opts for item in self.params)
            if type(error).__name__ == "NoSuchOption" and takes_any and key in known:
                ctx.fail(f"No such option: {name}. Try --set {known[key]}=VALUE.")
            raise


def _typer(verbs: Mapping[str, Callable[..., None]], text: str) -> typer.Typer:
    made = typer.Typer(
        cls=_Commands,
        help=text,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    )
    for name, command in verbs.items():
        made.command(name, cls=_Command, short_help=_SUMMARIES.get(name))(command)
    return made


_PURPOSE = """Fine-tune ImageNet backbones on your photos, and find out honestly which way is best.

Example: finetune run --data photos --out runs/mine
"""
app = _typer({**train.VERBS, **use.VERBS, **manage.VERBS}, _PURPOSE)
app.add_typer(_typer(manage.CACHE_VERBS, "The stored activations."), name="cache")
app.add_typer(_typer(manage.RECIPE_VERBS, "Recipes as such."), name="recipe")


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
    settings.update(quiet=quiet, verbose=verbose)
    if verbose:
        os.environ["TF_CPP_MIN_LOG_LEVEL"] = "0"


def main() -> None:
    """Entry point: every error to one paragraph on stderr and its exit code."""
    _watch_signals()
    for stream in (sys.stdout, sys.stderr):
        # A pipe of Windows cannot say ± or →.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    # A stable sort: these options come first.
    sys.argv[1:] = sorted(sys.argv[1:], key=lambda word: word not in _ANYWHERE)
    try:
        app()
    except Terminated:
        sys.exit(128 + signal.SIGTERM)
    except Exception as error:
        if settings["verbose"]:
            traceback.print_exc()
        failure = error if isinstance(error, FinetuneError) else _explained(error)
        say(f"error: {failure}")
        sys.exit(failure.exit_code)


@functools.cache
def _watch_signals() -> None:
    """SIGTERM ends as Ctrl-C does; a second signal ends at once, whatever the main thread does.

    Set once per process. Python runs its handlers in the main thread, which may be in TensorFlow
    for minutes; the bytes that the C handler writes reach another thread at any time.
    """

    def terminated(*_: Any) -> None:
        raise Terminated

    def count_signals(reader: socket.socket, writer: socket.socket) -> None:
        # The writer is held as long as signals may come: else its descriptor is another file's.
        seen = 0
        while received := reader.recv(1):
            seen += received[0] in (signal.SIGINT, signal.SIGTERM)
            if seen > 1:
                os._exit(128 + received[0])

    signal.signal(signal.SIGTERM, terminated)
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    threading.Thread(target=count_signals, args=(reader, writer), daemon=True).start()


def _explained(error: Exception) -> FinetuneError:
    """What is nobody's mistake but the disk's, or ours."""
    if isinstance(error, OSError) and error.errno in FULL:
        return BusyError(
            f"The disk is full ({error}). Free some space and run again; nothing finished is lost."
        )
    if isinstance(error, OSError) and error.errno in _UNUSABLE:
        return UsageError(
            f"{error.filename} cannot be used ({error.strerror}). Choose another --out, or for the "
            "cache another FINETUNE_CACHE."
        )
    name, text = type(error).__name__, " ".join(str(error).split())[:300]
    return FinetuneError(
        f"{name}: {text}. This is unexpected; `finetune -v ...` shows where it happened."
    )
