"""What a recipe's methods of training mean for the layers of its network."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from finetune.data.dataset import Dataset
from finetune.model.backbones import backbone
from finetune.model.cut import depths
from finetune.model.network import Network
from finetune.recipe.recipe import Recipe
from finetune.recipe.strategies import STRATEGIES
from finetune.training.fit import Settings
from finetune.training.mixing import Mix, one_hot
from finetune.training.parallel import strategy

_SETTINGS = "epochs patience batch_size learning_rate schedule warmup weight_decay average seed"


def settings_of(recipe: Recipe, **changes: Any) -> Settings:
    """What training by epochs depends on, as the recipe says, but for the changes."""
    values = {name: getattr(recipe, name) for name in _SETTINGS.split()}
    values |= {"optimizer": recipe.optimizer.name, "momentum": recipe.optimizer.momentum}
    values["loss"] = loss_name(recipe)
    return Settings(**values | changes)


def head_settings(recipe: Recipe) -> Settings:
    """Those of a head that is trained by epochs before the blocks below it."""
    fixed = {"epochs": 100, "patience": 5, "learning_rate": 1e-3}
    return settings_of(recipe, **fixed, optimizer="adam", momentum=0.0)


def mix_of(recipe: Recipe) -> Mix | None:
    """How the recipe mixes photos, if it does."""
    return Mix(recipe.mixup, recipe.cutmix) if recipe.mixup or recipe.cutmix else None


def feature_mix_of(recipe: Recipe) -> Mix | None:
    """How pooled features (n, d) are mixed: they have no maps that a rectangle could go into."""
    return Mix(recipe.mixup) if recipe.mixup else None


def has_soft_labels(recipe: Recipe) -> bool:
    """Whether a training photo may be of several classes in part."""
    return bool(mix_of(recipe) or recipe.label_smoothing)


def loss_name(recipe: Recipe) -> str:
    """The recipe's loss, see ``loss_of``."""
    if recipe.loss == "focal":
        return "focal"
    is_soft = has_soft_labels(recipe)
    return "categorical_crossentropy" if is_soft else "sparse_categorical_crossentropy"


def targets_of(recipe: Recipe, labels: np.ndarray, classes: int, is_training: bool) -> np.ndarray:
    """Labels as the recipe's loss takes them: int (n,), or float32 (n, classes)."""
    if not has_soft_labels(recipe):
        return labels
    return one_hot(labels, classes, recipe.label_smoothing if is_training else 0.0)


def rates_of(recipe: Recipe, network: Network) -> dict[str, float]:
    """Layer -> what its learning rate is multiplied by; empty if all learn alike."""
    if recipe.layer_decay == 1:
        return {}
    below = depths(network.tail, backbone(recipe.backbone).blocks)
    return {name: recipe.layer_decay**depth for name, depth in below.items()}


def anchors_of(recipe: Recipe, network: Network) -> dict[str, float]:
    """Layer below the head -> the strength that holds its kernel."""
    if not recipe.anchor:
        return {}
    below = depths(network.tail, backbone(recipe.backbone).blocks)
    return {name: recipe.anchor for name, depth in below.items() if depth}


@contextmanager
def thawed(model: keras.Model, recipe: Recipe, blocks: int) -> Iterator[None]:
    """A tail of which only the top blocks learn, and of the layers there those that may."""
    if STRATEGIES[recipe.strategy].learns != "blocks":
        yield
        return
    below = depths(model, backbone(recipe.backbone).blocks)
    may = [layer for layer in model.layers if layer.trainable]
    for layer in may:
        layer.trainable = below[layer.name] <= blocks
    try:
        yield
    finally:
        for layer in may:
            layer.trainable = True


def balance(dataset: Dataset) -> dict[int, float]:
    """Weights of the classes with which each counts alike."""
    labels = dataset.labels("train")
    counts = np.bincount(labels)
    return {index: len(labels) / (len(counts) * n) for index, n in enumerate(counts)}


def weights_of(recipe: Recipe, dataset: Dataset) -> np.ndarray | None:
    """Of each training photo, its class in it: Keras takes one kind of weight or the other."""
    weights = dataset.weights("train")
    if recipe.class_weight == "none":
        return weights
    classes = balance(dataset)
    of_class = np.array([classes[label] for label in dataset.labels("train")], np.float32)
    return of_class if weights is None else (weights * of_class).astype(np.float32)


def strategy_of(recipe: Recipe) -> tf.distribute.Strategy:
    """All devices, or one for what was tried on one alone.

    Blank rows, which fill up batches for several, would falsify what BatchNorm learns of them.
    """
    on_one = (
        recipe.batchnorm == "train",
        recipe.average != "none",
        recipe.anchor > 0,
        recipe.layer_decay < 1,
        len(recipe.stages) > 1,
    )
    return tf.distribute.get_strategy() if any(on_one) else strategy()
