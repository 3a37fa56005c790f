"""Open a saved ``.keras`` file, after looking at it as data.

Loading a foreign Keras file can make Keras run or read what it should not (CVE-2025-1550, -8747,
-9905, -9906, -12058 and their successors). Whatever this toolkit saves is made of standard layers
and whole numbers of bytes in one archive, so everything else is refused before Keras sees it, and
then Keras's own safe mode is on, too.
"""

import io
import json
import math
import re
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
from keras.src.backend.common.global_state import set_global_attribute

from finetune.errors import DataError, IntegrityError

_WEIGHTS = "model.weights.h5"
_MEMBERS = {"metadata.json", "config.json", _WEIGHTS}
# Where the configuration of a model of standard layers takes its classes from; None is a tensor's.
_MODULES = {None, "keras"} | {
    f"keras.{name}"
    for name in (
        *("initializers", "layers", "losses", "metrics", "optimizers", "optimizers.schedules"),
        *("regularizers", "src.models.functional", "src.models.sequential"),
    )
}
# Of Keras's own modules nothing but these: what keras.applications and we build networks of.
_EXACT = {
    ("keras.src.ops.numpy", "Add"),
    ("keras.src.ops.numpy", "Multiply"),
    ("keras.src.ops.numpy", "Flip"),  # of ``model.mirror``, as is the next one
    ("keras.src.ops.numpy", "Split"),
    ("keras.src.applications.convnext", "LayerScale"),
    ("keras.src.applications.inception_resnet_v2", "CustomScaleLayer"),
}
# They carry or fetch code.
_UNSAFE_LAYERS = {"Lambda", "TFSMLayer", "TorchModuleWrapper", "FlaxLayer", "JaxLayer"}
# Settings of layers that become a side of a weight, and so cannot exceed the largest side stored.
_SIDES = {"units", "filters", "kernel_size", "depth_multiplier", "input_dim", "output_dim"}
# Settings that say how large a tensor is.
_SHAPES = {"batch_shape", "shape", "input_shape", "target_shape"}
_LARGEST_TENSOR = 2**28  # numbers; a photo of 8,192 x 8,192
_SPARE = 2**20  # numbers of a model that need not be stored
_LARGEST = 2**33  # bytes of an archive
_LARGEST_CONFIG = 2**24  # bytes; that of DenseNet121 has 2**18


def with_classifier(archive: bytes, kernel: np.ndarray, bias: np.ndarray) -> bytes:
    """A saved model with another linear classifier, in a tenth of the time that Keras takes.

    Args:
        archive: a ``.keras`` file whose last dense layer is the classifier.
        kernel: (features, classes).
        bias: (classes,).

    Returns:
        What Keras would have written, but for its date.
    """
    with zipfile.ZipFile(io.BytesIO(archive)) as old:
        members = {name: old.read(name) for name in old.namelist()}
    weights = io.BytesIO(members[_WEIGHTS])
    with h5py.File(weights, "r+") as file:
        dense = [name for name in file["layers"] if re.fullmatch(r"dense(_\d+)?", name)]
        last = max(dense, key=lambda name: int(name[6:] or 0))  # numbered from below
        variables = file[f"layers/{last}/vars"]
        variables["0"][...] = kernel
        variables["1"][...] = bias
    members[_WEIGHTS] = weights.getvalue()
    new = io.BytesIO()
    with zipfile.ZipFile(new, "w", zipfile.ZIP_STORED) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return new.getvalue()


def load_model(path: Path) -> keras.Model:
    """Open a model made of Keras's own layers.

    Args:
        path: a ``.keras`` file.

    Raises:
        DataError: there is no such file.
        IntegrityError: it is no Keras model, is damaged, or holds anything but standard layers and
            their weights.
    """
    if not path.is_file():
        raise DataError(f"{path} does not exist. Give a run folder, or a .keras file.")
    try:
        stored = _check(path)
        return _built(path, stored)
    except Exception as error:  # Keras, h5py, zipfile and TensorFlow each raise their own
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise IntegrityError(
            f"{path} is no model that can be opened safely: {reason}. Allowed are .keras files of "
            "Keras's own layers, as `finetune run` writes them. Nothing was loaded."
        ) from error


def _built(path: Path, stored: int) -> keras.Model:
    """The model with its weights, of which no number is made before all are counted."""
    with zipfile.ZipFile(path) as archive, tempfile.TemporaryDirectory() as folder:
        config = json.loads(archive.read("config.json"))
        config["compile_config"] = None
        try:
            with keras.StatelessScope(initialize_variables=False):
                model = keras.saving.deserialize_keras_object(config, safe_mode=True)
                claimed = sum(math.prod(variable.shape) for variable in model.variables)
            if claimed > stored + _SPARE:
                raise ValueError(f"its layers take {claimed:,} numbers, and {stored:,} are stored")
        except BaseException:
            set_global_attribute("uninitialized_variables", [])  # or the next scope makes them
            raise
        with keras.StatelessScope():
            pass  # at its end Keras makes the variables that wait
        model.load_weights(archive.extract(_WEIGHTS, folder))
    return model


