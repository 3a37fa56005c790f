"""From a command's function to its command line: the signature is the interface, this its words."""

import inspect
import json
import sys
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import typer

from finetune.errors import FinetuneError
from finetune.model.formats import FORMATS
from finetune.progress import Reporter, visible
from finetune.recipe.strategies import POOLINGS, STRATEGIES

settings = {"quiet": False, "verbose": False}  # of this process, set by `-q` and `-v`

PRECISIONS = ("auto", "float32", "bfloat16", "int8")


@dataclass(frozen=True)
class Option:
    """How a parameter looks on the command line.

    Attributes:
        help: what it means; the default is added where the signature has one.
        name: the option's name where it differs from the parameter's.
        metavar: what stands for a value in the help.
        choices: the values allowed; any if empty.
        least, most: bounds of a number.
        type: of the value, where the annotation allows more than the command line has.
    """

    help: str
    name: str = ""
    metavar: str | None = None
    choices: tuple[str, ...] = ()
    least: int | None = None
    most: int | None = None
    type: Any = None


# By parameter; a command in front where the same name means something else to it.
OPTIONS = {
    "recipe": Option("A recipe in YAML.", metavar="RECIPE", type=Path),
    "recipes": Option(
        "Recipes in YAML, or folders that hold some.", metavar="RECIPE|DIR...", type=Path
    ),
    "runs": Option(
        "Two or more finished runs on the same photos.", metavar="RUN RUN...", type=Path
    ),
    "model": Option("A run folder, or a .keras file.", metavar="RUN|MODEL", type=Path),
    "photos": Option("Photos, and folders of photos.", metavar="PHOTO|DIR...", type=list[Path]),
    "compare photos": Option("Show photos in the report, or only their names.", type=bool),
    "data": Option(
        "Class folders, a CSV or Parquet table of photos, or cats-and-dogs-small, "
        "clothing-small, sketches, digits.",
        metavar="DATA",
        type=str,
    ),
    "backbone": Option("One of `finetune backbones`. Default: vgg16.", metavar="NAME"),
    "strategy": Option("What learns. Default: top-blocks.", choices=tuple(STRATEGIES)),
    "head": Option("How maps become features. Default: gap.", choices=POOLINGS),
    "weights": Option(
        "imagenet, random, a weight file, or a run to go on from. Default: imagenet.",
        metavar="NAME|FILE|RUN",
        type=str,
    ),
    "image_size": Option("Side of the photos in pixels. Default: 224.", metavar="PIXELS"),
    "describe backbone": Option("One of `finetune backbones`.", metavar="BACKBONE"),
    "advise backbone": Option(
        "One of `finetune backbones`, any number of times. Default: vgg16.",
        metavar="NAME",
        type=list[str],
    ),
    "blocks": Option("Score the cuts below so many top blocks, too.", metavar="N", least=0),
    "describe image_size": Option("Side of the photos in pixels.", metavar="PIXELS", least=28),
    "alpha": Option("Width multiplier, for backbones that have one.", metavar="SHARE"),
    "describe layers": Option("Layer by layer."),
    "describe top": Option("With the classifier of ImageNet's 1,000 classes."),
    "svg": Option("Write a picture of the graph with its cuts.", metavar="FILE", type=Path),
    "epochs": Option("Epochs at most. Default: the strategy's.", metavar="N"),
    "seed": Option("Of everything that is drawn. Default: 0.", metavar="N"),
    "precision": Option("Of the network's arithmetic. Default: auto.", choices=PRECISIONS),
    "groups": Option(
        "What in a file's path names the photos that belong together: folder:N, or a regular "
        "expression with a group; as `groups` in a recipe.",
        metavar="RULE",
    ),
    "margin": Option(
        "Differences of accuracy within so many points do not matter. Default: the recipes', 1.",
        metavar="POINTS",
    ),
    "track": Option(
        "Write epochs, figures and files to this tracker, too. Default: none.",
        choices=("none", "mlflow", "wandb", "tensorboard"),
    ),
    "min_per_class": Option(
        "Leave out classes of fewer photos. Default: 1, none.", metavar="N", least=1
    ),
    "settings": Option("Any recipe key, dotted: --set head.dropout=0.5.", "--set", "KEY=VALUE"),
    "skip_bad": Option("Leave out photos that cannot be decoded."),
    "out": Option("The folder to write.", metavar="DIR", type=Path),
    "run out": Option("The run folder. Default: a new one in runs/.", metavar="DIR", type=Path),
    "ensemble out": Option("Its folder. Default: a new one in runs/.", metavar="DIR", type=Path),
    "compare out": Option(
        "Its folder; the same command again goes on with it.", metavar="DIR", type=Path
    ),
    "evaluate out": Option("Default: evaluations/RUN-DATA.", metavar="DIR", type=Path),
    "export out": Option("A new folder. Default: RUN/exported/FORMAT.", metavar="DIR", type=Path),
    "predict out": Option(
        "Write to this file, whole or not at all, in the format of its suffix.",
        metavar="FILE",
        type=Path,
    ),
    "tune recipe": Option("A recipe in YAML, with a search.", metavar="RECIPE", type=Path),
    "trials": Option("How many settings to try.", metavar="N", least=1),
    "timeout": Option("Begin no trial after so many minutes.", metavar="MIN", least=0),
    "tune out": Option(
        "Its folder; the same command again goes on with it.", metavar="DIR", type=Path
    ),
    "resume": Option("Go on with the run in this folder.", metavar="RUN", type=Path),
    "cut": Option("Name of the cut. Default: above the last block.", metavar="NAME"),
    "pooling": Option(
        "What is written: whole maps, or pooled features.", choices=("none", "gap", "gmp")
    ),
    "blend": Option("How the members are weighed.", choices=("mean", "weighted")),
    "top": Option("How many classes to name for each photo.", metavar="N", least=1),
    "format": Option("What to write.", choices=tuple(FORMATS)),
    "predict format": Option(
        "Default: table; with --out, what its suffix says.",
        choices=("table", "csv", "json", "parquet"),
    ),
    "split": Option(
        "Default: test; all, where there are no splits.",
        choices=("test", "validation", "train", "all"),
    ),
    "layers": Option(
        "Whose maps are weighed. Default: the last ones.", "--layer", "NAME", type=list[str]
    ),
    "class_name": Option(
        "Whose evidence is sought. Default: the predicted one.", "--class", "NAME"
    ),
    "maps_of": Option("Draw this layer's maps, too.", "--feature-maps", "LAYER", type=list[str]),
    "channels": Option(
        "Channels of feature maps at most, the most active ones.", metavar="N", least=1
    ),
    "size": Option("Side of the photos in pixels.", metavar="PIXELS", least=32, most=1024),
    "name": Option("cats-and-dogs-small, clothing-small, sketches or digits.", metavar="NAME"),
    "source": Option(
        "A local copy: Kaggle's train/ folder or zip; the folder of clothing-small.",
        "--from",
        "PATH",
        type=Path,
    ),
    "serve model": Option("The folder of a finished run.", metavar="RUN", type=Path),
    "host": Option("The address to listen on; 0.0.0.0 is all.", metavar="ADDRESS"),
    "port": Option("0 is any free one.", metavar="N", least=0, most=65535),
    "older_than": Option("Days that an entry was not used.", metavar="DAYS", least=0),
    "dry_run": Option("Print what would be done and do nothing."),
}
_JSON = Option("Print one JSON object on stdout and nothing else.", "--json")


