"""The cut: where a network is divided into a trunk that never learns and a tail that does.

A cut is a tensor that every path from the photo to the output passes, named by the layer that makes
it. Trunk and tail share their layers with the whole model, so that training the tail trains the
whole model and nothing has to be put together again: ``tail(trunk(x)) == model(x)``.
"""

import difflib
from collections.abc import Sequence
from typing import NamedTuple

import keras

from finetune.errors import UsageError
from finetune.model.backbones import INPUT


class Split(NamedTuple):
    """Both sides of a cut; ``trunk`` is None where the cut is the photo itself."""

    trunk: keras.Model | None
    tail: keras.Model


def single_tensors(model: keras.Model) -> dict[str, keras.KerasTensor]:
    """Every tensor at which a functional model can be cut, from the photo upwards.

    A tensor is single if no edge passes it by: every consumer of an earlier tensor stands no later
    than its maker. In a topological order each other node then lies wholly before or wholly after
    it.

    Returns:
        Layer name -> its output tensor, in topological order; the first is the model's input, the
        last its output.
    """
    order = {layer.name: position for position, layer in enumerate(model.operations)}
    last_consumer = [0] * len(order)
    for layer in model.operations:
        for source in sources(layer):
            last_consumer[order[source]] = max(last_consumer[order[source]], order[layer.name])
    single, reached = {}, 0
    for position, layer in enumerate(model.operations):
        if reached <= position:
            single[layer.name] = layer.output
        reached = max(reached, last_consumer[position])
    return single


def sources(layer: keras.Layer) -> list[str]:
    """Names of the layers whose outputs a layer takes."""
    if isinstance(layer, keras.layers.InputLayer):
        return []
    return [tensor._keras_history.operation.name for tensor in keras.tree.flatten(layer.input)]


def find_cut(model: keras.Model, name: str) -> keras.KerasTensor:
    """The tensor of a named cut.

    Raises:
        UsageError: there is no such layer, or other paths pass it by; the message names the nearest
            cuts.
    """
    cuts = single_tensors(model)
    if name in cuts:
        return cuts[name]
    names = [layer.name for layer in model.operations]
    if name in names:
        reason = f"'{name}' is no cut: other paths of the network pass it by"
        below = [cut for cut in cuts if names.index(cut) < names.index(name)]
        near = [below[-1], *[cut for cut in cuts if cut not in below][:1]]
    else:
        reason = f"there is no layer '{name}'"
        near = (
            difflib.get_close_matches(name, cuts, n=4, cutoff=0.4)
            or [cut for cut in cuts if cut != INPUT][-4:]
        )
    raise UsageError(
        f"{reason}. The nearest cuts are {', '.join(near)}; `finetune backbones` lists the block "
        "boundaries."
    )


def between(model: keras.Model, source: str, target: str) -> keras.Model | None:
    """The part of a model from one cut up to another, sharing its layers; None if both are the
    same.

    Raises:
        UsageError: no such cut.
    """
    start, end = find_cut(model, source), find_cut(model, target)
    # Given a tensor in mid-graph, keras.Model re-calls the same layers on a new input of that
    # tensor's shape.
    return None if source == target else keras.Model(start, end, name=f"{source}_to_{target}")


def split(model: keras.Model, name: str) -> Split:
    """Divide a model at a named cut.

    Args:
        model: a functional model with one input and one output.
        name: a cut, see ``single_tensors``.

    Returns:
        The trunk (photo -> activations) and the tail (activations -> output), which share the
        model's layers.

    Raises:
        UsageError: no such cut.
    """
    cut = find_cut(model, name)
    # a model of its own also at the photo: the whole one is saved without an optimizer, which a
    # process without this package could not read
    tail = keras.Model(cut, model.output, name="tail")
    return Split(between(model, INPUT, name), tail)


def depths(model: keras.Model, blocks: Sequence[str]) -> dict[str, int]:
    """How many blocks below the head each layer of a model stands; 0 is the head itself.

    Args:
        model: a tail, or the whole model.
        blocks: names of the layers that close the backbone's blocks, from the photo upwards.
    """
    names = [layer.name for layer in model.operations]
    inside = [name for name in blocks if name in names]
    found = {}
    depth = len(inside)
    for name in names:
        found[name] = depth
        depth -= name in inside
    return found
