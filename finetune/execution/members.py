"""Finished runs that can be combined, and what they are combined to."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.data.dataset import Dataset
from finetune.errors import DataError, UsageError
from finetune.recipe.reading import reopen
from finetune.recipe.recipe import Recipe
from finetune.runs.folder import checked, read_digests, read_recipe, read_result
from finetune.runs.predictions import Predictions, read_predictions

if TYPE_CHECKING:
    import keras


@dataclass(frozen=True)
class Member:
    """A finished run; its name is that of its folder, or the whole path where two are alike."""

    name: str
    path: Path
    recipe: Recipe
    result: Mapping[str, Any]
    classes: list[str]
    splits: Mapping[str, Predictions]


@dataclass(frozen=True)
class Mixed:
    """What runs were combined to.

    Attributes:
        model: uint8 photos -> probabilities.
        weights: of the members, with sum 1.
        splits: what it gives of the validation and test photos.
        difference: between a joined model and the mean of its members, see ``ensemble.audit``; of
            averaged weights None.
    """

    model: "keras.Model"
    weights: Sequence[float]
    splits: Mapping[str, Predictions]
    difference: float | None


def read_members(paths: Sequence[Path]) -> list[Member]:
    """Runs that can be combined, their photos in the order of the first one's."""
    resolved = [path.resolve() for path in paths]
    if len(resolved) < 2 or len(set(resolved)) < len(resolved):
        listed = ", ".join(map(str, paths)) or "none"
        raise UsageError(
            f"An ensemble needs two or more different runs, each given once; received {listed}."
        )
    unique = len({path.name for path in resolved}) == len(resolved)
    members = [_read(path.name if unique else str(path), path) for path in resolved]
    for member in members[1:]:
        _check_alike(members[0], member)
    files = {name: split.files for name, split in members[0].splits.items()}
    return [
        replace(m, splits={name: m.splits[name].ordered(files[name]) for name in files})
        for m in members
    ]


def _read(name: str, path: Path) -> Member:
    result = read_result(path)
    if result is None:
        raise DataError(
            f"{path} is no finished run: it holds no metrics.json. Give folders that `finetune "
            "run` has finished."
        )
    if "members" in result:
        raise UsageError(
            f"{path} is an ensemble, and an ensemble is made of runs. Give its members instead."
        )
    recipe = read_recipe(path)
    checked(path, "recipe.yaml", "classes.json", "predictions.csv")
    return Member(name, path, reopen(recipe), result, *read_predictions(path))


def changed_files(member: Member, dataset: Dataset) -> set[str]:
    """Files that a run predicted and that are gone now, or hold another photo."""
    now = {photo.file: photo.sha256 for photo in dataset.photos}
    then = now | read_digests(member.path)  # an early run kept no digests
    files = {file for split in member.splits.values() for file in split.files}
    return {file for file in files if file not in now or now[file] != then[file]}


def _check_alike(first: Member, other: Member) -> None:
    digests = [member.result["split"] for member in (first, other)]
    classes = [", ".join(member.classes) for member in (first, other)]
    size = [member.recipe.image_size for member in (first, other)]
    resize = [member.recipe.resize for member in (first, other)]
    tta = [member.recipe.tta for member in (first, other)]
    alike: tuple[tuple[str, list, type[Exception]], ...] = (
        ("other photos in training and test, split digest", digests, DataError),
        ("classes", classes, DataError),
        ("image_size", size, UsageError),
        ("resize", resize, UsageError),
        ("tta", tta, UsageError),
    )
    for key, (a, b), error in alike:
        if a != b:
            raise error(
                f"{other.name} has {key} {b}, and {first.name} has {a}. Combine runs on the same "
                "photos, with the same classes, image_size, resize and tta."
            )
