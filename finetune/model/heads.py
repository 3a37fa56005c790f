"""Heads: what turns a backbone's last maps into one probability per class."""

import re
from collections.abc import Sequence

import keras
import numpy as np

from finetune.model.backbones import features_cut
from finetune.model.cut import find_cut

HEADS = {
    "gap": keras.layers.GlobalAveragePooling2D,
    "gmp": keras.layers.GlobalMaxPooling2D,
    "flatten": keras.layers.Flatten,
}
CLASSIFIER = "classifier"


def is_of_head(name: str) -> bool:
    """Whether a layer is a dense one of the head; ConvNeXt has dense ones of its own."""
    return re.fullmatch(rf"{CLASSIFIER}|hidden(_\d+)?", name) is not None


def add_head(
    base: keras.Model,
    classes: int,
    pool: str,
    hidden: int | Sequence[int] = 0,
    dropout: float = 0.0,
    features: Sequence[str] = (),
) -> keras.Model:
    """The whole model: a backbone with a classifier on top.

    Args:
        base: photo -> maps (n, h, w, channels).
        classes: number of classes, at least 2.
        pool: a key of ``HEADS``.
        hidden: units of a hidden ReLU layer, or of several; 0 or none leaves them out.
        dropout: share of each hidden layer's outputs and of the classifier's inputs dropped while
            training, 0 to below 1.
        features: cuts whose pooled maps are joined; none pools the backbone's last maps.

    Returns:
        A flat model: uint8 photos -> float32 (n, classes), softmax probabilities in the order of
        the class names.
    """
    x = join_cuts(base, pool, features) if features else HEADS[pool](name=pool)(base.output)
    layers = [hidden] if isinstance(hidden, int) else hidden
    for number, units in enumerate([units for units in layers if units] or [0], 1):
        suffix = f"_{number}" if number > 1 else ""
        if units:
            x = keras.layers.Dense(units, activation="relu", name=f"hidden{suffix}")(x)
        if dropout:
            x = keras.layers.Dropout(dropout, name=f"dropout{suffix}")(x)
    # float32 under any dtype policy: a softmax in float16 loses the small probabilities.
    x = keras.layers.Dense(classes, activation="softmax", dtype="float32", name=CLASSIFIER)(x)
    return keras.Model(base.input, x, name="classifier_of_photos")


def join_cuts(base: keras.Model, pool: str, features: Sequence[str]) -> keras.KerasTensor:
    """Pooled maps of several cuts side by side: (n, sum of their channels), see ``features_cut``.

    Raises:
        UsageError: no such cut.
    """
    name = features_cut(pool, features)
    parts = [
        HEADS[pool](name=f"{name}_{number}")(find_cut(base, cut))
        for number, cut in enumerate(features, 1)
    ]
    return keras.layers.Concatenate(name=name)(parts)


def pool_maps(maps: np.ndarray, pool: str) -> np.ndarray:
    """What a head's pooling layer computes, in numpy.

    Args:
        maps: (n, h, w, channels), float16 or float32; rows (n, d) are pooled already.
        pool: a key of ``HEADS``.

    Returns:
        float32 (n, channels), or (n, h * w * channels) for ``flatten``.
    """
    if maps.ndim == 2:
        return maps.astype(np.float32)
    if pool == "flatten":
        return maps.reshape(len(maps), -1).astype(np.float32)
    if pool == "gmp":
        return maps.max(axis=(1, 2)).astype(np.float32)
    return maps.mean(axis=(1, 2), dtype=np.float32)
