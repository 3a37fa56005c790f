"""A network as figures: shapes, parameters, multiply-adds, memory, receptive fields and cuts, all
read from its graph.
"""

from dataclasses import asdict, dataclass
from math import prod
from typing import Any, NamedTuple

import keras

from finetune.model.backbones import OURS
from finetune.model.cut import single_tensors, sources

_FLOAT32 = 4  # bytes
_FLOAT16 = 2  # bytes of a stored activation
_WINDOWS = (
    keras.layers.Conv2D,
    keras.layers.DepthwiseConv2D,
    keras.layers.SeparableConv2D,
    keras.layers.MaxPooling2D,
    keras.layers.AveragePooling2D,
)


@dataclass(frozen=True)
class Row:
    """One block, or one layer, for one photo.

    ``shape`` is of its output; ``activation_bytes`` are float32: the most that is alive at once in
    inference, and all that training keeps for the backward pass. ``receptive_field`` is the side of
    the square of pixels that one output sees, in pixels, gates of squeeze-and-excitation left out.
    ``bytes_per_photo`` is what the cut above this row stores (float16), None where other paths pass
    it by. ``trainable`` are the parameters that learn if the row is unfrozen with its BatchNorm
    layers still.
    """

    name: str
    shape: list[int]
    parameters: int
    trainable: int
    multiply_adds: int
    activation_bytes: dict[str, int]
    receptive_field: int
    bytes_per_photo: int | None


def multiply_adds(model: keras.Model) -> int:
    """Multiplications with addition per photo in convolutions, dense layers and BatchNorms, its
    preprocessing included.
    """
    return sum(map(layer_multiply_adds, model.layers))


def layer_multiply_adds(layer: keras.Layer) -> int:
    """Each kernel is used once per position of the output; a BatchNorm scales and shifts each
    value.
    """
    if isinstance(layer, keras.Sequential):
        return multiply_adds(layer)
    if isinstance(layer, keras.layers.BatchNormalization):
        return prod(layer.output.shape[1:])
    kernels = sum(prod(weight.shape) for weight in layer.weights if len(weight.shape) > 1)
    return kernels and kernels * prod(layer.output.shape[1:-1])


class Field(NamedTuple):
    """A receptive field: its side, and the distance between the fields of neighbours, in pixels."""

    side: int = 1
    jump: int = 1


def receptive_fields(model: keras.Model) -> dict[str, Field]:
    """By name of operation; the widest path counts. Global pooling starts anew, so that gates add
    nothing.
    """
    fields: dict[str, Field] = {}
    for operation in model.operations:
        below = [fields[name] for name in sources(operation)] or [Field()]
        field = Field(max(f.side for f in below), max(f.jump for f in below))
        for step in operation.layers if isinstance(operation, keras.Sequential) else [operation]:
            field = _widened(field, step)
        fields[operation.name] = field if operation.output.ndim == 4 else Field()
    return fields


def _widened(field: Field, operation: keras.Operation) -> Field:
    if not isinstance(operation, _WINDOWS):
        return field
    window = getattr(operation, "kernel_size", None) or operation.pool_size
    dilation = getattr(operation, "dilation_rate", (1, 1))[0]
    side = field.side + (window[0] - 1) * dilation * field.jump
    return Field(side, field.jump * operation.strides[0])


def live_bytes(model: keras.Model) -> dict[str, int]:
    """By name of operation: float32 activations of one photo that exist while it runs, its inputs
    and output included.
    """
    order = {operation.name: i for i, operation in enumerate(model.operations)}
    freed: list[list[str]] = [[] for _ in order]
    last = dict(order)
    for operation in model.operations:
        last.update(dict.fromkeys(sources(operation), order[operation.name]))
    for name, position in last.items():
        freed[position].append(name)
    size = {operation.name: output_bytes(operation) for operation in model.operations}
    live = {}
    alive = 0
    for name, position in order.items():
        alive += size[name]
        live[name] = alive
        alive -= sum(size[done] for done in freed[position])
    return live


def output_bytes(operation: keras.Operation, bytes_per_value: int = _FLOAT32) -> int:
    """Bytes of an operation's output for one photo."""
    return bytes_per_value * prod(operation.output.shape[1:])


def rows(model: keras.Model, groups: dict[str, list[keras.Operation]]) -> list[Row]:
    """The figures of groups of operations, each of which ends in its last one; parameters are the
    backbone's own.
    """
    fields = receptive_fields(model)
    live = live_bytes(model)
    singles = single_tensors(model)
    side = model.inputs[0].shape[1]
    found = []
    for title, operations in groups.items():
        end = operations[-1]
        layers = [operation for operation in operations if isinstance(operation, keras.Layer)]
        theirs = [layer for layer in layers if layer.name not in OURS]
        found.append(
            Row(
                name=title,
                shape=list(end.output.shape[1:]),
                parameters=sum(layer.count_params() for layer in theirs),
                trainable=sum(map(_trainable, theirs)),
                multiply_adds=sum(map(layer_multiply_adds, layers)),
                activation_bytes={
                    "inference": max(live[operation.name] for operation in operations),
                    "training": sum(map(output_bytes, operations)),
                },
                receptive_field=fields[end.name].side if end.output.ndim == 4 else side,
                bytes_per_photo=output_bytes(end, _FLOAT16) if end.name in singles else None,
            )
        )
    return found


def _trainable(layer: keras.Layer) -> int:
    if isinstance(layer, keras.layers.BatchNormalization):
        return 0
    return sum(prod(weight.shape) for weight in layer.trainable_weights)


def blocks_of(model: keras.Model, ends: tuple[str, ...]) -> dict[str, list[keras.Operation]]:
    """A network's operations by block, named by the cut that closes it; what lies above the last is
    `top`.
    """
    groups: dict[str, list[keras.Operation]] = {}
    waiting: list[keras.Operation] = []
    for operation in model.operations:
        waiting.append(operation)
        if operation.name in ends:
            groups[operation.name] = waiting
            waiting = []
    return {**groups, "top": waiting} if waiting else groups


def describe_network(
    model: keras.Model, ends: tuple[str, ...], layers: bool = False
) -> dict[str, Any]:
    """A network's figures for one photo.

    Args:
        model: what ``build_base`` made.
        ends: the layers that close its blocks, from the photo upwards.
        layers: layer by layer, too.

    Returns:
        ``parameters``, ``multiply_adds``, ``activation_bytes`` (``inference``, ``training``),
        ``blocks`` (a list of ``Row`` as dictionaries), ``cuts`` (every legal cut -> bytes per
        stored photo, float16), and ``layers``, like ``blocks``, if asked for.
    """
    blocks = [asdict(row) for row in rows(model, blocks_of(model, ends))]
    result = {
        "parameters": sum(block["parameters"] for block in blocks),
        "multiply_adds": sum(block["multiply_adds"] for block in blocks),
        "activation_bytes": {
            "inference": max(block["activation_bytes"]["inference"] for block in blocks),
            "training": sum(block["activation_bytes"]["training"] for block in blocks),
        },
        "blocks": blocks,
        "cuts": {
            name: _FLOAT16 * prod(tensor.shape[1:])
            for name, tensor in single_tensors(model).items()
            if name not in OURS and tensor is not model.output
        },
    }
    if layers:
        each = {operation.name: [operation] for operation in model.operations}
        result["layers"] = [asdict(row) for row in rows(model, each)]
    return result
