"""What each swept setting of a matrix does, by the pairs of recipes that differ in it alone."""

import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from finetune.data.augment import PRESETS
from finetune.evaluation.planning import MARGIN
from finetune.evaluation.significance import Crossed
from finetune.recipe.yaml import parse, read

# What goes with a choice and means nothing across it: 100 epochs of a head are not 20 epochs of a
# block.
_COMPANIONS = {
    "strategy": {"epochs", "learning_rate", "views", "blocks", "solver"},
    "augment": {"views"},
    "head": {"solver"},
}
_NO_SETTINGS = ("data", "seed", "engine", "skip_bad", "track", "margin")


def read_settings(run: Path) -> dict[str, str]:
    """The resolved recipe of a run folder as axis -> value in words; ``head`` and ``augment`` are
    one axis each.
    """
    recipe = _recipe(run)
    head = dict(recipe.pop("head"))
    settings = {
        "solver": head.pop("solver"),
        "head": _head(head),
        "augment": _augment(recipe.pop("augment")),
    }
    settings |= {axis: str(value) for axis, value in recipe.items() if axis not in _NO_SETTINGS}
    return {axis: settings[axis] for axis in ("backbone", "strategy", "head", "augment", *settings)}


def data_name(run: Path) -> str:
    """What the recipe of a run folder calls its photos: a name, or the last part of a path."""
    return Path(_recipe(run)["data"]).name or "photos"


def _recipe(run: Path) -> dict[str, Any]:
    path = run / "recipe.yaml"
    return parse(read(path), str(path))[0]


def effects(
    settings: Mapping[str, Mapping[str, str]], crossed: Crossed, margin: float = MARGIN
) -> list[dict[str, Any]]:
    """What each swept setting does: its main effect, pooled over the pairs that differ in it alone.

    Two recipes differ in a setting alone when nothing else differs but what goes with it: epochs,
    learning rate, views, blocks and solver with the strategy, views with the augmentation, the
    solver with the head.

    Args:
        settings: recipe -> setting -> value, from ``read_settings``.
        crossed: of the test accuracies.
        margin: a difference of accuracy (fraction) under it does not matter.

    Returns:
        One dict per setting in which any two recipes differ alone: axis, pairs (their number) and
        contrasts, one dict per two values: value, against, pairs, difference (fraction, at least
        0) with low and high (95 %, simultaneous over all contrasts), p, alike (whether the
        interval lies within the margin) and scope ("models" or "recipes").
    """
    matched = _matched(settings, crossed.names)
    if not matched:
        return []
    weights = np.zeros((len(crossed.names), len(matched)))
    for column, pairs in enumerate(matched.values()):
        for a, b in pairs:
            weights[a, column] += 1 / len(pairs)
            weights[b, column] -= 1 / len(pairs)
    found: dict[str, dict[str, Any]] = {}
    tested = crossed.contrasts(weights).to_dict("records")
    for ((axis, value, against), pairs), row in zip(matched.items(), tested, strict=True):
        one = {"value": value, "against": against, "pairs": len(pairs), **row}
        one["alike"] = bool(-margin < row["low"] and row["high"] < margin)
        involved = sorted({recipe for pair in pairs for recipe in pair})
        one["scope"] = "recipes" if crossed.known[involved].all() else "models"
        effect = found.setdefault(axis, {"axis": axis, "pairs": 0, "contrasts": []})
        effect["pairs"] += len(pairs)
        effect["contrasts"].append(_upright(one))
    order = [axis for axis in next(iter(settings.values())) if axis in found]
    return [found[axis] for axis in order]


def _matched(
    settings: Mapping[str, Mapping[str, str]], names: Sequence[str]
) -> dict[tuple[str, str, str], list[tuple[int, int]]]:
    """(setting, value, other value) -> the pairs of recipes, by number, that differ in it alone."""
    matched: dict[tuple[str, str, str], list[tuple[int, int]]] = {}
    for first, second in itertools.combinations(range(len(names)), 2):
        a, b = settings[names[first]], settings[names[second]]
        changed = {axis for axis in {**a, **b} if a.get(axis) != b.get(axis)}
        for axis in sorted(changed):
            if changed - _COMPANIONS.get(axis, set()) == {axis}:
                values = (a.get(axis, "unset"), b.get(axis, "unset"))
                if (axis, *values[::-1]) in matched:
                    matched[(axis, *values[::-1])].append((second, first))
                else:
                    matched.setdefault((axis, *values), []).append((first, second))
    return matched


def _upright(contrast: dict[str, Any]) -> dict[str, Any]:
    """Turned round where the difference is negative."""
    if contrast["difference"] >= 0:
        return contrast
    swapped = {"value": contrast["against"], "against": contrast["value"]}
    size = {"difference": -contrast["difference"]}
    return {**contrast, **swapped, **size, "low": -contrast["high"], "high": -contrast["low"]}


def _head(head: dict[str, Any]) -> str:
    """``gap``, or ``gap, hidden 256, dropout 0.5``."""
    extras = [f"{key} {value}" for key, value in head.items() if key != "pool" and value]
    return ", ".join([head["pool"], *extras])


def _augment(augment: dict[str, Any]) -> str:
    """The preset's name, or what is switched on."""
    names = [name for name, preset in PRESETS.items() if preset == augment]
    return (
        names[0] if names else json.dumps({key: value for key, value in augment.items() if value})
    )
