"""Grad-CAM without TensorFlow: the gradient of a head of dense layers is a product of matrices.

Selvaraju et al. (ICCV 2017), equations 1 and 2, in the maps that the head pools; the same heat as
``evaluation.gradcam``, read from the graph of the run's OpenVINO network.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

_POOLS = {"ReduceMean": "gap", "ReduceMax": "gmp", "Reshape": "flatten"}


@dataclass(frozen=True)
class Head:
    """The way from a network's last maps to its logits.

    Attributes:
        maps: output of the graph that is pooled, see ``channels_last`` for its axes.
        channels_last: whether the maps are (n, h, w, channels), and not (n, channels, h, w).
        pool: ``gap``, ``gmp`` or ``flatten``.
        layers: (kernel (inputs, outputs), bias) of each dense layer, the classifier last; between
            two of them is a ReLU.
    """

    maps: Any
    channels_last: bool
    pool: str
    layers: tuple[tuple[np.ndarray, np.ndarray | float], ...]

    def heat(self, maps: np.ndarray, label: int) -> np.ndarray:
        """Where the evidence for a class lies.

        Args:
            maps: of one photo, float32, in the order of the graph.
            label: index of the class.

        Returns:
            float32 (h, w), at least 0 and not scaled.
        """
        maps = maps if self.channels_last else maps.transpose(1, 2, 0)
        height, width, channels = maps.shape
        gradient = self._gradient(maps, label)
        if self.pool == "flatten":
            weights = gradient.reshape(height, width, channels).mean(axis=(0, 1))
        else:
            weights = gradient / (height * width)
        return np.maximum(maps @ weights, 0)

    def _gradient(self, maps: np.ndarray, label: int) -> np.ndarray:
        """Of the class's logit by the pooled features."""
        pooled = {"gap": maps.mean((0, 1)), "gmp": maps.max((0, 1)), "flatten": maps.ravel()}
        values = pooled[self.pool]
        chain = [layer[0] for layer in self.layers]
        for number, (kernel, bias) in enumerate(self.layers[:-1]):
            values = values @ kernel + bias
            chain[number] = kernel * (values > 0)
            values = np.maximum(values, 0)
        gradient = chain[-1][:, label]
        for kernel in reversed(chain[:-1]):
            gradient = kernel @ gradient
        return gradient


def find_head(graph: Any) -> Head | None:
    """The head of a network, read backwards from its probabilities.

    Args:
        graph: ``openvino.Model`` with one output.

    Returns:
        None where it is anything but pooling, dense layers with ReLU between them, and a softmax.
    """
    node = _below(graph.get_results()[0])
    if node.get_type_name() != "Softmax":
        return None
    layers: list[tuple[np.ndarray, np.ndarray | float]] = []
    node = _below(node)
    while dense := _dense(node):
        layers.insert(0, dense[0])
        node = dense[1]
        if node.get_type_name() == "Relu":
            node = _below(node)
    pool = _POOLS.get(node.get_type_name())
    if not (layers and pool and len(node.input(0).get_partial_shape()) == 4):
        return None
    if pool == "flatten":
        channels_last = _below(node).get_type_name() == "Transpose"
    else:
        axes = sorted(_constant(node, 1).ravel().tolist())
        if axes not in ([1, 2], [2, 3]):
            return None
        channels_last = axes == [1, 2]
    return Head(node.input_value(0), channels_last, pool, tuple(layers))


def _dense(node: Any) -> tuple[tuple[np.ndarray, np.ndarray | float], Any] | None:
    """(kernel, bias) of the dense layer that ends in a node, and the node below it."""
    bias: np.ndarray | float = 0.0  # OpenVINO drops a bias of zeros
    if node.get_type_name() == "Add" and _constant(node, 1) is not None:
        bias = _constant(node, 1).ravel()
        node = _below(node)
    if node.get_type_name() != "MatMul" or _constant(node, 1) is None:
        return None
    kernel = _constant(node, 1)
    return (kernel.T if node.get_attributes()["transpose_b"] else kernel, bias), _below(node)


def _below(node: Any) -> Any:
    return node.input_value(0).get_node()


def _constant(node: Any, place: int) -> Any:
    source = node.input_value(place).get_node()
    return source.get_data() if source.get_type_name() == "Constant" else None