def verb(
    command: Callable[..., Any],
    text: Callable[[Any], str],
    example: str,
    *,
    plan: Callable[..., Any] | None = None,
    plan_text: Callable[[Any], str] | None = None,
    failure: Callable[[Any], FinetuneError | None] = lambda result: None,
) -> Callable[..., None]:
    """The command line of a command's function, for ``typer.Typer.command``.

    Positional parameters become arguments and keywords become options; ``reporter`` is this
    process's own, and ``--json`` is added.

    Args:
        command: a function of ``finetune.commands``.
        text: its result for a person.
        example: a command line that shows its use.
        plan: what ``--dry-run`` calls instead, with those of the values that it takes.
        plan_text: its result for a person.
        failure: the error that a printed result ends in.
    """
    inspected = inspect.signature(command).parameters

    def call(as_json: bool, dry_run: bool = False, **given: Any) -> None:
        chosen = plan if dry_run and plan else command
        if not plan and "dry_run" in inspected:
            given["dry_run"] = dry_run
        result = _called(chosen, given)
        shown = plan_text if chosen is plan and plan_text else text
        print_json(result) if as_json else print(shown(as_dict(result)))
        error = failure(as_dict(result)) if chosen is command else None
        if error:
            raise error

    extra = {"dry_run": False} if plan and "dry_run" not in inspected else {}
    return derived(command, call, example, {**extra, "as_json": False})


