"""A linear head on features of several cuts, each of which counts as much as validation says."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from finetune.training.linear_head import PENALTIES, Linear, fit_linear

_FACTORS = (0.3, 0.1, 0.0)  # of a cut's features, from 1 downwards; 0 leaves the cut out


def fit_joined(
    features: np.ndarray,
    labels: np.ndarray,
    validation_features: np.ndarray,
    validation_labels: np.ndarray,
    widths: Sequence[int],
    class_weight: dict[int, float] | None = None,
    sample_weight: np.ndarray | None = None,
) -> Linear:
    """``fit_linear`` with a penalty of its own for each cut.

    A cut's features times a factor f are penalized 1/f^2 as much. All cuts start alike (a standard
    deviation of 1); then each in turn, the lowest first, is turned down while validation loss
    falls, its penalty sought beside the last one's. An L1 penalty would choose single features and
    not cuts, and L-BFGS takes none.

    Args:
        features, labels, validation_features, validation_labels, class_weight, sample_weight: see
            ``fit_linear``.
        widths: how many of the columns come from each cut, in order.

    Returns:
        The head for raw features; ``factors`` has one value per cut.
    """
    parts = np.split(features, np.cumsum(widths)[:-1], axis=1)
    scales = np.array([part.std() or 1.0 for part in parts])

    def fitted(factors: Sequence[float], penalties: Sequence[float] = PENALTIES) -> Linear:
        column = np.repeat(np.array(factors) / scales, widths).astype(np.float32)
        head = fit_linear(
            features * column,
            labels,
            validation_features * column,
            validation_labels,
            class_weight,
            sample_weight,
            penalties,
        )
        kernel = head.kernel * column[:, None]
        # a penalty for each cut is none that a training by epochs goes on with
        return replace(head, kernel=kernel, factors=tuple(factors))

    best = fitted([1.0] * len(widths))
    for cut in range(len(widths)):
        for factor in _FACTORS:
            below, above = best.factors[:cut], best.factors[cut + 1 :]
            if not any((*below, *above)):  # alone, its factor would be one more penalty
                break
            factors = [*below, factor, *above]
            near = [c for c in PENALTIES if best.c / 4 < c < best.c * 4]  # one step to each side
            turned_down = fitted(factors, near)
            if turned_down.validation_loss >= best.validation_loss:
                break
            best = turned_down
    return best
