"""Losses beside those of Keras that take class indices, and the mean that an epoch shows."""

from collections.abc import Callable, Mapping
from typing import Any

import keras
import tensorflow as tf

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
    targets = keras.ops.one_hot(_index(labels), classes) if _are_indices(labels) else labels
    return keras.losses.categorical_focal_crossentropy(
        targets, probabilities, alpha=1.0, gamma=_FOCUS
    )


def _are_indices(labels: Any) -> bool:
    return len(labels.shape) == 1 or labels.shape[-1] == 1


def _index(labels: Any) -> Any:
    return keras.ops.reshape(labels, (-1,))


class PhotoMean(keras.metrics.Mean):
    """A mean over the photos of batches that were filled up with blank rows of weight 0.

    Keras takes a batch for as many photos as it has rows.

    Args:
        name: in the logs.
        of_each: called with labels, probabilities and weights; a number for each row.
    """

    def __init__(self, name: str, of_each: Callable[[Any, Any, Any], Any]):
        super().__init__(name=name)
        self._of_each = of_each

    def update_state(self, labels: Any, probabilities: Any, sample_weight: Any) -> None:
        """Add a device's part of a batch."""
        values = self._of_each(labels, probabilities, sample_weight)
        super().update_state(values, _are_photos(sample_weight))


def photo_metrics(loss: str | Callable[[Any, Any], Any]) -> list[keras.metrics.Metric]:
    """``photo_loss`` and ``accuracy`` of batches with blank rows."""
    losses = keras.losses.get(loss)

    def weighted(labels: Any, probabilities: Any, weights: Any) -> Any:
        return losses(labels, probabilities) * weights * _share_of_photos(weights)

    return [PhotoMean("photo_loss", weighted), PhotoMean("accuracy", _hits)]


def of_photos(logs: Mapping[str, float]) -> dict[str, float]:
    """The logs of an epoch with the loss of the photos for that of all rows, where both are."""
    own = {name.replace("photo_loss", "loss"): logs[name] for name in logs if "photo_loss" in name}
    return {**logs, **own}


def _hits(labels: Any, probabilities: Any, _: Any) -> Any:
    true = _index(labels) if _are_indices(labels) else keras.ops.argmax(labels, axis=-1)
    return keras.ops.equal(keras.ops.argmax(probabilities, axis=-1), keras.ops.cast(true, "int32"))


def _are_photos(weights: Any) -> Any:
    return tf.cast(weights > 0, tf.float32)


def _share_of_photos(weights: Any) -> Any:
    """Photos over rows of a batch on all devices: what the weights of its photos make up for."""
    counts = [tf.reduce_sum(_are_photos(weights)), tf.cast(tf.size(weights), tf.float32)]
    device = tf.distribute.get_replica_context()  # None while Keras builds its metrics
    photos, rows = device.all_reduce("sum", counts) if device else counts
    return photos / rows
