"""How far the saved float32 model lies from the probabilities that a run was trained and measured
with.
"""

import numpy as np

PHOTOS = 64  # validation photos that a run compares


def fidelity(exact: np.ndarray, probabilities: np.ndarray) -> dict[str, int | float]:
    """Compare a run's probabilities with those of its saved model.

    Args:
        exact: (n, classes), of the saved float32 model; n at least 1.
        probabilities: (n, classes), from the trunk in the run's own precision.

    Returns:
        ``n``, the largest (``max``) and mean (``mean``) difference of a probability, and
        ``changed``: how many photos the saved model gives another class.

    Raises:
        ValueError: the shapes do not fit.
    """
    if exact.shape != probabilities.shape or not len(exact):
        raise ValueError(f"probabilities are {probabilities.shape}, the model gives {exact.shape}")
    differences = np.abs(exact - probabilities)
    changed = exact.argmax(axis=1) != probabilities.argmax(axis=1)
    return {
        "n": len(exact),
        "max": float(differences.max()),
        "mean": float(differences.mean()),
        "changed": int(changed.sum()),
    }
