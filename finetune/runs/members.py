"""The runs of an ensemble, read from their folders, and what must be alike in them before they can be combined."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from finetune.errors import DataError, UsageError
from finetune.recipe.recipe import Recipe, reopen
from finetune.report.sections import Predictions, read_predictions
from finetune.runs.folder import read_recipe, read_result


@dataclass(frozen=True)
class Member:
    """A finished run.

    Attributes:
        name: of its folder, or the whole path where two folders have one name.
        path: its folder, absolute.
        recipe: fully resolved.
        result: what it printed, see ``record.finish``.
        classes: names, in the order of the probabilities.
        splits: validation and test -> its predictions.
    """

    name: str
    path: Path
    recipe: Recipe
    result: Mapping[str, Any]
    classes: list[str]
    splits: Mapping[str, Predictions]


def read_members(runs: Sequence[Path], reserved: Sequence[str] = ()) -> list[Member]:
    """Read runs that can be combined.

    Args:
        runs: run folders.
        reserved: names that no member may have.

    Returns:
        The members in the order given; the photos of all are in the order of the first one's.

    Raises:
        UsageError: fewer than two, one of them twice, an ensemble, or runs that want their photos differently.
        DataError: no finished run, or runs on other photos or classes.
    """
    paths = [run.resolve() for run in runs]
    if len(paths) < 2 or len(set(paths)) < len(paths):
        listed = ", ".join(map(str, runs))
        raise UsageError(
            f"An ensemble needs two or more different runs, each given once; received {listed}."
        )
    names = [path.name for path in paths]
    if len({*names, *reserved}) < len(names) + len(reserved):
        names = [str(path) for path in paths]
    members = [_read(name, path) for name, path in zip(names, paths, strict=True)]
    for member in members[1:]:
        _check_alike(members[0], member)
    files = {name: split.files for name, split in members[0].splits.items()}
    return [
        replace(m, splits={name: m.splits[name].ordered(files[name]) for name in files})
        for m in members
    ]


def probabilities(members: Sequence[Member], split: str) -> list[np.ndarray]:
    """What each member gave the photos of a split: float64 (n, classes)."""
    return [member.splits[split].probabilities for member in members]


def _read(name: str, path: Path) -> Member:
    result = read_result(path)
    if result is None:
        raise DataError(
            f"{path} is no finished run: it holds no metrics.json. Give folders that `finetune run` has finished."
        )
    if "members" in result:
        raise UsageError(
            f"{path} is an ensemble, and an ensemble is made of runs. Give its members instead."
        )
    return Member(name, path, reopen(read_recipe(path)), result, *read_predictions(path))


def _check_alike(first: Member, other: Member) -> None:
    if first.result["split"] != other.result["split"]:
        digests = f"{first.result['split'][:16]} and {other.result['split'][:16]}"
        raise DataError(
            f"{first.name} and {other.name} saw different photos (split digests {digests}): what tests one may have trained "
            "the other. Combine runs on the same data set."
        )
    if first.classes != other.classes:
        raise DataError(
            f"{first.name} knows {', '.join(first.classes)}, and {other.name} knows {', '.join(other.classes)}. Combine runs "
            "with the same classes."
        )
    for key in ("image_size", "resize"):
        a, b = getattr(first.recipe, key), getattr(other.recipe, key)
        if a != b:
            raise UsageError(
                f"{first.name} has {key} {a}, and {other.name} has {b}; one model takes its photos in one way. Combine runs "
                f"with the same {key}."
            )
