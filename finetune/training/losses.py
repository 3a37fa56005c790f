"""Losses beside those of Keras that take class indices."""

from collections.abc import Callable
from typing import Any

import keras

_FOCUS = 2.0  # gamma of Lin et al.; 0 would be cross-entropy


def loss_of(name: str) -> str | Callable[[Any, Any], Any]:
    """What Keras compiles: ``focal``, or a name of its own.

    Focal: a photo's cross-entropy times (1 - p)^2, p being the probability of its class, so that
    photos that are learned count little. Lin et al., Focal Loss for Dense Object Detection, ICCV
    2017; without its alpha, which is what class weights are.
    """
    return focal if name == "focal" else name


def focal(labels: Any, probabilities: Any) -> Any:
    """Focal loss of each photo.

    Args:
        labels: class indices, (n,) or (n, 1), or targets (n, classes).
        probabilities: (n, classes).
    """
    classes = probabilities.shape[-1]
    is_index = len(labels.shape) == 1 or labels.shape[-1] == 1
    targets = keras.ops.one_hot(keras.ops.reshape(labels, (-1,)), classes) if is_index else labels
    return keras.losses.categorical_focal_crossentropy(
        targets, probabilities, alpha=1.0, gamma=_FOCUS
    )
