"""A recipe's network: backbone, head and cut, with exactly the layers that learn set to learn."""

import hashlib
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from finetune.errors import IntegrityError
from finetune.model.backbones import backbone, build_base
from finetune.model.cut import split
from finetune.model.describe import multiply_adds  # noqa: F401
from finetune.model.heads import add_head
from finetune.model.weights import Loaded, load_weights
from finetune.recipe.recipe import Recipe


@dataclass(frozen=True)
class Network:
    """The whole model and what lies above the recipe's cut, which share their layers."""

    whole: keras.Model
    tail: keras.Model
    cut: str
    top: str  # name of the backbone's last tensor, below the head
    loaded: Loaded

    def fields(self, recipe: Recipe, cut: str) -> dict[str, Any]:
        """What lies below a cut, for the key of a store."""
        preprocessing = vars(backbone(recipe.backbone).preprocessing)
        return {
            "backbone": recipe.backbone,
            "weights": self.loaded.digest,
            "cut": cut,
            "preprocessing": {
                name: np.atleast_1d(value).tolist() for name, value in preprocessing.items()
            },
        }

    def parameters(self) -> dict[str, int]:
        """Numbers of weights: total, trainable, and on both sides of the cut."""
        count = {"total": self.whole.count_params(), "tail": self.tail.count_params()}
        trainable = sum(int(np.prod(variable.shape)) for variable in self.tail.trainable_variables)
        return {**count, "trunk": count["total"] - count["tail"], "trainable": trainable}


def build_network(recipe: Recipe, classes: int) -> Network:
    """Build, load and freeze.

    Args:
        recipe: fully resolved.
        classes: number of classes.

    Raises:
        DataError, IntegrityError: the weights, see ``load_weights``.
    """
    keras.utils.clear_session()  # names and memory of earlier runs in this process
    keras.utils.disable_interactive_logging()  # which clear_session turns on again, and which writes to stdout
    keras.utils.set_random_seed(recipe.seed)
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16" if recipe.mixed_precision else "float32")
    try:
        base = build_base(recipe.backbone, recipe.image_size)
        loaded = load_weights(base, recipe.backbone, recipe.weights)
        whole = add_head(base, classes, recipe.head.pool, recipe.head.hidden, recipe.head.dropout)
    finally:
        keras.config.set_dtype_policy(before)
    tail = split(whole, recipe.cut).tail
    freeze(whole, tail, recipe.batchnorm)
    return Network(whole, tail, recipe.cut, backbone(recipe.backbone).blocks[-1], loaded)


def freeze(whole: keras.Model, tail: keras.Model, batchnorm: str) -> None:
    """Let the tail learn and nothing else; must come before ``compile``, which is when Keras reads the flags.

    BatchNorm layers of the tail stay frozen unless ``batchnorm`` is "train": a few hundred photos in small batches are
    too few to estimate its statistics again. In Keras 3 calling a model with ``training=False`` does not protect them
    under ``fit``; ``trainable = False`` on the layer itself does.
    """
    for layer in whole.layers:
        layer.trainable = False
    for layer in tail.layers:
        is_norm = isinstance(layer, keras.layers.BatchNormalization)
        layer.trainable = layer.name != "preprocess" and not (is_norm and batchnorm == "frozen")


def frozen_digests(whole: keras.Model) -> dict[str, str]:
    """sha256 of every weight and statistic of the layers that must not move, by path."""
    return {
        variable.path: hashlib.sha256(np.ascontiguousarray(variable.numpy()).data).hexdigest()
        for layer in whole.layers
        if not layer.trainable
        for variable in layer.weights
    }


def audit(whole: keras.Model, before: dict[str, str]) -> dict[str, int]:
    """Prove that nothing frozen has moved.

    Returns:
        ``frozen``: how many variables were compared, ``moved``: 0.

    Raises:
        IntegrityError: naming what moved.
    """
    after = frozen_digests(whole)
    moved = [path for path in before if after.get(path) != before[path]]
    if moved:
        raise IntegrityError(
            f"Freeze audit: {len(moved)} of {len(before)} frozen variables changed during training, first "
            f"{', '.join(moved[:3])}. The result was not saved, because it is not what the recipe says."
        )
    return {"frozen": len(before), "moved": 0}
