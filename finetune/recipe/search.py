"""A recipe with a ``search`` of ranges and choices: the space that ``finetune tune`` looks through.

``search: {learning_rate: {log: [1e-6, 1e-3]}, blocks: [1, 2], head.dropout: {range: [0, 0.6]}}``
"""

import copy
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from os import PathLike
from pathlib import Path
from typing import Any, get_args

from finetune.errors import UsageError
from finetune.recipe.reading import assign, build
from finetune.recipe.recipe import Recipe
from finetune.recipe.yaml import Lines, parse, read

# What no validation photo can choose: other photos, the luck of a seed, and what changes no result.
_FIXED = {
    "data": "it changes the photos that trials are compared on",
    "groups": "it changes the photos that trials are compared on",
    "min_per_class": "it changes the photos that trials are compared on",
    "skip_bad": "it changes the photos that trials are compared on",
    "seed": "the best of several seeds is luck that no other photo repeats",
    "folds": "it does not change what a trial finds",
    "repeats": "it does not change what a trial finds",
    "engine": "it does not change what a trial finds",
    "margin": "it does not change what a trial finds",
    "track": "it does not change what a trial finds",
}
_EXPECTED = "expected a list of values, {range: [LOW, HIGH]} or {log: [LOW, HIGH]}"


@dataclass(frozen=True)
class Domain:
    """Values that a setting may take: ``choices``, or numbers from ``low`` to ``high``.

    ``log`` draws their logarithm evenly; ``whole`` allows whole numbers only.
    """

    choices: tuple[Any, ...] = ()
    low: float = 0
    high: float = 0
    log: bool = False
    whole: bool = False

    @property
    def ends(self) -> tuple[Any, ...]:
        """The values that show whether all are allowed."""
        return self.choices or (self.low, self.high)


@dataclass(frozen=True)
class Search:
    """Fixed values of a recipe, and the domain of each setting that is searched, by dotted key."""

    source: str
    values: dict[str, Any]
    domains: dict[str, Domain]

    def recipe(self, settings: Mapping[str, Any]) -> Recipe:
        """The recipe with these settings; UsageError where they contradict each other."""
        listed = ", ".join(f"{key}: {value}" for key, value in settings.items())
        return _with(self.values, settings, f"{self.source} ({listed})", {})

    def fields(self) -> dict[str, Any]:
        """What the search is, as JSON values."""
        domains = {key: asdict(domain) for key, domain in self.domains.items()}
        return {"values": self.values, "domains": domains}


def read_search(
    recipe: Path | str | PathLike[str] | Mapping[str, Any], given: Mapping[str, Any] = {}
) -> Search:
    """The search of a recipe file, or of a mapping of its keys; ``given`` values override its own.

    Each value, and each end of a range, must go with the first values of the other settings.

    Raises:
        UsageError: everything that is wrong in it, with file and line.
    """
    if isinstance(recipe, Mapping):
        source = "recipe"
        values, lines = copy.deepcopy(dict(recipe)), Lines()
    else:
        source = str(recipe)
        values, lines = parse(read(Path(recipe)), source)
    table = values.pop("search", None)
    if not isinstance(table, dict) or not table or "matrix" in values:
        found = "a matrix" if "matrix" in values else f"search: {table!r}"
        raise UsageError(
            f"{_place(source, lines, 'search')}: this recipe holds {found}; expected a search and "
            "no matrix, as in search: {learning_rate: {log: [1e-6, 1e-3]}, blocks: [1, 2]}."
        )
    if searched := sorted(set(table) & set(given)):
        raise UsageError(
            f"{_place(source, lines, 'search', searched[0])}: {searched[0]} is searched and given "
            f"as --{searched[0]}. Drop one of the two."
        )
    values |= given
    places = {key: _place(source, lines, "search", key) for key in table}
    mistakes: list[str] = []
    domains = {}
    for key, value in table.items():
        try:
            domains[key] = _domain(key, value)
        except ValueError as error:
            mistakes.append(f"{places[key]}: {key} is {value!r}; {error}.")
    if mistakes:
        raise UsageError("\n".join(mistakes))
    moved = {tuple(key.split(".")): lines.get(("search", key), 1) for key in table if lines}
    first = {key: domain.ends[0] for key, domain in domains.items()}
    _with(values, first, source, lines | moved)
    for key, domain in domains.items():
        for value in domain.ends[1:]:
            try:
                _with(values, {**first, key: value}, places[key], {})
            except UsageError as error:
                mistakes += str(error).splitlines()
    if mistakes:
        raise UsageError("\n".join(dict.fromkeys(mistakes)))
    return Search(source, values, domains)


def _place(source: str, lines: Lines, *path: str) -> str:
    line = lines.get(path, lines.get(path[:1]))
    return f"{source}:{line}" if line else source


def _with(
    values: Mapping[str, Any], settings: Mapping[str, Any], source: str, lines: Lines
) -> Recipe:
    chosen = copy.deepcopy(dict(values))
    for key, value in settings.items():
        assign(chosen, key, value, source)
    return build(chosen, source, lines)


def _domain(key: str, value: Any) -> Domain:
    """Raises ValueError: what is expected instead."""
    if key in _FIXED:
        raise ValueError(f"{key} cannot be searched: {_FIXED[key]}. Set it beside search")
    if isinstance(value, list):
        if not value or not all(isinstance(choice, str | int | float) for choice in value):
            raise ValueError(f"{_EXPECTED}, the values texts, numbers, true or false")
        return Domain(choices=tuple(value))
    if not isinstance(value, dict) or len(value) != 1 or not {"log", "range"} & set(value):
        raise ValueError(_EXPECTED)
    ((scale, ends),) = value.items()
    numbers = isinstance(ends, list) and [type(end) in (int, float) for end in ends] == [True] * 2
    if not numbers or not ends[0] < ends[1]:
        raise ValueError(f"expected {{{scale}: [LOW, HIGH]}}, two numbers, the lower one first")
    if scale == "log" and ends[0] <= 0:
        raise ValueError("a logarithm needs numbers above 0; set a higher LOW, or use range")
    return Domain(low=ends[0], high=ends[1], log=scale == "log", whole=_is_whole(key))


def _is_whole(key: str) -> bool:
    """Whether a setting takes whole numbers only; an unknown one is a mistake that ``build``
    finds.
    """
    model: Any = Recipe
    for name in key.split("."):
        field = getattr(model, "model_fields", {}).get(name)
        if field is None:
            return False
        model = field.annotation
    return float not in (model, *get_args(model))
