"""What a network looks at: Grad-CAM heat and feature maps of any layer. Needs TensorFlow.

Grad-CAM: Selvaraju et al., Visual Explanations from Deep Networks via Gradient-based Localization,
ICCV 2017. It says where in a photo the evidence for a class lies, and not why it is evidence.
"""

import difflib
from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

from finetune.errors import UsageError


def grad_cam(
    model: keras.Model,
    inputs: np.ndarray,
    layers: Sequence[str],
    classes: int | Sequence[int] | np.ndarray,
) -> list[np.ndarray]:
    """Heat of a class in the maps of some layers in one pass: Selvaraju et al., equations 1 and 2.

    The score of a class is its logit. Its probability would not do: where a network is sure,
    softmax is flat, and the gradient vanishes. A single sigmoid output z gives the scores -z (class
    0) and z (class 1).

    Args:
        model: a functional model of one input that ends in a Dense layer: a saved classifier, or
            the tail of a run.
        inputs: what the model takes, (n, ...): photos, or stored activations for a tail.
        layers: names of layers with maps (n, h, w, channels); none means ``default_layer``.
        classes: the class whose evidence is sought: one for all, or one for each input.

    Returns:
        One float32 (n, h, w) per layer, at least 0 and not scaled.

    Raises:
        UsageError: no such layer, a layer without maps, or the model does not end in a Dense layer.
    """
    maps, (features, classifier) = _maps(model, layers), _classifier(model)
    probe = keras.Model(model.inputs[0], [*maps, features])
    data = tf.convert_to_tensor(np.asarray(inputs, model.inputs[0].dtype))
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        # Gradients reach what descends from a watched tensor, and a tape goes back to the lowest
        # thing that it watches. Photos are whole numbers and cannot be watched, all weights would
        # be the whole way back: so it is those below the maps.
        tape.watch([weight.value for tensor in maps for weight in _weights_below(tensor)])
        if data.dtype.is_floating:
            tape.watch(data)
        *found, reached = probe(data, training=False)
        logits = tf.cast(reached, tf.float32) @ tf.cast(classifier.kernel.value, tf.float32)
        if classifier.bias is not None:
            logits += tf.cast(classifier.bias.value, tf.float32)
        scores = _scores(logits, np.broadcast_to(classes, len(inputs)))
    gradients = tape.gradient(scores, found)
    if any(gradient is None for gradient in gradients):
        raise UsageError(
            f"no learned layer lies below one of {', '.join(layers)}: ask for layers nearer to the "
            "classes."
        )
    return [_heat(*pair) for pair in zip(found, gradients, strict=True)]


def feature_maps(model: keras.Model, photo: np.ndarray, layers: Sequence[str]) -> list[np.ndarray]:
    """The maps of some layers for one photo.

    Args:
        model: a functional model of one input.
        photo: one input of it, without the axis of the batch: uint8 (size, size, 3).
        layers: names of layers with maps; none means ``default_layer``.

    Returns:
        One float32 (h, w, channels) per layer.

    Raises:
        UsageError: no such layer, or a layer without maps.
    """
    probe = keras.Model(model.inputs[0], _maps(model, layers))
    found = probe(np.asarray(photo, model.inputs[0].dtype)[None], training=False)
    return [
        np.asarray(maps[0], np.float32) for maps in keras.tree.flatten(found)
    ]  # of one output Keras makes no list


def default_layer(model: keras.Model) -> str:
    """The last layer whose output still has places, or UsageError: its maps are pooled."""
    names = [name for name, tensor in _tensors(model).items() if len(tensor.shape) == 4]
    if not names:
        raise UsageError(
            "the model has no layer with maps (n, h, w, channels): there is no place to point at."
        )
    return names[-1]


def _tensors(model: keras.Model) -> dict[str, keras.KerasTensor]:
    """Layer name -> its output; ``layer.output`` of a tail belongs to the whole model's graph."""
    graph = keras.Model(model.inputs[0], model.outputs[0])  # a Sequential model hides its own
    depths = sorted(graph._nodes_by_depth, reverse=True)
    return {
        node.operation.name: node.outputs[0]
        for depth in depths
        for node in graph._nodes_by_depth[depth]
    }


def _maps(model: keras.Model, layers: Sequence[str]) -> list[keras.KerasTensor]:
    tensors = _tensors(model)
    known = [name for name, tensor in tensors.items() if len(tensor.shape) == 4]
    for name in layers:
        if name not in known:
            reason = (
                f"layer '{name}' has no maps" if name in tensors else f"there is no layer '{name}'"
            )
            near = difflib.get_close_matches(name, known, n=4, cutoff=0.4) or known[-4:]
            raise UsageError(f"{reason}. The nearest layers with maps are {', '.join(near)}.")
    return [tensors[name] for name in layers or [default_layer(model)]]


def _weights_below(tensor: keras.KerasTensor) -> list[keras.Variable]:
    """Those of the layer that makes a tensor; if it has none, of the first ones below it."""
    operation, node, _ = tensor._keras_history
    sources = operation._inbound_nodes[node].input_tensors
    own = getattr(operation, "weights", [])
    return own or [weight for source in sources for weight in _weights_below(source)]


def _classifier(model: keras.Model) -> tuple[keras.KerasTensor, keras.layers.Dense]:
    """The final Dense layer and what it takes."""
    operation, node, _ = model.outputs[0]._keras_history
    if not isinstance(operation, keras.layers.Dense):
        raise UsageError(
            f"the model ends in {operation.name} ({type(operation).__name__}); only models that "
            "end in a Dense layer can be explained. If it is an ensemble, explain its members."
        )
    return operation._inbound_nodes[node].input_tensors[0], operation


def _scores(logits: tf.Tensor, classes: np.ndarray) -> tf.Tensor:
    """The score of one class for each row."""
    if logits.shape[1] == 1:
        return logits[:, 0] * np.where(classes == 1, 1.0, -1.0).astype(np.float32)
    return tf.gather(logits, classes, batch_dims=1)


def _heat(maps: tf.Tensor, gradient: tf.Tensor) -> np.ndarray:
    """Equation 1: channels weigh their mean gradient. Equation 2: the sum of maps, above 0."""
    weights = np.asarray(gradient, np.float32).mean(axis=(1, 2))
    return np.maximum(np.einsum("nhwc,nc->nhw", np.asarray(maps, np.float32), weights), 0)
