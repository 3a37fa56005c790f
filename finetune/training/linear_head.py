"""The linear head at its optimum: logistic regression on pooled features.

Its penalty is chosen on the validation photos.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import softmax
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

from finetune.errors import UsageError

# Inverse penalties, strongest penalty first; the search stops when validation loss rises.
PENALTIES = tuple(10.0 ** np.arange(-5, 3.5, 0.5))
_MAX_BYTES = 2**30


@dataclass(frozen=True)
class Linear:
    """A fitted head: kernel float32 (features, classes), bias float32 (classes,).

    ``c`` is its inverse penalty, chosen by ``validation_loss`` (nats); ``path`` lists (c,
    validation loss) of all that were tried, strongest penalty first; ``factors`` weigh the cuts
    that the features come from, where they are several.
    """

    kernel: np.ndarray
    bias: np.ndarray
    c: float
    validation_loss: float
    path: tuple[tuple[float, float], ...] = ()
    factors: tuple[float, ...] = ()

    def probabilities(self, features: np.ndarray) -> np.ndarray:
        """Of raw features (n, d): float32 (n, classes)."""
        return softmax(features @ self.kernel + self.bias, axis=1).astype(np.float32)


def fits_memory(photos: int, features: int) -> bool:
    """Whether all features may be held in memory at once, as L-BFGS does: up to 1 GiB."""
    return photos * features * 4 <= _MAX_BYTES


def check_size(photos: int, features: int, learns_head_only: bool = True) -> None:
    """UsageError if L-BFGS cannot hold the features in memory.

    Where blocks learn after the head, it is fitted on features in memory by either solver.
    """
    if not fits_memory(photos, features):
        streams = "head.solver=keras, which streams them, or " if learns_head_only else ""
        raise UsageError(
            f"head.solver lbfgs would hold {photos:,} rows of {features:,} features, "
            f"{photos * features * 4 / 2**30:.1f} GiB, in memory; at most 1 GiB is allowed. Set "
            f"{streams}head.pool=gap."
        )


def fit_linear(
    features: np.ndarray,
    labels: np.ndarray,
    validation_features: np.ndarray,
    validation_labels: np.ndarray,
    class_weight: dict[int, float] | None = None,
    sample_weight: np.ndarray | None = None,
    penalties: Sequence[float] = PENALTIES,
) -> Linear:
    """Fit softmax regression by L-BFGS for a row of penalties and keep the one with the lowest
    validation loss.

    Args:
        features: float32 (n, d).
        labels: int (n,), 0 to classes - 1.
        validation_features: float32 (m, d).
        validation_labels: int (m,).
        class_weight: weight of each class in the loss.
        sample_weight: weight of each row of ``features`` in the loss, float32 (n,).
        penalties: inverse ones that are tried, ascending.

    Returns:
        The head for raw features: centre and scale are folded into kernel and bias.
    """
    # One scale for all features, not one each: a backbone's strong channels are strong because they
    # mean something. On the small cats-and-dogs set and VGG16 this lowers validation loss from
    # 0.070 to 0.061 (docs/design.md).
    centre = features.mean(axis=0)
    scale = features.std() or 1.0
    scaled = (features - centre) / scale
    validation = (validation_features - centre) / scale
    model = LogisticRegression(warm_start=True, max_iter=500, class_weight=class_weight)
    best = Linear(np.empty(0), np.empty(0), 0.0, np.inf)
    path: list[tuple[float, float]] = []
    for c in penalties:
        with warnings.catch_warnings():  # 500 steps are enough: the validation loss is what counts
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.set_params(C=c).fit(scaled, labels, sample_weight)
        predicted = model.predict_proba(validation)
        loss = float(log_loss(validation_labels, predicted, labels=model.classes_))
        path.append((float(c), loss))
        if loss > best.validation_loss:
            break
        best = Linear(*_unscaled(model, centre, scale), float(c), loss)
    return replace(best, path=tuple(path))


def _unscaled(
    model: LogisticRegression, centre: np.ndarray, scale: float
) -> tuple[np.ndarray, np.ndarray]:
    coefficients = model.coef_
    intercepts = model.intercept_
    if len(coefficients) == 1:  # two classes: logit z becomes the logits -z/2 and z/2 of a softmax
        coefficients = np.concatenate([-coefficients / 2, coefficients / 2])
        intercepts = np.concatenate([-intercepts / 2, intercepts / 2])
    kernel = coefficients / scale
    bias = intercepts - kernel @ centre
    return kernel.T.astype(np.float32), bias.astype(np.float32)
