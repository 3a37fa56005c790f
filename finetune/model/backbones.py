"""The backbones: a literal table of the core, the controls, and whatever else keras.applications
has.

All of it can be read without importing TensorFlow; ``base.build_base`` makes them.
``applications.json`` is what ``python -m finetune.model.applications`` finds in the graphs of
Keras's own functions.
"""

import difflib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from finetune.errors import UsageError
from finetune.model.preprocessing import PREPROCESSING, Preprocessing

INPUT = "photo"  # the name of the input layer, and of the cut below everything
OURS = (INPUT, "as_float", "preprocess")  # the layers that are in front of every backbone
FOREIGN = (".safetensors", ".onnx")  # weight files in torchvision's layout


@dataclass(frozen=True)
class Backbone:
    """One row of the table.

    ``blocks`` names the layer whose output closes each block, from the photo upwards; a cut below
    the top N blocks is ``blocks[-N - 1]``. ``weights_hash`` is the md5 or sha256 that Keras itself
    pins for its file, or "" where it pins none; ``layer_digests`` pins the weights themselves (see
    ``weight_files.layer_digest``), where we had the real file to compute them from. ``files`` has
    (name, address, hash) of the weights for each ``alpha``, the width multiplier of the MobileNets.
    ``head`` is the head of a recipe that names none.
    """

    builder: str
    preprocessing: Preprocessing
    blocks: tuple[str, ...]
    parameters: int
    min_size: int
    licence: str
    citation: str
    weights_url: str = ""
    weights_hash: str = ""
    weights_file: str = ""  # Keras's own name of the file
    layer_digests: Mapping[str, str] = field(default_factory=dict)
    alpha: float = 1.0
    files: Mapping[float, tuple[str, str, str]] = field(default_factory=dict)
    head: Mapping[str, Any] = field(default_factory=dict)


_KERAS = "https://storage.googleapis.com/tensorflow/keras-applications/"
_NOTOP = "_weights_tf_dim_ordering_tf_kernels_notop.h5"

BACKBONES = {
    "vgg16": Backbone(
        builder="VGG16",
        preprocessing=PREPROCESSING["caffe"],
        blocks=("block1_pool", "block2_pool", "block3_pool", "block4_pool", "block5_pool"),
        parameters=14_714_688,
        min_size=32,
        weights_url=_KERAS + "vgg16/vgg16" + _NOTOP,
        weights_file="vgg16" + _NOTOP,
        weights_hash="6d6bbae143d832006294945121d1f1fc",
        licence="CC BY 4.0 (weights, Visual Geometry Group, Oxford); Apache 2.0 (Keras port)",
        citation="Simonyan & Zisserman, Very Deep Convolutional Networks, ICLR 2015, "
        "arXiv:1409.1556",
        layer_digests={
            "block1_conv1": "f9366dfa45849cd2e37f2c0ce051a0c903182ed4a0f5394d087a467268992416",
            "block1_conv2": "7dfb05450057a1dee9bd980a680a692a2eb3f1551ae06f22d8e45b7fab0fbb58",
            "block2_conv1": "ec6867228dd8460bfc54708dab3769f6a18d6c4aeb7ca50a524c58f11eb3110a",
            "block2_conv2": "0c87a133a5a1206e3a3d35abc9ab512d96a67b5a77cdc7c04ef8a4b865d5d639",
            "block3_conv1": "520e87c5f5c1d5de14b905389969d535af1fb37653d70cb99056d2dc342bbd35",
            "block3_conv2": "e4c090f54b31ae5c1fea163534c86e3038de1bd5f71b76a471821a2370e7084d",
            "block3_conv3": "0badcc37872d8d7a98735a0a8ca2bfc1c5ce62adcdcd3f5d072f0fee4eaec92d",
            "block4_conv1": "1da1cc0b651094feafc15ad1a17b0e67245965ac3051b5b574c037cf1ced0c1f",
            "block4_conv2": "74fe1f21452e0d2ae3f55dcfbc75ec76d617d7eaddb7c5e72ccf9375103b58af",
            "block4_conv3": "e160c4faf34730344143bb054613564d762acc31f83ba5a141de32eac383485f",
            "block5_conv1": "62eb1f9caaf5c67a8eb44aa3188670e6f5009c135afd51a7c9e0e95a9f52e8e2",
            "block5_conv2": "9dcd7b4b38f2d872d02ac74c65139c2b1a057831e21442c1c6665b2b88af76bc",
            "block5_conv3": "eab6384494f533b021ec20e95621948c7b36a73ea3f3b3289e1e04c19be7aa42",
        },
    ),
    "resnet50": Backbone(
        builder="ResNet50",
        preprocessing=PREPROCESSING["caffe"],
        blocks=(
            "pool1_pool",
            "conv2_block3_out",
            "conv3_block4_out",
            "conv4_block6_out",
            "conv5_block3_out",
        ),
        parameters=23_587_712,
        min_size=32,
        weights_url=_KERAS + "resnet/resnet50" + _NOTOP,
        weights_file="resnet50" + _NOTOP,
        weights_hash="4d473c1dd8becc155b73f8504c6f6626",
        licence="MIT (weights, Kaiming He); Apache 2.0 (Keras port)",
        citation="He et al., Deep Residual Learning for Image Recognition, CVPR 2016, "
        "arXiv:1512.03385",
    ),
    "densenet121": Backbone(
        builder="DenseNet121",
        preprocessing=PREPROCESSING["torch"],
        # The final "bn" and "relu" stand after conv5 and belong to the top block: its boundary is
        # "relu".
        blocks=("pool1", "pool2_pool", "pool3_pool", "pool4_pool", "relu"),
        parameters=7_037_504,
        min_size=32,
        weights_url=_KERAS + "densenet/densenet121" + _NOTOP,
        weights_file="densenet121" + _NOTOP,
        weights_hash="30ee3e1110167f948a6b9946edeeb738",
        licence="BSD 3-Clause (weights, Facebook AI Research); Apache 2.0 (Keras port)",
        citation="Huang et al., Densely Connected Convolutional Networks, CVPR 2017, "
        "arXiv:1608.06993",
    ),
}


