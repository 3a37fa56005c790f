"""Losses beside cross-entropy, for labels that are class indices."""

from collections.abc import Callable
from typing import Any

import keras

_FOCUS = 2.0  # gamma of Lin et al.; 0 would be cross-entropy


def loss_of(name: str) -> str | Callable[[Any, Any], Any]:
    """What Keras compiles for ``crossentropy`` or ``focal``.

    Focal: a photo's cross-entropy times (1 - p)^2, p being the probability of its class, so that
    photos that are learned count little. Lin et al., Focal Loss for Dense Object Detection, ICCV
    2017; without its alpha, which is what class weights are.
    """
    return {"crossentropy": "sparse_categorical_crossentropy", "focal": focal}[name]


def focal(labels: Any, probabilities: Any) -> Any:
    """Focal loss of each photo.

    Args:
        labels: class indices, (n,) or (n, 1).
        probabilities: (n, classes).
    """
    likely = keras.ops.one_hot(keras.ops.reshape(labels, (-1,)), probabilities.shape[-1])
    return keras.losses.categorical_focal_crossentropy(
        likely, probabilities, alpha=1.0, gamma=_FOCUS
    )
