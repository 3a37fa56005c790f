"""The run folder: what a run leaves behind, every file committed whole, ``metrics.json`` last."""

import importlib.metadata
import os
import platform
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from PIL import Image

from finetune import __version__
from finetune.data.dataset import Dataset
from finetune.errors import UsageError
from finetune.evaluation import plots
from finetune.evaluation.metrics import confusion, measure
from finetune.files import commit, commit_by_name, commit_json, commit_text
from finetune.recipe.recipe import Recipe
from finetune.runs import card

if TYPE_CHECKING:
    import keras

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


def begin(out: Path, recipe: Recipe, dataset: Dataset) -> None:
    """Claim a run folder.

    Raises:
        UsageError: it holds a finished run, or an unfinished one of another recipe.
    """
    if (out / "metrics.json").exists():
        raise UsageError(
            f"{out} already holds a finished run. Choose another --out, or delete the folder."
        )
    text = recipe.dump()
    if (out / "recipe.yaml").exists() and (out / "recipe.yaml").read_text() != text:
        raise UsageError(
            f"{out} holds an unfinished run of another recipe. Choose another --out, or go on with --resume {out}."
        )
    commit_text(out / "recipe.yaml", text)
    commit_json(out / "classes.json", list(dataset.classes))


def finish(
    out: Path,
    recipe: Recipe,
    dataset: Dataset,
    model: "keras.Model",
    history: list[dict[str, Any]],
    predictions: dict[str, np.ndarray],
    result: dict[str, Any],
    explanations: Image.Image | None = None,
) -> dict[str, Any]:
    """Write a run folder.

    Args:
        out: the folder.
        recipe: fully resolved.
        dataset: the photos that were used.
        model: takes raw uint8 photos.
        history: rows of ``fit``; empty if nothing was trained by epochs.
        predictions: split -> probabilities (n, classes), in the order of its photos.
        result: what is known already.
        explanations: a contact sheet, see ``commands.explain.explain_run``.

    Returns:
        ``result`` with the metrics of each split; also ``metrics.json``.
    """
    for name, probabilities in predictions.items():
        result[name] = measure(probabilities, dataset.labels(name), dataset.classes)
    matrix = confusion(predictions["test"], dataset.labels("test"))
    result["ignored"] = dataset.ignored
    result["excluded"] = len(dataset.excluded)
    commit_by_name(out / "model.keras", model.save)  # Keras writes in place and by name only
    if dataset.excluded:
        _commit_csv(
            out / "excluded.csv", pd.DataFrame(dataset.excluded, columns=["file", "reason"])
        )
    _commit_csv(out / "history.csv", pd.DataFrame(history, columns=list(_HISTORY)))
    _commit_csv(out / "predictions.csv", predictions_table(dataset, predictions))
    commit(out / "confusion.png", lambda file: plots.confusion(matrix, dataset.classes, file))
    if history:
        commit(out / "curves.png", lambda file: plots.curves(history, file))
    elif "path" in result["head"]:
        path = result["head"]["path"]
        commit(out / "curves.png", lambda file: plots.penalty_path(path, file))
    if explanations:
        commit(out / "explanations.png", lambda file: explanations.save(file, "PNG"))
    commit_json(out / "environment.json", environment(recipe.seed))
    commit_text(out / "README.md", card.render(recipe, dataset, result, out))
    commit_json(out / "metrics.json", result)
    (out / "checkpoint.npz").unlink(missing_ok=True)
    return result


_HISTORY = (
    "phase",
    "epoch",
    "loss",
    "accuracy",
    "val_loss",
    "val_accuracy",
    "learning_rate",
    "seconds",
)


def predictions_table(dataset: Dataset, predictions: dict[str, np.ndarray]) -> pd.DataFrame:
    """One row per photo: file, class, one probability per class under the class's name, split."""
    parts = []
    for name, probabilities in predictions.items():
        photos = dataset.split(name)
        part = pd.DataFrame({"file": [photo.file for photo in photos]})
        part["class"] = [dataset.classes[photo.label] for photo in photos]
        columns = pd.DataFrame(probabilities, columns=list(dataset.classes))
        parts.append(
            pd.concat([part, columns, pd.Series(name, index=part.index, name="split")], axis=1)
        )
    return pd.concat(parts)


def environment(seed: int) -> dict[str, Any]:
    """Versions and machine, for whoever wants to repeat a run."""
    return {
        "finetune": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "packages": {name: importlib.metadata.version(name) for name in _PACKAGES},
        "seed": seed,
    }


def _commit_csv(path: Path, table: pd.DataFrame) -> None:
    commit(path, lambda file: table.to_csv(file, index=False))