def _control(
    builder: str,
    parameters: int,
    blocks: str,
    citation: str,
    pixels: str = "scale-only",
    **rest: Any,
) -> Backbone:
    return Backbone(
        builder,
        PREPROCESSING[pixels],
        tuple(blocks.split()),
        parameters,
        28,
        "no weights",
        citation,
        **rest,
    )


# Networks that are trained from scratch (`weights: random`), for what a pretrained one has bought.
CONTROLS = {
    "mini-resnet": _control(
        "mini_resnet",
        175_344,
        "stage1_out stage2_out top_relu",
        "He et al., Identity Mappings in Deep Residual Networks, ECCV 2016, arXiv:1603.05027",
    ),
    "mini-densenet": _control(
        "mini_densenet",
        77_640,
        "stage1_pool stage2_pool top_relu",
        "Huang et al., Densely Connected Convolutional Networks, CVPR 2017, arXiv:1608.06993",
    ),
    "mini-cnn": _control(
        "mini_cnn",
        1_116_160,
        "stage1_pool stage2_pool stage3_pool",
        "Géron, Hands-On Machine Learning with Scikit-Learn, Keras and TensorFlow, 2019, chapter "
        "14",
        head={"pool": "flatten", "hidden": [128, 64], "dropout": 0.5},
    ),
    "resnet34": _control(
        "resnet34",
        21_301_696,
        "stem_pool stage1_out stage2_out stage3_out stage4_out",
        "He et al., Deep Residual Learning for Image Recognition, CVPR 2016, arXiv:1512.03385",
    ),
    # torchvision's stride placement: its weights come with --weights FILE
    "resnet50-v1.5": _control(
        "resnet50_v15",
        23_561_152,
        "pool1_pool conv2_block3_out conv3_block4_out conv4_block6_out conv5_block3_out",
        "He et al., CVPR 2016, arXiv:1512.03385; the stride is in the 3x3 convolutions",
        pixels="torch",
    ),
}


@cache
def _applications() -> dict[str, dict[str, Any]]:
    """The derived rows, by name: what applications.json holds."""
    return json.loads(Path(__file__).with_name("applications.json").read_text(encoding="utf-8"))


