"""Everything that training needs to go on, in one commit: weights, best weights, optimizer,
history.

Keras writes weights, optimizer and log in separate files, in place; a kill between two of them
loses or mixes state. Here one .npz file is committed per epoch. Random state needs no place of its
own: the order of photos and their views are functions of (seed, epoch), and the seeds of dropout
are variables of the model.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from finetune.errors import IntegrityError
from finetune.files import NPZ_DAMAGE, commit


@dataclass(frozen=True)
class Progress:
    """What a checkpoint says beside its arrays."""

    phase: str
    recipe: str  # identity of recipe and photos; a checkpoint of another one is not continued
    history: list[dict[str, Any]]


def save(path: Path, model: keras.Model, best: list[np.ndarray], progress: Progress) -> None:
    """Commit the state of a model and its optimizer.

    Args:
        path: of the .npz file.
        model: compiled and built.
        best: the weights of the best epoch, in the order of ``model.weights``.
        progress: phase, recipe and history up to and with this epoch.
    """
    state = {"model": model.variables, "optimizer": model.optimizer.variables}
    arrays = {
        f"{kind}/{i}": variable.numpy()
        for kind, variables in state.items()
        for i, variable in enumerate(variables)
    }
    arrays |= {f"best/{i}": weight for i, weight in enumerate(best)}
    note = np.frombuffer(json.dumps(vars(progress)).encode(), np.uint8)
    size = sum(array.nbytes for array in arrays.values())
    # the zip archive's CRC of each member is checked when it is read
    commit(path, lambda file: np.savez(file, progress=note, allow_pickle=False, **arrays), size)


def read_progress(path: Path) -> Progress | None:
    """What a checkpoint says, or None where there is none. Raises IntegrityError if damaged."""
    if not path.exists():
        return None
    with _opened(path) as read:
        return Progress(**json.loads(read("progress").tobytes()))


def restore(path: Path, model: keras.Model) -> list[np.ndarray]:
    """Put the state back into a compiled model.

    Returns:
        The weights of the best epoch.

    Raises:
        IntegrityError: the checkpoint is damaged, or was made by another network.
    """
    model.optimizer.build(model.trainable_variables)
    variables = {"model": model.variables, "optimizer": model.optimizer.variables}
    with _opened(path) as read:
        state = {
            kind: [read(f"{kind}/{i}") for i in range(len(own))] for kind, own in variables.items()
        }
        best = [read(f"best/{i}") for i in range(len(model.weights))]
    for kind, own in variables.items():
        if [value.shape for value in state[kind]] != [tuple(variable.shape) for variable in own]:
            raise IntegrityError(
                f"{path} was made by another network than this recipe's. {_ADVICE}"
            )
        for variable, value in zip(own, state[kind], strict=True):
            variable.assign(value)
    return best


_ADVICE = "Delete it to train from the beginning; stored activations are kept."


@contextmanager
def _opened(path: Path) -> Iterator[Callable[[str], np.ndarray]]:
    """Read arrays of a checkpoint by name; damage of any kind is one error."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            yield arrays.__getitem__
    except (*NPZ_DAMAGE, OSError) as error:
        raise IntegrityError(f"{path} is damaged ({error}). {_ADVICE}") from error
