"""What can be found out about any functional model of ``keras.applications``: its blocks,
preprocessing and weights.

After an update of Keras, ``python -m finetune.model.applications`` writes ``applications.json``
anew.
"""

import inspect
import json
import math
import re
from pathlib import Path
from typing import Any
from unittest import mock

import keras
import numpy as np
from keras.src.utils.naming import reset_uids

from finetune.model.backbones import OURS
from finetune.model.cut import single_tensors, sources
from finetune.model.preprocessing import PREPROCESSING

_SIZE = 224  # at which the graphs are looked at
_ALPHAS = (0.25, 0.35, 0.5, 0.75, 1.0, 1.3, 1.4)  # width multipliers that any MobileNet comes with
# Of a file for which Keras pins no hash, where we have had it from Keras's own server.
_OUR_HASHES = {
    "mobilenet_2_5_224_tf_no_top.h5": "dbdb03ee2a22fd895301636cd328b234"
    "bb3a9952358f436d82f46b81e0d5b0bf"
}


def functions() -> dict[str, str]:
    """Every network of ``keras.applications``: its name in lower case -> its function's name."""
    names = [name for name, value in vars(keras.applications).items() if inspect.isfunction(value)]
    return {name.lower(): name for name in sorted(names)}


def find_blocks(base: keras.Model) -> tuple[str, ...]:
    """The cut that closes each block of a network, from the photo upwards.

    A block is what lies at one resolution. It ends at its last single tensor that is no more than
    twice as wide as its last join (or its start): wider ones are the inside of the next block's
    first unit, as in MobileNetV2. What follows without weights, as pooling, belongs to the block
    that it shrinks. Every block has something to train.
    """
    singles = single_tensors(base)
    levels: dict[int, list[str]] = {}
    first = base.operations[0].name
    for name, tensor in singles.items():
        if tensor.ndim == 4 and name not in (first, *OURS) and not _pads(base, name):
            level = round(math.log2(base.inputs[0].shape[1] / tensor.shape[1]))
            levels.setdefault(level, []).append(name)
    ends = [_extended(base, list(singles), _end(base, names)) for names in levels.values()]
    ends[-1] = list(singles)[-1]
    order = [layer.name for layer in base.operations]
    blocks: list[str] = []
    start = 0
    for end in ends:
        stop = order.index(end) + 1
        if any(_trains(base, name) for name in order[start:stop]):
            blocks.append(end)
            start = stop
    if blocks[-1] != ends[-1]:
        blocks[-1] = ends[-1]
    return tuple(blocks)


def _operation(base: keras.Model, name: str) -> keras.Operation:
    return next(operation for operation in base.operations if operation.name == name)


def _pads(base: keras.Model, name: str) -> bool:
    return isinstance(_operation(base, name), keras.layers.ZeroPadding2D)


def _trains(base: keras.Model, name: str) -> bool:
    return name not in OURS and bool(getattr(_operation(base, name), "trainable_weights", ()))


def _end(base: keras.Model, names: list[str]) -> str:
    """The last tensor of one resolution that is not widened for what comes next."""
    joins = [i for i, name in enumerate(names) if len(sources(_operation(base, name))) > 1]
    names = names[joins[-1] if joins else 0 :]
    width = {name: _operation(base, name).output.shape[-1] for name in names}
    return [name for name in names if width[name] <= 2 * width[names[0]]][-1]


def _extended(base: keras.Model, singles: list[str], end: str) -> str:
    """The end moved up over the layers without weights that follow it."""
    order = [operation.name for operation in base.operations]
    for name in singles[singles.index(end) + 1 :]:
        between = [
            _operation(base, step) for step in order[order.index(end) + 1 : order.index(name) + 1]
        ]
        if any(getattr(step, "weights", ()) for step in between):
            break
        if not _pads(base, name):
            end = name
    return end


def find_preprocessing(builder: str) -> str:
    """The key of ``PREPROCESSING`` that computes what the module of a function computes."""
    module = getattr(keras.applications, _module(builder))
    pixels = np.random.default_rng(0).uniform(0, 255, (1, 4, 4, 3)).astype(np.float32)
    theirs = np.asarray(module.preprocess_input(pixels.copy()))
    for name, ours in PREPROCESSING.items():
        if np.allclose(
            (pixels[..., ours.order] / ours.scale - ours.mean) / ours.std, theirs, atol=1e-4
        ):
            return name
    raise ValueError(f"the preprocessing of {builder} is none of {', '.join(PREPROCESSING)}")


def _module(builder: str) -> str:
    return getattr(keras.applications, builder).__module__.rsplit(".", 1)[1]


class _Asked(Exception):
    """Carries what Keras was about to download."""


def find_weights(builder: str, **width: float) -> tuple[str, str, str]:
    """File, address and hash of a function's ImageNet weights, as Keras asks for them; nothing is
    downloaded.
    """

    def get_file(name: str, url: str, cache_subdir: str, file_hash: str = "") -> None:
        raise _Asked(name, url, file_hash or _OUR_HASHES.get(name, ""))

    with mock.patch("keras.src.utils.file_utils.get_file", get_file):
        try:
            getattr(keras.applications, builder)(include_top=False, weights="imagenet", **width)
        except _Asked as asked:
            return asked.args
    raise ValueError(f"{builder} asks for no weights")


def _all_weights(builder: str) -> dict[str, tuple[str, str, str]]:
    if "alpha" not in inspect.signature(getattr(keras.applications, builder)).parameters:
        return {"1.0": find_weights(builder)}
    found = {}
    for alpha in _ALPHAS:
        try:
            found[str(alpha)] = find_weights(builder, alpha=alpha)
        except (KeyError, ValueError):  # not a width that this one comes with
            continue
    return found


def _min_size(builder: str) -> int:
    try:
        getattr(keras.applications, builder)(include_top=False, weights=None, input_shape=(1, 1, 3))
    except ValueError as error:
        return int(str(error).split("at least ")[1].split("x")[0])
    raise ValueError(f"{builder} takes photos of any size")


def derive(builder: str) -> dict[str, Any]:
    """A row of ``applications.json``."""
    function = getattr(keras.applications, builder)
    paper = re.search(r"arxiv\.org/(?:abs|pdf)/([\d.]+\d)", inspect.getdoc(function) or "")
    reset_uids()  # layers without a name are numbered
    pixels = keras.Input((_SIZE, _SIZE, 3))
    base = function(include_top=False, weights=None, input_tensor=pixels)
    return {
        "builder": builder,
        "preprocessing": find_preprocessing(builder),
        "blocks": find_blocks(base),
        "parameters": base.count_params(),
        "min_size": _min_size(builder),
        "citation": f"arXiv:{paper[1]}" if paper else f"keras.io/api/applications: {builder}",
        "weights": _all_weights(builder),
    }


def main() -> None:
    """Write the table."""
    rows = {}
    for name, builder in functions().items():
        rows[name] = derive(builder)
        print(name, *rows[name]["blocks"], flush=True)
    text = ",\n".join(f" {json.dumps(name)}: {json.dumps(row)}" for name, row in rows.items())
    Path(__file__).with_name("applications.json").write_text(
        "{\n" + text + "\n}\n", encoding="utf-8"
    )


if __name__ == "__main__":
    main()
