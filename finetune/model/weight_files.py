"""Weight files read as data, never through a model loader.

A ``.keras`` or ``.h5`` file from elsewhere can make Keras run or read what it should not
(CVE-2025-1550, -8747, -9905, -9906 and their successors). Links, types and shapes are checked
before a byte of data is read.
"""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
from keras.src.utils.naming import to_snake_case

from finetune.errors import IntegrityError
from finetune.model.backbones import OURS
from finetune.model.hdf5 import check_hdf5

Arrays = dict[str, list[np.ndarray]]  # layer name -> its weights, in the layer's own order


def layer_digest(arrays: list[np.ndarray]) -> str:
    """sha256 over one layer's weights: each array's shape and its float32 little-endian bytes, in
    the layer's order.
    """
    sha = hashlib.sha256()
    for array in arrays:
        sha.update(repr(tuple(array.shape)).encode())
        sha.update(np.ascontiguousarray(array, dtype="<f4").data)
    return sha.hexdigest()


def weights_digest(arrays: Arrays) -> str:
    """sha256 over a backbone's weights in canonical order: layers sorted by name, each by
    ``layer_digest``.
    """
    lines = [f"{name} {layer_digest(arrays[name])}\n" for name in sorted(arrays)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def weighted_layers(base: keras.Model) -> list[keras.Layer]:
    """A backbone's own layers that have weights, in the model's order."""
    return [layer for layer in base.layers if layer.weights and layer.name not in OURS]


def check_shapes(base: keras.Model, found: Mapping[str, Sequence[Any]], source: str) -> None:
    """Compare with the network, layer by layer.

    Args:
        base: what ``build_base`` made.
        found: layer name -> its weights, or data sets that have not been read yet.
        source: what the weights are called in the message.

    Raises:
        IntegrityError: a layer is missing, is too many, or differs in a shape.
    """
    wanted = {
        layer.name: [tuple(v.shape) for v in layer.weights] for layer in weighted_layers(base)
    }
    shapes = {name: [tuple(v.shape) for v in values] for name, values in found.items()}
    wrong = [name for name in {**wanted, **shapes} if shapes.get(name) != wanted.get(name)]
    if wrong:
        lines = [f"{n}: expected {wanted.get(n)}, found {shapes.get(n)}" for n in wrong[:3]]
        raise IntegrityError(
            f"The weights of {source} do not fit the backbone: {len(wrong)} layers differ, first "
            f"{'; '.join(lines)}. "
            "Nothing was loaded; choose the backbone that they were made for."
        )


def read_hdf5(path: Path, base: keras.Model) -> Arrays:
    """Read an HDF5 weight file: the legacy format, or Keras 3's ``.weights.h5``.

    Args:
        path: the file.
        base: the network that the weights are for.

    Raises:
        IntegrityError: the file cannot be read, holds no weights in either format, or they do not
            fit ``base``.
    """
    try:
        with h5py.File(path, "r") as file:
            check_hdf5(file)
            if "layer_names" in file.attrs:
                found = _legacy(file, base)
            elif "layers" in file:
                found = _by_class_and_order(file["layers"], weighted_layers(base))
            else:
                raise ValueError("it holds neither Keras's legacy .h5 nor its .weights.h5")
            check_shapes(base, found, str(path))
            return {name: [data[()] for data in values] for name, values in found.items()}
    except (OSError, KeyError, AttributeError, TypeError, ValueError, RuntimeError) as error:
        raise IntegrityError(
            f"{path} is no weight file that can be read ({error}). Nothing was loaded; allowed are "
            "Keras's legacy .h5 "
            "and .weights.h5 of this backbone."
        ) from error


def _legacy(file: h5py.File, base: keras.Model) -> dict[str, list[h5py.Dataset]]:
    """By name, where "conv1/conv" of old files is "conv1_conv" now; in order, as Keras does, where
    names are numbers.
    """
    found = {}
    for name in map(_text, file.attrs["layer_names"]):
        weights = [file[name][_text(weight)] for weight in file[name].attrs["weight_names"]]
        if weights:
            found[name.replace("/", "_")] = weights
    wanted = [layer.name for layer in weighted_layers(base)]
    if len(found) == len(wanted) and set(found) != set(wanted):
        return dict(zip(wanted, found.values(), strict=True))
    return found


def _text(name: str | bytes) -> str:
    return name.decode() if isinstance(name, bytes) else name


def _by_class_and_order(
    group: h5py.Group, layers: Sequence[keras.Layer]
) -> dict[str, list[h5py.Dataset]]:
    """Keras 3's names: the class in snake case, numbered in the order of the model's layers."""
    found = {}
    seen: dict[str, int] = {}
    for layer in layers:
        kind = to_snake_case(type(layer).__name__)
        number = seen[kind] = seen.get(kind, -1) + 1
        place = group[f"{kind}_{number}" if number else kind]
        if isinstance(layer, keras.Sequential):
            inside = _by_class_and_order(place["layers"], [x for x in layer.layers if x.weights])
            found[layer.name] = [data for values in inside.values() for data in values]
        else:
            found[layer.name] = [place["vars"][str(i)] for i in range(len(layer.weights))]
    return found
