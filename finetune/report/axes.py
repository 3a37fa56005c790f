"""What each setting of a matrix does, told by the pairs of recipes that differ in it alone."""

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from finetune.data.augment import PRESETS
from finetune.recipe.yaml import parse

# What goes with a choice and means nothing across it: 100 epochs of a head are not 20 epochs of a block.
_COMPANIONS = {
    "strategy": {"epochs", "learning_rate", "views", "blocks", "solver"},
    "augment": {"views"},
    "head": {"solver"},
}
_NO_SETTINGS = ("data", "seed", "engine", "skip_bad", "tensorboard")


def read_settings(run: Path) -> dict[str, str]:
    """The resolved recipe of a run folder as axis -> value in words; ``head`` and ``augment`` are one axis each."""
    recipe = parse((run / "recipe.yaml").read_text(encoding="utf-8"), str(run))[0]
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
    return (
        Path(parse((run / "recipe.yaml").read_text(encoding="utf-8"), str(run))[0]["data"]).name
        or "photos"
    )


def effects(settings: Mapping[str, Mapping[str, str]], pairs: pd.DataFrame) -> list[dict[str, Any]]:
    """What each axis does.

    Two recipes differ in an axis alone when nothing else differs but what goes with it: epochs, learning rate, views,
    blocks and solver with the strategy, views with the augmentation, the solver with the head.

    Args:
        settings: recipe -> axis -> value, from :func:`read_settings`.
        pairs: from ``significance.compare_pairs``.

    Returns:
        One dict per axis in which any two recipes differ alone: axis, pairs and apart (numbers of pairs), wins (value
        -> pairs won, most first).
    """
    found: dict[str, dict[str, Any]] = {}
    for row in pairs.itertuples():
        a, b = settings[row.a], settings[row.b]
        changed = {axis for axis in {**a, **b} if a.get(axis) != b.get(axis)}
        alone = [axis for axis in changed if changed - _COMPANIONS.get(axis, set()) == {axis}]
        for axis in alone:
            effect = found.setdefault(
                axis, {"axis": axis, "pairs": 0, "apart": 0, "wins": Counter()}
            )
            effect["pairs"] += 1
            if row.better:
                effect["apart"] += 1
                effect["wins"][settings[row.better].get(axis, "unset")] += 1
    order = [axis for axis in next(iter(settings.values())) if axis in found]
    return [{**found[axis], "wins": dict(found[axis]["wins"].most_common())} for axis in order]


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
