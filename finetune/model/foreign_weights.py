"""Weights of the same architecture in the layout of torchvision and timm, from a .safetensors or an
.onnx file.

Names are mapped to Keras's, kernels turned from OIHW to HWIO; a BatchNorm is weight, bias, running
mean and variance in both. These weights were trained on pixels that torchvision's preprocessing
made, so the network gets that one, too.
"""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import keras
import numpy as np

from finetune.errors import IntegrityError, UsageError
from finetune.model.weight_files import Arrays, check_shapes

_IGNORED = re.compile(r"(classifier|fc|head|pre_logits)\..*|.*\.num_batches_tracked")
_PARTS = {"weight": 0, "bias": 1, "running_mean": 2, "running_var": 3}

_VGG16 = dict(
    zip(
        (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28),
        (f"block{b}_conv{c}" for b, n in enumerate((2, 2, 3, 3, 3), 1) for c in range(1, n + 1)),
        strict=True,
    )
)
# By builder: pattern of a layer's name -> its name in Keras.
_NAMES: dict[str, dict[str, Callable[[re.Match[str]], str]]] = {
    "VGG16": {r"features\.(\d+)": lambda m: _VGG16[int(m[1])]},
    "DenseNet121": {
        r"features\.conv0": lambda m: "conv1_conv",
        r"features\.norm0": lambda m: "conv1_bn",
        r"features\.norm5": lambda m: "bn",
        r"features\.denseblock(\d)\.denselayer(\d+)\.norm(\d)": lambda m: (
            f"conv{int(m[1]) + 1}_block{m[2]}_{int(m[3]) - 1}_bn"
        ),
        r"features\.denseblock(\d)\.denselayer(\d+)\.conv(\d)": lambda m: (
            f"conv{int(m[1]) + 1}_block{m[2]}_{m[3]}_conv"
        ),
        r"features\.transition(\d)\.(norm|conv)": lambda m: (
            f"pool{int(m[1]) + 1}_{'bn' if m[2] == 'norm' else 'conv'}"
        ),
    },
    "resnet50_v15": {
        r"(conv|bn)1": lambda m: f"conv1_{m[1]}",
        r"layer(\d)\.(\d+)\.(conv|bn)(\d)": lambda m: (
            f"conv{int(m[1]) + 1}_block{int(m[2]) + 1}_{m[4]}_{m[3]}"
        ),
        r"layer(\d)\.(\d+)\.downsample\.(0|1)": lambda m: (
            f"conv{int(m[1]) + 1}_block{int(m[2]) + 1}_0_{'conv' if m[3] == '0' else 'bn'}"
        ),
    },
}


def read_foreign(path: Path, base: keras.Model, builder: str) -> Arrays:
    """Read a file in torchvision's or timm's layout.

    Args:
        path: .safetensors or .onnx; data outside the file are refused, and no graph is run.
        base: the network that the weights are for.
        builder: of the backbone's row.

    Raises:
        UsageError: the package that reads it is not installed.
        IntegrityError: the file cannot be read, is of another network, or there is no mapping for
            this backbone.
    """
    if builder not in _NAMES:
        raise IntegrityError(
            f"{path}: {path.suffix} files are read for vgg16, densenet121 and resnet50-v1.5, not "
            f"for {base.name}. Nothing "
            "was loaded; give Keras's .h5 or .weights.h5."
        )
    read = _safetensors if path.suffix == ".safetensors" else _onnx
    found: dict[str, dict[int, np.ndarray]] = {}
    try:
        for name, value in read(path):
            layer, _, part = name.rpartition(".")
            if not _IGNORED.fullmatch(name):
                found.setdefault(_keras_name(layer, builder), {})[_PARTS[part]] = value
    except ImportError as error:
        raise UsageError(
            f"{path} needs the package {error.name}, which is not installed: "
            '`pip install "finetune-cut[weights]"`, or give Keras\'s .h5.'
        ) from error
    except Exception as error:  # safetensors, onnx and protobuf each raise their own
        raise IntegrityError(
            f"{path} is no weight file of {builder} in the layout of torchvision or timm "
            f"({error}). Nothing was loaded."
        ) from error
    arrays = {name: [values[part] for part in sorted(values)] for name, values in found.items()}
    check_shapes(base, arrays, str(path))
    return arrays


def _keras_name(layer: str, builder: str) -> str:
    for pattern, name in _NAMES[builder].items():
        if match := re.fullmatch(pattern, layer):
            return name(match)
    raise ValueError(f"it holds '{layer}', which is no layer of this network")


def _hwio(value: np.ndarray) -> np.ndarray:
    if value.dtype.kind != "f":
        raise ValueError(f"it holds {value.dtype}; allowed are floating-point numbers")
    return value.transpose(2, 3, 1, 0) if value.ndim == 4 else value


def _safetensors(path: Path) -> Iterator[tuple[str, np.ndarray]]:
    from safetensors import safe_open

    with safe_open(path, "numpy") as file:
        for name in file.keys():  # noqa: SIM118 (a file is no mapping)
            if not _IGNORED.fullmatch(name):
                yield name, _hwio(file.get_tensor(name))


def _onnx(path: Path) -> Iterator[tuple[str, np.ndarray]]:
    import onnx
    import onnx.numpy_helper

    for tensor in onnx.load(path, load_external_data=False).graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            raise ValueError(f"'{tensor.name}' lies in another file")
        if not _IGNORED.fullmatch(tensor.name) and tensor.name.rpartition(".")[2] in _PARTS:
            yield tensor.name, _hwio(onnx.numpy_helper.to_array(tensor))
