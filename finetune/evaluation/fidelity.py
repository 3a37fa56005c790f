"""How far the saved float32 model lies from the probabilities that a run was trained and measured
with.
"""

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import keras

PHOTOS = 64  # validation photos that a run compares


def fidelity(
    model: "keras.Model", photos: np.ndarray, probabilities: np.ndarray
) -> dict[str, int | float]:
    """Compare a run's probabilities with those of its saved model.

    Args:
        model: the saved float32 model.
        photos: uint8 (n, size, size, 3), n at least 1.
        probabilities: (n, classes), from the trunk in the run's own precision.

    Returns:
        ``n``, the largest (``max``) and mean (``mean``) difference of a probability, and
        ``changed``: how many photos the saved model gives another class.

    Raises:
        ValueError: the shapes do not fit.
    """
    exact = np.asarray(model.predict(photos, batch_size=16, verbose=0))
    if exact.shape != probabilities.shape or not len(photos):
        raise ValueError(f"probabilities are {probabilities.shape}, the model gives {exact.shape}")
    differences = np.abs(exact - probabilities)
    changed = exact.argmax(axis=1) != probabilities.argmax(axis=1)
    return {
        "n": len(photos),
        "max": float(differences.max()),
        "mean": float(differences.mean()),
        "changed": int(changed.sum()),
    }
