"""A recipe with a ``matrix`` of swept settings to its trials: every combination, in order."""

import copy
import itertools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune.errors import UsageError
from finetune.progress import count
from finetune.recipe.reading import assign, build
from finetune.recipe.recipe import Recipe
from finetune.recipe.yaml import Lines, parse, read

MOST_TRIALS = 10_000  # of one matrix; at a minute each, a week


@dataclass(frozen=True)
class Trial:
    """One recipe of a comparison; trials that differ in nothing but the seed share ``group``.

    ``settings`` are the swept settings and the values that they have here.
    """

    name: str
    group: str
    recipe: Recipe
    settings: dict[str, Any]


@dataclass(frozen=True)
class _Matrix:
    """What a recipe file holds: fixed values, swept settings with their choices, exclusions."""

    path: Path
    values: dict[str, Any]
    swept: dict[str, list]
    exclude: list[dict]
    lines: Lines

    def trials(self) -> Iterator[Trial]:
        """Every combination that is not excluded."""
        for combination in itertools.product(*self.swept.values()):
            settings = dict(zip(self.swept, combination, strict=True))
            if not any(self._fits(rule, settings) for rule in self.exclude):
                yield self._trial(settings)

    def _fits(self, rule: Mapping[str, Any], settings: Mapping[str, Any]) -> bool:
        return all(settings.get(key, self.values.get(key)) == rule[key] for key in rule)

    def _trial(self, settings: dict[str, Any]) -> Trial:
        chosen = copy.deepcopy(self.values)
        listed = ", ".join(f"{key}: {value}" for key, value in settings.items())
        source = f"{self.path} ({listed})" if listed else str(self.path)
        for key, value in settings.items():
            assign(chosen, key, value, source)
        recipe = build(chosen, source, self.lines)
        words = [self._word(key, value) for key, value in settings.items() if key != "seed"]
        group = re.sub(r"[^\w.-]+", "_", "-".join([self.path.stem, *words]))
        name = f"{group}-s{recipe.seed}" if "seed" in settings else group
        return Trial(name, group, recipe, settings)

    def _word(self, key: str, value: Any) -> str:
        """A value in a name: as it stands if it is text, with its key if a number, else by
        place.
        """
        if isinstance(value, str):
            return value
        name = key.split(".")[-1]
        is_number = isinstance(value, int | float)
        return f"{name}{value}" if is_number else f"{name}{self.swept[key].index(value) + 1}"


def collect(paths: Sequence[Path | str]) -> list[Trial]:
    """Trials of recipe files and of the YAML files directly in folders.

    Raises:
        UsageError: no recipe, a mistake in any of them (all are reported), two trials of one name,
            or other recipes under the name of one.
    """
    files: list[Path] = []
    for path in map(Path, paths):
        files += sorted(path.glob("*.y*ml")) if path.is_dir() else [path]
    if not files:
        listed = ", ".join(map(str, paths))
        raise UsageError(f"No recipe in {listed}. Give YAML files, or a folder that holds some.")
    trials: list[Trial] = []
    mistakes: list[str] = []
    for file in files:
        try:
            trials += expand(file)
        except UsageError as error:
            mistakes.append(str(error))
    if mistakes:
        raise UsageError("\n".join(mistakes))
    seen: set[str] = set()
    first: dict[str, Recipe] = {}
    for trial in trials:
        if trial.name in seen:
            raise UsageError(
                f"Two trials are called {trial.name}. Give the recipe files names that differ."
            )
        seen.add(trial.name)
        one = trial.recipe.model_copy(update={"seed": 0})
        if first.setdefault(trial.group, one) != one:
            raise UsageError(
                f"Two recipes that differ in more than the seed are called {trial.group}, and the "
                "table would take them for one. Give the recipe files names that differ."
            )
    return trials


def expand(path: Path) -> list[Trial]:
    """The trials of one recipe file; a file without ``matrix`` is one trial.

    Swept settings are recipe keys, dotted if nested (``head.dropout``). ``exclude``, in the matrix
    or beside it, lists partial combinations that are left out.

    Raises:
        UsageError: with file and line; also for more than ``MOST_TRIALS``.
    """
    values, lines = parse(read(path), str(path))
    if "search" in values:
        raise UsageError(f"{path} holds a search; `finetune tune {path}` runs it.")
    swept = values.pop("matrix", {})
    place = f"{path}:{lines.get(('matrix',), 1)}"
    if not isinstance(swept, dict):
        raise UsageError(
            f"{place}: matrix is {swept!r}; expected swept settings, as in "
            "matrix: {seed: [0, 1, 2]}."
        )
    rules = [_rules(table.pop("exclude", []), place) for table in (swept, values)]
    for key, choices in swept.items():
        if not isinstance(choices, list) or not choices:
            line = lines.get(("matrix", key), lines.get(("matrix",), 1))
            raise UsageError(f"{path}:{line}: {key} is {choices!r}; expected a list of values.")
    exclude = [*rules[0], *rules[1]]
    if unknown := {key for rule in exclude for key in rule} - {*swept, *values}:
        names = ", ".join(sorted(unknown))
        raise UsageError(f"{place}: exclude names {names}, which this recipe does not set.")
    number = math.prod(map(len, swept.values()))
    if number > MOST_TRIALS:
        raise UsageError(
            f"{place}: {number:,} trials; allowed are {MOST_TRIALS:,}. Sweep fewer values."
        )
    trials = list(_Matrix(path, values, swept, exclude, lines).trials())
    if not trials:
        raise UsageError(
            f"{place}: exclude leaves none of {count(number, 'trial')}. Exclude fewer combinations."
        )
    return trials


def _rules(value: Any, place: str) -> list[dict]:
    if not isinstance(value, list) or not all(isinstance(rule, dict) for rule in value):
        raise UsageError(
            f"{place}: exclude is {value!r}; expected a list of combinations, as in "
            "[{head: flatten}]."
        )
    return value
