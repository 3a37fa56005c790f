"""The run folder: what a run leaves behind, every file committed whole, ``metrics.json`` last."""

import importlib.metadata
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from finetune import __version__
from finetune.data.dataset import Dataset
from finetune.disk import need_space
from finetune.errors import UsageError
from finetune.evaluation import plots
from finetune.evaluation.metrics import confusion, measure
from finetune.files import commit, commit_by_name, commit_csv, commit_json, commit_text, sync_folder
from finetune.recipe.reading import reopen
from finetune.recipe.recipe import Recipe
from finetune.runs import card, ledger
from finetune.runs.folder import PHOTOS, RESULT, RunResult

CHECKPOINT = "checkpoint.npz"
HISTORY = (
    "phase",
    "epoch",
    "loss",
    "accuracy",
    "val_loss",
    "val_accuracy",
    "learning_rate",
    "seconds",
)
# keys of a recipe that change how a run goes and not what it finds on the same photos
INCIDENTAL = {"skip_bad", "track", "engine", "margin"}
_PACKAGES = (
    "tensorflow",
    "keras",
    "openvino",
    "numpy",
    "pandas",
    "scikit-learn",
    "scipy",
    "pillow",
    "pydantic",
)
_SMALL_FILES = 2**20  # bytes of everything but the model


def same_recipe(path: Path, recipe: Recipe) -> bool:
    """Whether the recipe file of a run folder asks for the same result; not if it cannot be
    read.
    """
    try:
        other = reopen(path)
    except UsageError:
        return False
    return identity(other) == identity(recipe)


def identity(recipe: Recipe) -> dict[str, Any]:
    """What of a recipe its result depends on."""
    return recipe.model_dump(exclude=INCIDENTAL)


def check_free(out: Path, recipe: Recipe) -> None:
    """Whether a folder may be used for a run.

    Raises:
        UsageError: it holds a finished run, or an unfinished one of another recipe.
    """
    if (out / RESULT).exists():
        raise UsageError(
            f"{out} already holds a finished run. Choose another --out, or delete the folder."
        )
    if (out / "recipe.yaml").exists() and not same_recipe(out / "recipe.yaml", recipe):
        raise UsageError(
            f"{out} holds an unfinished run of another recipe. Choose another --out, or go on with "
            f"--resume {out}."
        )


def begin(out: Path, recipe: Recipe, dataset: Dataset) -> None:
    """Claim a run folder."""
    commit_text(out / "recipe.yaml", recipe.dump())
    commit_json(out / "classes.json", list(dataset.classes))


def checkpoint(out: Path, phase: str) -> Path:
    """Where a phase is gone on from; a finished one keeps its own until the run is finished."""
    return out / (CHECKPOINT if phase == "tail" else f".{phase}.npz")


def measured(dataset: Dataset, split: str, probabilities: np.ndarray) -> dict[str, Any]:
    """The metrics of a split, with those of each class."""
    groups = dataset.group_ids(split)
    return measure(probabilities, dataset.labels(split), dataset.classes, groups)


def finish(
    out: Path,
    recipe: Recipe,
    dataset: Dataset,
    save: Callable[[Path], object],
    history: Sequence[Mapping[str, Any]],
    probabilities: Mapping[str, np.ndarray],
    result: RunResult,
    explanations: Image.Image | None = None,
    begun: float | None = None,
) -> RunResult:
    """Write a run folder.

    Args:
        out: the folder.
        recipe: fully resolved.
        dataset: the photos that were used.
        save: writes the model, which takes raw uint8 photos, to a path.
        history: rows of ``fit``; empty if nothing was trained by epochs.
        probabilities: split -> (n, classes), in the order of its photos.
        result: of the run.
        explanations: a contact sheet, see ``evaluation.explained``.
        begun: ``time.perf_counter()`` when the command began, for ``seconds["command"]``.

    Returns:
        ``result`` with the digests of the files.
    """
    size = 4 * result.parameters["total"]
    need_space(out, size + _SMALL_FILES)
    commit_by_name(out / "model.keras", save, size)  # Keras writes in place and by name only
    if dataset.excluded:
        excluded = pd.DataFrame(dataset.excluded, columns=["file", "reason"])
        commit_csv(out / "excluded.csv", excluded)
    commit_csv(out / "history.csv", pd.DataFrame(history, columns=list(HISTORY)))
    commit_csv(out / "predictions.csv", predictions_table(dataset, probabilities))
    commit_csv(out / PHOTOS, photos_table(dataset))
    matrix = confusion(probabilities["test"], dataset.labels("test"))
    commit(out / "confusion.png", lambda file: plots.confusion(matrix, dataset.classes, file))
    if history:
        commit(out / "curves.png", lambda file: plots.curves(history, file))
    elif "path" in result.head:
        path = [{"c": c, "validation_loss": loss} for c, loss in result.head["path"]]
        commit(out / "curves.png", lambda file: plots.penalty_path(path, file))
    if explanations:
        commit(out / "explanations.png", lambda file: explanations.save(file, "PNG"))
    commit_json(out / "environment.json", environment(recipe.seed))
    text = card.render(recipe, dataset, result.to_json(), out)
    commit_text(out / "README.md", text)
    if begun is not None:
        seconds = {**result.seconds, "command": round(time.perf_counter() - begun, 3)}
        result = replace(result, seconds=seconds)
    # before the result: a run that is killed between the two is finished again, and counts once
    ledger.record(result.split, [out], comparison=False)
    written = result.write(out)
    drop_checkpoints(out)
    return written


def drop_checkpoints(out: Path) -> None:
    """Of a finished run, which needs them no more."""
    for committed in (out / CHECKPOINT, *out.glob(".tail-*.npz")):
        committed.unlink(missing_ok=True)
    sync_folder(out)  # else a power cut brings them back


def predictions_table(dataset: Dataset, probabilities: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """One row per photo: file, class, one probability per class under its name, split.

    Where photos of a split are not independent of each other, a last column says which belong
    together.
    """
    held_out = [dataset.group_ids(name) for name in probabilities]
    is_grouped = any(len(np.unique(ids)) < len(ids) for ids in held_out)
    parts = []
    for name, values in probabilities.items():
        photos = dataset.split(name)
        part = pd.DataFrame({"file": [photo.file for photo in photos]})
        part["class"] = [dataset.classes[photo.label] for photo in photos]
        columns = pd.DataFrame(values, columns=list(dataset.classes))
        split = pd.Series(name, index=part.index, name="split")
        group = pd.Series([photo.group or photo.sha256[:16] for photo in photos], name="group")
        parts.append(pd.concat([part, columns, split, *([group] if is_grouped else [])], axis=1))
    return pd.concat(parts)


def photos_table(dataset: Dataset) -> pd.DataFrame:
    """One row per photo: file, class, split, group, sha256 of its content."""
    rows = [
        (photo.file, dataset.classes[photo.label], photo.split, photo.group, photo.sha256)
        for photo in dataset.photos
    ]
    return pd.DataFrame(rows, columns=["file", "class", "split", "group", "sha256"])


def environment(seed: int) -> dict[str, Any]:
    """Versions and machine, for whoever wants to repeat a run."""
    return {
        "finetune": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "seed": seed,
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
