"""A classifier that was saved, opened for use: its model, its classes, and how it wants its photos. Needs TensorFlow."""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np

from finetune.activations.engine import compile_trunk
from finetune.data.photos import RESIZE_MODES
from finetune.errors import DataError, IntegrityError
from finetune.model.saved import load_model
from finetune.recipe.recipe import Recipe, reopen


@dataclass(frozen=True)
class Classifier:
    """A run folder or a bare model file.

    Attributes:
        path: what was opened.
        model: uint8 photos (n, image_size, image_size, 3) RGB -> probabilities (n, classes).
        classes: names, in the order of the model's outputs.
        resize: how a photo becomes a square, see ``data.decode.decode``.
        recipe: of the run folder; None for a bare model.
    """

    path: Path
    model: keras.Model
    classes: tuple[str, ...]
    resize: str
    recipe: Recipe | None

    @classmethod
    def open(cls, path: Path) -> "Classifier":
        """Open a run folder, or a ``.keras`` file (its classes are in ``classes.json`` beside it, or are numbered).

        Raises:
            DataError: there is no finished run, or no such file.
            IntegrityError: the model is damaged, takes no photos, or has another number of outputs than classes.
        """
        folder = path if path.is_dir() else path.parent
        file = path / "model.keras" if path.is_dir() else path
        if path.is_dir() and not file.exists():
            raise DataError(
                f"{path} holds no model.keras. Give the folder of a finished `finetune run`, or a .keras file."
            )
        model = load_model(file)
        outputs = _check_photos(model, file)
        names, recipe = folder / "classes.json", folder / "recipe.yaml"
        classes = (
            json.loads(names.read_text())
            if names.exists()
            else [str(index) for index in range(outputs)]
        )
        if len(classes) != outputs:
            raise IntegrityError(
                f"{names} names {len(classes)} classes, and {file} has {outputs} outputs."
            )
        made_by = reopen(recipe) if path.is_dir() and recipe.exists() else None
        return cls(path, model, tuple(classes), _resize(folder, made_by), made_by)

    @property
    def image_size(self) -> int:
        """Side of the square photos in pixels."""
        return self.model.inputs[0].shape[1]

    def index(self, name: str) -> int:
        """The output of a class.

        Raises:
            DataError: there is no such class.
        """
        if name not in self.classes:
            raise DataError(
                f"{self.path} knows no class '{name}'; it knows {', '.join(self.classes)}."
            )
        return self.classes.index(name)

    def predict(self, batches: Iterable[np.ndarray], engine: str = "auto") -> Iterator[np.ndarray]:
        """Probabilities of photos, batch by batch: uint8 (n, size, size, 3) -> float32 (n, classes).

        A model with one sigmoid output gives two columns.
        """
        typed = (batch.astype(self.model.inputs[0].dtype) for batch in batches)
        whole = keras.Model(
            self.model.inputs[0], self.model.outputs[0]
        )  # OpenVINO cannot read the shapes of a Sequential
        for outputs in compile_trunk(whole, engine)(typed):
            yield two_columns(outputs)


def two_columns(outputs: np.ndarray) -> np.ndarray:
    """One probability p of the second class as the two columns 1 - p and p; more columns stay."""
    return np.concatenate([1 - outputs, outputs], axis=1) if outputs.shape[1] == 1 else outputs


def _resize(folder: Path, recipe: Recipe | None) -> str:
    """How a photo becomes a square: as the recipe has it, or ``input.json`` where no single recipe made the model."""
    described = folder / "input.json"
    if recipe:
        return recipe.resize
    return json.loads(described.read_text())["resize"] if described.exists() else RESIZE_MODES[0]


def _check_photos(model: keras.Model, file: Path) -> int:
    """Number of classes of a model that takes square RGB photos."""
    shapes: Sequence = [tensor.shape for tensor in (*model.inputs, *model.outputs)]
    fits = len(shapes) == 2 and len(shapes[0]) == 4 and len(shapes[1]) == 2
    if not fits or shapes[0][1] != shapes[0][2] or shapes[0][1] is None or shapes[0][3] != 3:
        raise IntegrityError(
            f"{file} maps {shapes[:-1]} to {shapes[-1:]}; allowed are models from photos (n, size, size, 3) to (n, classes)."
        )
    return max(2, shapes[1][1])
