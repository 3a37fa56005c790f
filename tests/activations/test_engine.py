"""The trunk engines compute what Keras computes, in order, whatever the batches look like."""

import subprocess
import sys

import keras
import numpy as np
import pytest

from finetune.activations.engine import BATCH, compile_trunk
from finetune.errors import UsageError
from finetune.model.backbones import BACKBONES, build_base
from finetune.model.cut import split
from finetune.model.weights import load_weights

PHOTOS = np.random.default_rng(1).integers(0, 256, (2 * BATCH + 3, 64, 64, 3), dtype=np.uint8)


@pytest.mark.parametrize("engine", ["openvino", "tensorflow"])
@pytest.mark.parametrize("name", BACKBONES)
def test_engine_equals_keras(name, engine):
    base = build_base(name, 64)
    load_weights(base, name, "random")
    trunk = split(base, BACKBONES[name].blocks[-2]).trunk
    expected = trunk.predict(PHOTOS, verbose=0)
    run = compile_trunk(trunk, engine)
    parts = list(run([PHOTOS[:3], PHOTOS[3:14], PHOTOS[14:]]))
    assert [len(part) for part in parts] == [3, 11, len(PHOTOS) - 14], (
        "batches come back as they went in"
    )
    scale = np.abs(expected).max()
    np.testing.assert_allclose(np.concatenate(parts) / scale, expected / scale, atol=1e-5)
    assert expected.std() / scale > 1e-3


def test_engine_equals_keras_with_imagenet_weights(vgg16_file):
    base = build_base("vgg16", 96)
    load_weights(base, "vgg16", str(vgg16_file))
    photos = np.random.default_rng(2).integers(0, 256, (5, 96, 96, 3), dtype=np.uint8)
    expected = base.predict(photos, verbose=0)
    (found,) = compile_trunk(base, "openvino")([photos])
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("engine", ["openvino", "tensorflow"])
def test_a_row_does_not_depend_on_its_neighbours(engine):
    base = build_base("densenet121", 64)
    load_weights(base, "densenet121", "random")
    run = compile_trunk(split(base, "pool2_pool").trunk, engine)
    together = np.concatenate(list(run([PHOTOS])))
    alone = np.concatenate(list(run([photo[None] for photo in PHOTOS])))
    np.testing.assert_array_equal(together, alone)


def test_identity_and_unknown_engine():
    (batch,) = compile_trunk(None)([PHOTOS])
    assert batch is PHOTOS
    with pytest.raises(
        UsageError, match="engine is 'onnx'; allowed are auto, openvino, tensorflow"
    ):
        compile_trunk(keras.Sequential([keras.Input((2,))]), "onnx")


def test_openvino_reports_to_nobody():
    """Its telemetry forks the process at import and at every conversion, and sends what it saw."""
    code = (
        "import socket, sys\n"
        "from finetune.backend import load_keras, load_openvino\n"
        "load_keras()\n"
        "from finetune.activations.engine import compile_trunk\n"
        "import keras, numpy as np, multiprocessing\n"
        "def refuse(*_, **__): raise SystemExit('a process was forked')\n"
        "multiprocessing.Process.start = refuse\n"
        "x = keras.Input((8, 8, 3)); model = keras.Model(x, keras.layers.Conv2D(2, 3)(x))\n"
        "list(compile_trunk(model, 'openvino')([np.zeros((2, 8, 8, 3), np.float32)]))\n"
        "import openvino.tools.ovc.telemetry_utils as used\n"
        "print(used.tm.__name__, sys.modules['openvino_telemetry'])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.split() == ["openvino.tools.ovc.telemetry_stub", "None"], done.stderr
