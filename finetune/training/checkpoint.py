"""Everything that training needs to go on, in one commit: weights, best weights, optimizer, epoch, phase and history.

Keras writes weights, optimizer and log in separate files, in place; a kill between two of them loses or mixes state. Here
one .npz file is committed per epoch. Random state needs no place of its own: the order of photos and their views are
functions of (seed, epoch), and the seeds of dropout are variables of the model.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from finetune.errors import IntegrityError
from finetune.files import commit


@dataclass(frozen=True)
class Progress:
    """What a checkpoint says beside its arrays."""

    phase: str
    recipe: str  # the resolved recipe as YAML; a checkpoint of another recipe is refused
    trainable: dict[str, bool]  # layer -> whether it learned
    history: list[dict[str, Any]]


def save(path: Path, model: keras.Model, best: list[np.ndarray], progress: Progress) -> None:
    """Commit the state of a model and its optimizer.

    Args:
        path: of the .npz file.
        model: compiled and built.
        best: the weights of the best epoch, in the order of ``model.weights``.
        progress: phase, recipe and history up to and with this epoch.
    """
    arrays = {f"model/{i}": variable.numpy() for i, variable in enumerate(model.variables)}
    arrays |= {
        f"optimizer/{i}": variable.numpy() for i, variable in enumerate(model.optimizer.variables)
    }
    arrays |= {f"best/{i}": weight for i, weight in enumerate(best)}
    note = np.frombuffer(json.dumps(vars(progress)).encode(), np.uint8)
    commit(path, lambda file: np.savez(file, progress=note, allow_pickle=False, **arrays))


def read_progress(path: Path) -> Progress | None:
    """What a checkpoint says, or None where there is none. Raises IntegrityError if it cannot be read."""
    if not path.exists():
        return None
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return Progress(**json.loads(arrays["progress"].tobytes()))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise IntegrityError(
            f"{path} is no checkpoint that can be read ({error}). Delete it to begin anew."
        ) from error


def restore(path: Path, model: keras.Model) -> list[np.ndarray]:
    """Put the state back into a compiled model.

    Returns:
        The weights of the best epoch.

    Raises:
        IntegrityError: the checkpoint was made by another network.
    """
    model.optimizer.build(model.trainable_variables)
    with np.load(path, allow_pickle=False) as arrays:
        for kind, variables in (
            ("model", model.variables),
            ("optimizer", model.optimizer.variables),
        ):
            values = [arrays[name] for name in arrays.files if name.startswith(f"{kind}/")]
            if [v.shape for v in values] != [tuple(v.shape) for v in variables]:
                raise IntegrityError(
                    f"{path} was made by another network than this recipe's. Delete it to begin anew."
                )
            for variable, value in zip(variables, values, strict=True):
                variable.assign(value)
        return [arrays[f"best/{i}"] for i in range(len(model.weights))]
