"""From YAML and command-line settings to a recipe; every mistake is reported at once."""

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from finetune.data.augment import PRESETS
from finetune.errors import UsageError
from finetune.recipe.parts import PARTS, written_out
from finetune.recipe.recipe import Recipe
from finetune.recipe.yaml import Lines, parse, read

_BRANCHES = ("literal[", "int", "constrained-int", "list[")  # of a union, in pydantic's places


def load(
    path: Path | None, overrides: Mapping[str, Any], settings: Sequence[str] | None = None
) -> Recipe:
    """A recipe to run, from a file and the command line; later wins: file, options, ``--set``.

    Args:
        path: a YAML file, or None.
        overrides: top-level keys; None values are left out.
        settings: texts ``KEY=VALUE``, the key dotted (``head.dropout=0.5``), the value YAML.

    Raises:
        UsageError: everything that is wrong, at once, with file and line.
    """
    values, lines = parse(read(path), str(path)) if path else ({}, {})
    if "matrix" in values:
        raise UsageError(f"{path} holds a matrix of recipes; `finetune compare {path}` runs them.")
    values |= {key: value for key, value in overrides.items() if value is not None}
    if "search" in values:
        raise UsageError(f"{path or 'recipe'} holds a search; `finetune tune` runs it.")
    for setting in settings or []:
        _set(values, setting)
    return build(values, str(path) if path else "recipe", lines)


def reopen(path: Path) -> Recipe:
    """The recipe of a finished run, to be read and not to be run: what it took may be missing on
    this machine.

    Raises:
        UsageError: as ``load``.
    """
    values, lines = parse(read(path), str(path))
    return build(values, str(path), lines, finished=True)


def _set(values: dict[str, Any], setting: str) -> None:
    key, equals, text = setting.partition("=")
    if not equals:
        raise UsageError(f"--set {setting}: expected KEY=VALUE, as in --set head.dropout=0.5.")
    source = f"--set {setting}"
    assign(values, key.strip(), parse(f"value: {text}", source)[0]["value"], source)


def assign(values: dict[str, Any], key: str, value: Any, source: str) -> None:
    """Set a dotted key in nested settings; a short form on the way (``head: gap``) is written out.

    Raises:
        UsageError: a key on the way holds a plain value; ``source`` says where.
    """
    *parents, last = key.split(".")
    for parent in parents:
        inner = values.get(parent) or {}
        if isinstance(inner, str):
            inner = written_out(parent, inner) or inner
        if not isinstance(inner, dict):
            allowed = f"; allowed are {', '.join(PRESETS)}" if parent == "augment" else ""
            raise UsageError(
                f"{source}: {parent} is {inner!r} and has no keys of its own{allowed}."
            )
        values[parent] = dict(inner)
        values = values[parent]
    values[last] = value


def build(values: Mapping[str, Any], source: str, lines: Lines, finished: bool = False) -> Recipe:
    """Validate settings into a Recipe; ``values`` and ``lines`` are as ``parse`` returns them.

    A ``finished`` recipe was run already, see ``reopen``. Raises UsageError with all mistakes.
    """
    try:
        return Recipe.model_validate(dict(values), context={"finished": finished})
    except ValidationError as error:
        messages = [_explain(mistake, source, lines) for mistake in error.errors()]
        raise UsageError("\n".join(dict.fromkeys(messages))) from error


def _explain(mistake: Mapping[str, Any], source: str, lines: Lines) -> str:
    loc = [part for part in mistake["loc"] if not str(part).startswith(_BRANCHES)]
    path = tuple(loc)
    line = next((lines[path[:end]] for end in range(len(path), 0, -1) if path[:end] in lines), None)
    where = f"{source}:{line}" if line else source
    key = ".".join(map(str, path))
    if mistake["type"] == "extra_forbidden":
        hint = _hint(path)
        return f"{where}: unknown key '{key}'; {hint}"
    message = mistake["msg"].removeprefix("Value error, ")
    if mistake["type"] == "value_error" or not key:
        return f"{where}: {message}."
    return f"{where}: {key} is {mistake['input']!r}: {message[0].lower()}{message[1:]}."


def _hint(path: Sequence[Any]) -> str:
    """What an unknown key may have been meant as."""
    key = str(path[-1])
    if path == ("tensorboard",):
        return "it is `track: tensorboard` now"
    model = PARTS.get(str(path[0]), Recipe) if len(path) > 1 else Recipe
    meant = {name: name for name in model.model_fields}
    if model is Recipe:
        meant = nested_keys() | meant
    near = difflib.get_close_matches(key, meant, n=1)
    if near:
        return f"did you mean '{meant[near[0]]}'?"
    return f"allowed are {', '.join(model.model_fields)}."


def nested_keys() -> dict[str, str]:
    """Keys of tables by their own name: ``dropout`` -> ``head.dropout``."""
    return {name: f"{table}.{name}" for table, part in PARTS.items() for name in part.model_fields}
