"""A recipe with a ``matrix`` of axes to its cells: every combination, named, in a fixed order."""

import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune.errors import UsageError
from finetune.recipe.recipe import Recipe, assign, build, parse, read


@dataclass(frozen=True)
class Cell:
    """One recipe of a comparison. Cells that differ in nothing but the seed share ``group``."""

    name: str
    group: str
    recipe: Recipe
    settings: dict[str, Any]  # axis -> value, as the matrix varied them


def collect(paths: Sequence[Path]) -> list[Cell]:
    """Cells of recipe files and of the YAML files directly in folders.

    Raises:
        UsageError: no recipe, a mistake in any of them (all are reported), or two cells of one name.
    """
    files = [
        file
        for path in paths
        for file in ([path] if not path.is_dir() else sorted(path.glob("*.y*ml")))
    ]
    if not files:
        raise UsageError(
            f"No recipe in {', '.join(map(str, paths))}. Give YAML files, or a folder that holds some."
        )
    cells: list[Cell] = []
    mistakes: list[str] = []
    for file in files:
        try:
            cells += expand(file)
        except UsageError as error:
            mistakes.append(str(error))
    if mistakes:
        raise UsageError("\n".join(mistakes))
    names = [cell.name for cell in cells]
    if twice := {name for name in names if names.count(name) > 1}:
        raise UsageError(
            f"Two cells are called {sorted(twice)[0]}. Give the recipe files names that differ."
        )
    return cells


def expand(path: Path) -> list[Cell]:
    """The cells of one recipe file; a file without ``matrix`` is one cell.

    Axes are recipe keys, dotted if nested (``head.dropout``). ``exclude``, in the matrix or beside it, lists partial
    combinations that are left out.

    Raises:
        UsageError: with file and line.
    """
    values, lines = parse(read(path), str(path))
    matrix = values.pop("matrix", {})
    line = lines.get(("matrix",), 1)
    if not isinstance(matrix, dict):
        raise UsageError(
            f"{path}:{line}: matrix is {matrix!r}; expected axes, as in matrix: {{seed: [0, 1, 2]}}."
        )
    exclude = [
        *_table(matrix.pop("exclude", []), path, line),
        *_table(values.pop("exclude", []), path, line),
    ]
    for axis, choices in matrix.items():
        if not isinstance(choices, list) or not choices:
            raise UsageError(
                f"{path}:{lines.get(('matrix', axis), line)}: the axis {axis} is {choices!r}; expected a list."
            )
    if unknown := {key for rule in exclude for key in rule} - {*matrix, *values}:
        raise UsageError(
            f"{path}:{line}: exclude names {', '.join(sorted(unknown))}, which is no axis of this matrix."
        )
    return list(_cells(path, values, matrix, exclude, lines))


def _cells(
    path: Path,
    values: dict[str, Any],
    matrix: Mapping[str, list],
    exclude: list[dict],
    lines: Mapping,
) -> Iterator[Cell]:
    for combination in itertools.product(*matrix.values()):
        settings = dict(zip(matrix, combination, strict=True))
        if any(
            all(settings.get(key, values.get(key)) == value for key, value in rule.items())
            for rule in exclude
        ):
            continue
        chosen = json.loads(json.dumps(values))  # a deep copy of plain values
        for axis, value in settings.items():
            assign(chosen, axis, value)
        recipe = build(
            chosen,
            f"{path} ({', '.join(f'{k}: {v}' for k, v in settings.items())})"
            if matrix
            else str(path),
            lines,
        )
        words = [
            path.stem,
            *(_word(axis, value, matrix) for axis, value in settings.items() if axis != "seed"),
        ]
        group = re.sub(r"[^\w.-]+", "_", "-".join(words))
        yield Cell(
            f"{group}-s{recipe.seed}" if "seed" in settings else group, group, recipe, settings
        )


def _word(axis: str, value: Any, matrix: Mapping[str, list]) -> str:
    """An axis's value in a name: as it stands if it says enough, with the axis if it is a number, else by its place."""
    if isinstance(value, str):
        return value
    name = axis.split(".")[-1]
    return (
        f"{name}{value}"
        if isinstance(value, int | float)
        else f"{name}{matrix[axis].index(value) + 1}"
    )


def _table(value: Any, path: Path, line: int) -> list[dict]:
    if not isinstance(value, list) or not all(isinstance(rule, dict) for rule in value):
        raise UsageError(
            f"{path}:{line}: exclude is {value!r}; expected a list of combinations, as in [{{head: flatten}}]."
        )
    return value
