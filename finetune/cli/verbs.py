"""From a command's function to its command line: the signature is the interface."""

import inspect
import json
import sys
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import typer

from finetune.cli.options import JSON, OPTIONS
from finetune.errors import FinetuneError, UsageError
from finetune.progress import Reporter, visible

NOTHING: Mapping[str, Any] = types.MappingProxyType({})
settings = {"quiet": False, "verbose": False}  # of this process, set by `-q` and `-v`


def verb(
    command: Callable[..., Any],
    text: Callable[[Any], str],
    example: str,
    *,
    plan: Callable[..., Any] | None = None,
    plan_text: Callable[[Any], str] | None = None,
    plan_failure: Callable[[Any], FinetuneError | None] = lambda plan: None,
    failure: Callable[[Any], FinetuneError | None] = lambda result: None,
    instead: Mapping[str, tuple[Callable[..., Any], Callable[[Any], str]]] = NOTHING,
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
        plan_failure: the error that a printed plan ends in.
        failure: the error that a printed result ends in.
        instead: further flags, each with what is called in the command's place, and its text.
    """
    inspected = inspect.signature(command).parameters

    def call(as_json: bool, dry_run: bool = False, **given: Any) -> None:
        chosen = plan if dry_run and plan else command
        if not plan and "dry_run" in inspected:
            given["dry_run"] = dry_run
        shown = plan_text if chosen is plan and plan_text else text
        for flag, (function, its_text) in instead.items():
            if given.pop(flag):
                _need_all_taken(flag, function, {**given, "dry_run": dry_run})
                chosen, shown = function, its_text
        result = _called(chosen, given)
        print_json(result) if as_json else print(visible(shown(as_dict(result))))
        error = (failure if chosen is command else plan_failure)(as_dict(result))
        if error:
            raise error

    extra = {"dry_run": False} if plan and "dry_run" not in inspected else {}
    flags = dict.fromkeys(instead, False)
    return derived(command, call, example, {**flags, **extra, "as_json": False})


def _need_all_taken(flag: str, command: Callable[..., Any], given: Mapping[str, Any]) -> None:
    """What a flag's own command does not take is refused, for it would be without effect."""
    taken = inspect.signature(command).parameters
    for name, value in given.items():
        if name not in taken and value not in (None, False, [], ()):
            words = [f"--{word.replace('_', '-')}" for word in (flag, name)]
            raise UsageError(f"{words[0]} does not go with {words[1]}; give one of the two.")


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
    option = OPTIONS.get(f"{command} {item.name}") or OPTIONS.get(item.name, JSON)
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
