"""Several classifiers as one Keras model that computes what they share once. Needs TensorFlow."""

import hashlib
import json
from collections.abc import Sequence

import keras
import numpy as np
from scipy.optimize import minimize

from finetune.errors import IntegrityError
from finetune.model.backbones import INPUT

LEAST_WEIGHT = 0.01  # a member with less is left out: it would cost a whole network
TOLERANCE = 1e-5  # between the joined model's probabilities and the weighted mean of its members'
_AUDITED = 2  # photos
_CLIP = 1e-7  # Keras's epsilon


def fit_weights(of_label: np.ndarray) -> np.ndarray:
    """The weights on the simplex whose mixture has the lowest log loss; it is convex in them.

    Args:
        of_label: (n, members), what each member gave the class of each validation photo.

    Returns:
        (members,) with sum 1; weights under ``LEAST_WEIGHT`` are 0, and the others sum to 1 again.
    """
    likely = np.maximum(of_label, _CLIP)

    # The sum of the weights stands in for their constraint: along a ray from 0, 1 is best.
    def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        mixed = likely @ weights
        return weights.sum() - np.log(mixed).mean(), 1 - (likely / mixed[:, None]).mean(axis=0)

    members = likely.shape[1]
    start = np.full(members, 1 / members)
    options = {"ftol": 1e-14, "gtol": 1e-9, "maxiter": 1000}
    found = minimize(loss, start, jac=True, bounds=[(0, None)] * members, options=options)
    weights = found.x / found.x.sum()
    kept = np.where(weights < LEAST_WEIGHT, 0.0, weights)
    return kept / kept.sum()


def join(models: Sequence[keras.Model], weights: Sequence[float]) -> keras.Model:
    """Join classifiers into one that gives the weighted mean of their probabilities.

    Members are replayed layer by layer. A layer that is the same as one that is there already
    (kind, settings, weights bit by bit) and takes the same tensors is that one: three heads on one
    frozen backbone cost a single pass, and a member whose top block was trained parts from the
    others below that block.

    Args:
        models: flat functional models, uint8 photos (n, size, size, 3) -> probabilities (n,
            classes).
        weights: one per model, with sum 1; a model of weight 0 is left out.

    Returns:
        A flat model of standard layers with the members' input and output. Layers of the k-th model
        that are not shared end in ``_k``, k from 2.
    """
    photo = keras.Input(models[0].input.shape[1:], dtype=models[0].input.dtype, name=INPUT)
    made: dict[tuple, keras.KerasTensor] = {}
    taken: set[str] = set()
    parts = []
    for number, (model, weight) in enumerate(zip(models, weights, strict=True), start=1):
        if weight:
            probabilities = _replay(model, photo, "" if number == 1 else f"_{number}", made, taken)
            scale = keras.layers.Rescaling(weight, dtype="float32", name=f"weight_{number}")
            parts.append(scale(probabilities))
    mean = keras.layers.Add(dtype="float32", name="blend")(parts) if len(parts) > 1 else parts[0]
    return keras.Model(photo, mean, name="ensemble")


def audit(joined: keras.Model, models: Sequence[keras.Model], weights: Sequence[float]) -> float:
    """The largest difference between a joined model and its members' mean on photos of noise.

    Raises:
        IntegrityError: it is more than ``TOLERANCE``.
    """
    shape = (_AUDITED, *joined.input.shape[1:])
    photos = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    # Called and not `predict`ed: to trace so many graphs would take longer than to run them once.
    apart = [np.asarray(model(photos, training=False)) for model in models]
    mean = np.tensordot(weights, apart, axes=1)
    difference = float(np.abs(np.asarray(joined(photos, training=False)) - mean).max())
    if not difference <= TOLERANCE:  # written so that NaN fails, too
        raise IntegrityError(
            f"The joined model differs from its members by {difference:.2g}; allowed is "
            f"{TOLERANCE:g}. It was not saved. Members are run folders as `finetune run` writes "
            "them: run again the one whose model was changed."
        )
    return difference


def _replay(
    model: keras.Model,
    photo: keras.KerasTensor,
    suffix: str,
    made: dict[tuple, keras.KerasTensor],
    taken: set[str],
) -> keras.KerasTensor:
    """A model's output for another photo tensor.

    ``made``: (layer, its inputs) -> output; ``taken``: the names of its layers. Both are added to.
    """
    moved = {id(model.input): photo}
    for layer in model.operations[1:]:  # in topological order; the first is the input
        call = layer._inbound_nodes[0].arguments  # an operation may take numbers, too: x + 3
        args, options = keras.tree.map_structure(
            lambda value: moved.get(id(value), value), (call.args, call.kwargs)
        )
        given = [
            id(value) if isinstance(value, keras.KerasTensor) else repr(value)
            for value in keras.tree.flatten((args, options))
        ]
        key = (_identity(layer), *given)
        if key not in made:
            name = layer.name + suffix
            while name in taken:  # activation_2 may be a layer of the first member
                name += suffix
            taken.add(name)
            copy = type(layer).from_config({**layer.get_config(), "name": name})
            made[key] = copy(*args, **options)
            if isinstance(layer, keras.Layer):
                copy.set_weights(layer.get_weights())
        moved[id(layer.output)] = made[key]
    return moved[id(model.output)]


def _identity(layer: keras.Operation) -> str:
    """Equal for layers that compute the same, whatever they are called and may learn."""
    config = {k: value for k, value in layer.get_config().items() if k not in ("name", "trainable")}
    weights = layer.get_weights() if isinstance(layer, keras.Layer) else []
    digests = [hashlib.sha256(values.tobytes()).hexdigest() for values in weights]
    return json.dumps([type(layer).__name__, config, digests], sort_keys=True)