def _check(path: Path) -> int:
    """Look at the file as data; the number of numbers that its weights have."""
    with zipfile.ZipFile(path) as archive:
        _check_members(archive.infolist())
        parts = list(_parts(json.loads(archive.read("config.json"))))
        for part in parts:
            _check_part(part)
        with tempfile.TemporaryDirectory() as folder:
            archive.extract("model.weights.h5", folder)
            with h5py.File(Path(folder, "model.weights.h5"), "r") as file:
                sizes: list[int] = []
                largest = _largest_side(file, set(), sizes)
    for part in parts:
        _check_sides(part, largest)
        _check_shapes(part, largest)
    return sum(sizes)


def _check_members(items: Sequence[zipfile.ZipInfo]) -> None:
    """Only Keras's own members, stored as they are: nothing unpacks to more than the file has."""
    names = [item.filename for item in items]
    if set(names) - _MEMBERS or len(names) != len(set(names)):
        listed = ", ".join(sorted(names))[:200]
        raise ValueError(f"the archive holds {listed}; allowed are {', '.join(sorted(_MEMBERS))}")
    for item in items:
        if item.compress_type != zipfile.ZIP_STORED or item.file_size != item.compress_size:
            raise ValueError(f"{item.filename} is compressed, which Keras never does")
        most = _LARGEST if item.filename == "model.weights.h5" else _LARGEST_CONFIG
        if item.file_size > most:
            raise ValueError(f"{item.filename} has {item.file_size:,} bytes; allowed: {most:,}")


def _parts(config: Any) -> Iterator[dict[str, Any]]:
    """Every object of a serialized configuration, at any depth."""
    if isinstance(config, dict):
        if "class_name" in config:
            yield config
        for value in config.values():
            yield from _parts(value)
    elif isinstance(config, list):
        for value in config:
            yield from _parts(value)


def _check_part(part: dict[str, Any]) -> None:
    place, name = part.get("module"), part["class_name"]
    registered = part.get("registered_name")
    is_known = place in _MODULES or (place, name) in _EXACT
    if not is_known or name in _UNSAFE_LAYERS or registered not in (None, name):
        raise ValueError(f"it holds {place}.{name}, which is none of Keras's own layers")


def _check_sides(part: dict[str, Any], largest: int) -> None:
    """A layer that claims more than is stored would be made, at any size, before it is filled."""
    settings = part.get("config")
    if not isinstance(settings, dict):
        return
    for name in _SIDES & set(settings):
        values = settings[name] if isinstance(settings[name], list) else [settings[name]]
        if any(isinstance(value, int) and value > largest for value in values):
            raise ValueError(
                f"{part['class_name']} has {name} {settings[name]}, and no weight is so large"
            )


def _check_shapes(part: dict[str, Any], largest: int) -> None:
    """A tensor that is larger than any photo would be made as soon as the model is called."""
    most = max(largest, _LARGEST_TENSOR)
    for settings in (part.get("config"), part.get("build_config")):
        shapes = settings if isinstance(settings, dict) else {}
        for name in _SHAPES & set(shapes):
            found = shapes[name]
            for shape in found if _is_nested(found) else [found]:
                sides = [side for side in shape or () if isinstance(side, int)]
                if math.prod(map(abs, sides)) > most:
                    raise ValueError(
                        f"{part['class_name']} has {name} {str(found)[:100]}; allowed are "
                        f"{most:,} numbers"
                    )


def _is_nested(shape: Any) -> bool:
    return isinstance(shape, list) and any(isinstance(side, list) for side in shape)


def _largest_side(group: h5py.Group, seen: set[int], sizes: list[int]) -> int:
    """The largest side of any array; each group is visited once however often it is linked.

    Args:
        group: where to look, at any depth.
        seen: addresses that were visited.
        sizes: takes the number of numbers of each array.

    Raises:
        ValueError: a link out of the file or data that lies elsewhere, of which HDF5 would read
            other files of this machine; or an array that is larger than its bytes in the file.
    """
    largest = 0
    for name in group:
        if isinstance(group.get(name, getlink=True), h5py.ExternalLink):
            raise ValueError(f"its weights link to another file at {group.name}/{name}")
        item = group[name]
        address = h5py.h5o.get_info(item.id).addr
        if address in seen:
            continue
        seen.add(address)
        if isinstance(item, h5py.Group):
            largest = max(largest, _largest_side(item, seen, sizes))
        elif item.external or item.is_virtual:
            raise ValueError(f"its weights at {item.name} lie in another file")
        elif item.id.get_storage_size() < item.nbytes:
            raise ValueError(f"its weights at {item.name} have fewer bytes than numbers")
        else:
            sizes.append(item.size)
            largest = max(largest, *item.shape, 0)
    return largest
