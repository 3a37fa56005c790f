"""What is left of the best of several trials on photos that did not choose it."""

import numpy as np


def corrected_choice(
    losses: np.ndarray, correct: np.ndarray, draws: int = 500, seed: int = 0
) -> dict[str, float]:
    """Loss and accuracy to expect of a choice, corrected for having chosen the best.

    The choice is repeated on validation photos drawn with replacement, and each time measured on
    those that were not drawn (bootstrap bias correction: Tsamardinos, Greasidou and Borboudakis
    2018, Machine Learning 107, 1895-1922). It errs, slightly, towards too low, for each choice has
    fewer distinct photos than the real one.

    Args:
        losses: float (trials, n), nats of each validation photo under each trial.
        correct: bool (trials, n).
        draws: repetitions.
        seed: of the draws.

    Returns:
        loss, accuracy: to expect of the chosen trial on other photos; and accuracy_optimism, by how
        much its own validation accuracy (a fraction) is higher than that.
    """
    n = losses.shape[1]
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(draws if n > 1 else 0):
        times = np.bincount(rng.integers(n, size=n), minlength=n)
        chosen = int(np.argmin(losses @ times))
        out = times == 0
        if out.any():
            found.append((losses[chosen, out].mean(), correct[chosen, out].mean()))
    best = int(np.argmin(losses.mean(axis=1)))
    seen = float(correct[best].mean())
    loss, accuracy = map(float, np.mean(found, axis=0)) if found else (losses[best].mean(), seen)
    return {"loss": float(loss), "accuracy": accuracy, "accuracy_optimism": seen - accuracy}