# What float32 is `auto` for: narrow depthwise layers lose too much elsewhere. MobileNet 0.25 with
# its real weights, 300 photos: bfloat16 moves features by 13 % and a probability by up to 0.18,
# int8 by 21 % and 0.28 (docs/performance.md).
NEEDS_FLOAT32 = ("mobilenet",)


def known_backbones() -> tuple[str, ...]:
    """Every name that ``backbone`` takes: the core, the controls, then keras.applications in
    alphabetical order.
    """
    return tuple(dict.fromkeys([*BACKBONES, *CONTROLS, *_applications()]))


def is_backbone(name: str) -> bool:
    """Whether ``backbone`` takes this name."""
    return name in known_backbones()


def alphas(name: str) -> tuple[float, ...]:
    """The width multipliers that a backbone's weights come in, ascending; () for a backbone without
    them.
    """
    files = _applications().get(name, {}).get("weights", {})
    return tuple(sorted(float(alpha) for alpha in files)) if len(files) > 1 else ()


@cache
def backbone(name: str, alpha: float = 1.0) -> Backbone:
    """A backbone's row, from the table or derived.

    Args:
        name: one of ``known_backbones()``.
        alpha: width multiplier, one of ``alphas(name)``; 1 for a backbone without them.

    Raises:
        UsageError: there is no such backbone, or none of this width.
    """
    row = {**BACKBONES, **CONTROLS}.get(name)
    if row is None and not is_backbone(name):
        near = difflib.get_close_matches(name, known_backbones(), n=3) or [*BACKBONES]
        raise UsageError(
            f"There is no backbone '{name}'; the nearest are {', '.join(near)}. "
            "`finetune backbones` lists all of them."
        )
    if alpha not in (alphas(name) or (1.0,)):
        allowed = ", ".join(f"{width:g}" for width in alphas(name))
        raise UsageError(
            f"alpha is {alpha:g}; {name} "
            + (f"comes with alpha {allowed}." if allowed else "has no alpha: leave it out.")
        )
    return row or _derived(name, alpha)


def preprocessing_of(name: str, weights: str, wanted: str = "backbone") -> Preprocessing:
    """What happens to pixels in front of a backbone.

    Args:
        name: one of ``known_backbones()``.
        weights: as for ``load_weights``: those in torchvision's layout bring torchvision's.
        wanted: ``backbone``, or a key of ``PREPROCESSING``.
    """
    if wanted != "backbone":
        return PREPROCESSING[wanted]
    return PREPROCESSING["torch"] if is_foreign(weights) else backbone(name).preprocessing


def is_foreign(weights: str) -> bool:
    """Whether a weight file, or the file of an address, lies in torchvision's layout."""
    return Path(weights.partition("#sha256=")[0]).suffix in FOREIGN


def block_cut(name: str, blocks: int) -> str:
    """The cut below a backbone's top blocks; with 0 the one above all of them.

    Raises:
        UsageError: it has not so many blocks that something is left below.
    """
    ends = backbone(name).blocks
    if blocks >= len(ends):
        raise UsageError(
            f"blocks is {blocks}; {name} has {len(ends)}: allowed are 1 to {len(ends) - 1}, or "
            "strategy full."
        )
    return ends[-1 - blocks]


def features_cut(pool: str, features: Sequence[str]) -> str:
    """The name of the tensor that joins the pooled maps of several cuts."""
    return "-".join([pool, *features])


def _derived(name: str, alpha: float) -> Backbone:
    row = _applications()[name]
    files = {float(width): tuple(file) for width, file in row["weights"].items()}
    file, url, digest = files[alpha]
    return Backbone(
        builder=row["builder"],
        preprocessing=PREPROCESSING[row["preprocessing"]],
        blocks=tuple(row["blocks"]),
        parameters=row["parameters"],  # at alpha 1
        min_size=row["min_size"],
        licence="see keras.io/api/applications (weights); Apache 2.0 (Keras port)",
        citation=row["citation"],
        weights_url=url,
        weights_hash=digest,
        weights_file=file,
        alpha=alpha,
        files=files,
    )
