"""Several trained classifiers as one Keras model, which computes what they share once. Needs TensorFlow."""

import hashlib
import json
from collections.abc import Sequence

import keras
import numpy as np

from finetune.errors import IntegrityError
from finetune.evaluation.blend import Blend
from finetune.model.backbones import INPUT
from finetune.model.heads import CLASSIFIER

TOLERANCE = 1e-5  # between the joined model's probabilities and those of its members, blended
_AUDITED = 2  # photos


def join(models: Sequence[keras.Model], blend: Blend) -> keras.Model:
    """Join classifiers into one that gives their blended probabilities.

    Members are replayed layer by layer. A layer that is the same as one that is there already (kind, settings, weights bit
    by bit) and takes the same tensors is that one: three heads on one frozen backbone cost a single pass, and a member
    whose top block was trained parts from the others below that block.

    Args:
        models: flat functional models, uint8 photos (n, size, size, 3) -> softmax probabilities (n, classes) by a layer
            called ``classifier``.
        blend: one weight and one temperature per model; a model of weight 0 is left out.

    Returns:
        A flat model of standard layers with the members' input and output. Layers of the k-th model that are not shared
        end in ``_k``, k from 2.
    """
    photo = keras.Input(models[0].input.shape[1:], dtype=models[0].input.dtype, name=INPUT)
    made: dict[tuple, keras.KerasTensor] = {}
    parts = []
    for number, (model, weight, temperature) in enumerate(
        zip(models, blend.weights, blend.temperatures, strict=True), start=1
    ):
        if weight:
            probabilities = _replay(
                model, photo, temperature, "" if number == 1 else f"_{number}", made
            )
            parts.append(
                keras.layers.Rescaling(weight, dtype="float32", name=f"weight_{number}")(
                    probabilities
                )
            )
    blended = keras.layers.Add(dtype="float32", name="blend")(parts) if len(parts) > 1 else parts[0]
    return keras.Model(photo, blended, name="ensemble")


def audit(joined: keras.Model, models: Sequence[keras.Model], blend: Blend) -> float:
    """The largest difference between a joined model and its members, blended, on a few photos of noise.

    Raises:
        IntegrityError: it is more than ``TOLERANCE``.
    """
    photos = np.random.default_rng(0).integers(
        0, 256, (_AUDITED, *joined.input.shape[1:]), dtype=np.uint8
    )
    # Called and not `predict`ed: to trace so many graphs would take longer than to run them once.
    found, *apart = (np.asarray(model(photos, training=False)) for model in (joined, *models))
    difference = float(np.abs(found - blend.apply(apart)).max())
    if not difference <= TOLERANCE:  # written so that NaN fails, too
        raise IntegrityError(
            f"The joined model differs from its members by {difference:.2g}; allowed is {TOLERANCE:g}. It was not saved. "
            "Members are run folders as `finetune run` writes them: run again the one whose model was changed."
        )
    return difference


def _replay(
    model: keras.Model,
    photo: keras.KerasTensor,
    temperature: float,
    suffix: str,
    made: dict[tuple, keras.KerasTensor],
) -> keras.KerasTensor:
    """A model's output, computed from another photo tensor; ``made``: (layer, its input tensors) -> output so far."""
    moved = {id(model.input): photo}
    for layer in model.operations[1:]:  # in topological order; the first is the input
        inputs = keras.tree.map_structure(lambda tensor: moved[id(tensor)], layer.input)
        weights = _weights(layer, temperature)
        key = (_identity(layer, weights), *(id(tensor) for tensor in keras.tree.flatten(inputs)))
        if key not in made:
            copy = type(layer).from_config({**layer.get_config(), "name": layer.name + suffix})
            made[key] = copy(inputs)
            copy.set_weights(weights)
        moved[id(layer.output)] = made[key]
    return moved[id(model.output)]


def _weights(layer: keras.Layer, temperature: float) -> list[np.ndarray]:
    """A layer's weights; those of the classifier divided by the temperature, which is softmax(z / T) exactly."""
    return (
        [w / np.float32(temperature) for w in layer.get_weights()]
        if layer.name == CLASSIFIER
        else layer.get_weights()
    )


def _identity(layer: keras.Layer, weights: Sequence[np.ndarray]) -> str:
    """Equal for layers that compute the same: their names and whether they may learn do not matter."""
    config = {
        key: value for key, value in layer.get_config().items() if key not in ("name", "trainable")
    }
    digests = [hashlib.sha256(values.tobytes()).hexdigest() for values in weights]
    return json.dumps([type(layer).__name__, config, digests], sort_keys=True)