def derived(
    command: Callable[..., Any], call: Callable[..., None], example: str, extra: Mapping[str, Any]
) -> Callable[..., None]:
    """``call`` as typer wants it: with the signature of ``command``, its help and more options.

    Args:
        command: whose parameters and docstring these are.
        call: is called with all values by name.
        example: a command line that shows its use.
        extra: further options, parameter -> default.
    """
    name = command.__name__
    own = inspect.signature(command).parameters.values()
    parameters = [_parameter(name, item) for item in own if item.name != "reporter"]
    for key, default in extra.items():
        kind = inspect.Parameter.KEYWORD_ONLY
        item = inspect.Parameter(key, kind, default=default, annotation=_kind_of(default))
        parameters.append(_parameter(name, item))

    def function(**given: Any) -> None:
        call(**given)

    function.__name__ = name
    summary = (inspect.getdoc(command) or "").partition("\n\n")[0]
    function.__doc__ = f"{summary}\n\nExample: {example}"
    function.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    function.__annotations__ = {item.name: item.annotation for item in parameters}
    return function


def _parameter(command: str, item: inspect.Parameter) -> inspect.Parameter:
    """A parameter as typer reads it; an argument, where it can be given by position."""
    option = OPTIONS.get(f"{command} {item.name}") or OPTIONS.get(item.name, _JSON)
    kind: Any = option.type or _plain(item.annotation)
    default = None if item.default is inspect.Parameter.empty else item.default
    required = item.default is inspect.Parameter.empty
    words: dict[str, Any] = {"help": option.help, "metavar": option.metavar}
    if item.kind is inspect.Parameter.VAR_POSITIONAL:
        kind = list[kind]  # type: ignore[valid-type]
    if item.kind is inspect.Parameter.KEYWORD_ONLY:
        names = [option.name] if option.name else _names(item.name, kind, default)
        bounds = {"min": option.least, "max": option.most}
        words |= {key: value for key, value in bounds.items() if value is not None}
        shown = default not in (None, False, ()) and "Default:" not in option.help
        info = typer.Option(*names, show_default=shown, **words)
    else:
        info = typer.Argument(show_default=False, **words)
    if option.choices:
        kind = Literal[option.choices]
    if default == ():
        default = None
    optional = kind if required or default is not None else kind | None
    return inspect.Parameter(
        item.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=inspect.Parameter.empty if required else default,
        annotation=Annotated[optional, info],
    )


def _names(parameter: str, kind: Any, default: Any) -> list[str]:
    """``--skip-bad``; a flag that is on by default has its opposite, too."""
    name = parameter.replace("_", "-")
    return [f"--{name}/--no-{name}"] if kind is bool and default else [f"--{name}"]


def _plain(annotation: Any) -> Any:
    """An annotation without what the command line does not have: ``int | None`` is int."""
    if get_origin(annotation) in (Union, types.UnionType):
        kinds = [kind for kind in get_args(annotation) if kind is not type(None)]
        return _plain(kinds[0])
    if get_origin(annotation) is Sequence:
        return list[get_args(annotation)]  # type: ignore[misc]
    return annotation


def _kind_of(default: Any) -> Any:
    return str | None if default is None else type(default)


def _called(command: Callable[..., Any], given: Mapping[str, Any]) -> Any:
    """Call a command with those of the values that it takes."""
    positional: list[Any] = []
    keywords: dict[str, Any] = {}
    for item in inspect.signature(command).parameters.values():
        if item.name == "reporter":
            keywords["reporter"] = reporter()
        elif item.kind is inspect.Parameter.VAR_POSITIONAL:
            positional += given[item.name]
        elif given.get(item.name) is not None or item.default is inspect.Parameter.empty:
            keywords[item.name] = given[item.name]
    return command(*positional, **keywords)


def reporter() -> Reporter:
    """Where a command reports its progress."""
    return Reporter(settings["quiet"])


def say(text: str) -> None:
    """One line on stderr."""
    print(visible(text), file=sys.stderr)


def as_dict(result: Any) -> Any:
    """A command's result as plain values."""
    return result.to_json() if hasattr(result, "to_json") else result


def print_json(result: Any) -> None:
    """One JSON object on stdout; ValueError for NaN, as JSON has no word for it."""
    print(json.dumps(as_dict(result), allow_nan=False))
