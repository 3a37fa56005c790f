"""The trunk engines compute what Keras computes, in order, whatever the batches look like."""

import subprocess
import sys

import keras
import numpy as np
import pytest
from conftest import NETWORKS

import finetune.activations.engine as engines
from finetune.activations.engine import (
    batch_size,
    compile_trunk,
    open_trunk,
    resolve_engine,
    resolve_precision,
)
from finetune.errors import UsageError
from finetune.model.backbones import BACKBONES
from finetune.model.base import build_base
from finetune.model.cut import split
from finetune.model.weights import load_weights

PHOTOS = np.random.default_rng(1).integers(0, 256, (2 * batch_size() + 3, 64, 64, 3), np.uint8)
native = pytest.mark.skipif(resolve_precision() != "bfloat16", reason="no native bfloat16 here")


def relative(found, expected) -> float:
    """Euclidean distance as a share of the expected length."""
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


@pytest.mark.parametrize("engine", ["openvino", "tensorflow"])
@pytest.mark.parametrize("name", NETWORKS)
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


@pytest.fixture(scope="module")
def vgg16():
    base = build_base("vgg16", 32)
    load_weights(base, "vgg16", "random")
    return base


def several(base, cuts):
    """A trunk with several outputs, or one."""
    outputs = [base.get_layer(cut).output for cut in cuts]
    return keras.Model(base.input, outputs if len(outputs) > 1 else outputs[0])


CUTS = ("block1_pool", "block4_pool", "block5_pool")  # OpenVINO would sort their tensors' names


@pytest.mark.parametrize("engine", ["openvino", "tensorflow"])
def test_several_cuts_come_out_of_one_pass_in_the_order_of_the_model(vgg16, engine):
    trunk, photos = several(vgg16, CUTS), PHOTOS[:11, :32, :32]
    first, last = compile_trunk(trunk, engine)([photos[:9], photos[9:]])
    expected = trunk.predict(photos, verbose=0)
    assert [len(rows) for rows in first] == [9, 9, 9]
    for number in range(3):
        found = np.concatenate([first[number], last[number]])
        assert relative(found, expected[number]) < 1e-5


@native
@pytest.mark.parametrize("engine", ["openvino", "tensorflow"])
def test_bfloat16_is_near_float32_and_not_equal(vgg16, engine):
    photos = PHOTOS[:, :32, :32]
    (found,) = compile_trunk(vgg16, engine, "bfloat16")([photos])
    assert found.dtype == np.float32
    assert 1e-4 < relative(found, vgg16.predict(photos, verbose=0)) < 0.05


def test_a_second_start_converts_and_builds_nothing(vgg16, cache):
    photos, built = PHOTOS[:, :32, :32], []

    def build(cuts):
        built.append(cuts)
        return several(vgg16, cuts)

    fields = {"backbone": "vgg16", "weights": "a digest", "image_size": 32}
    first = list(open_trunk(build, CUTS, fields, cache, "openvino")([photos]))
    second = list(open_trunk(build, CUTS, fields, cache, "openvino")([photos]))
    (one,) = open_trunk(build, CUTS[2:], fields, cache, "openvino")([photos])
    assert built == [CUTS], "one of the cuts comes from the network of all three"
    np.testing.assert_array_equal(first[0][2], one)
    np.testing.assert_array_equal(first[0][2], second[0][2])
    open_trunk(build, CUTS, {**fields, "weights": "another"}, cache, "openvino")
    (weights,) = list((cache / "openvino").glob("*/*.bin"))[:1]
    weights.write_bytes(b"damaged")
    for digest in ("a digest", "another"):
        (rows,) = open_trunk(build, CUTS, {**fields, "weights": digest}, cache, "openvino")(
            [photos]
        )
        np.testing.assert_array_equal(first[0][2], rows[2])
    assert len(built) == 3, "the damaged one is made anew, the other one is not"


def test_identity_and_unknown_engine():
    (batch,) = compile_trunk(None)([PHOTOS])
    assert batch is PHOTOS
    with pytest.raises(
        UsageError, match="engine is 'onnx'; allowed are auto, openvino, tensorflow"
    ):
        compile_trunk(keras.Sequential([keras.Input((2,))]), "onnx")


def test_precisions_that_cannot_be_had_say_what_to_do(monkeypatch):
    with pytest.raises(UsageError, match="'half'; allowed are auto, float32, bfloat16, int8"):
        resolve_precision("half")
    with pytest.raises(UsageError, match="OpenVINO only"):
        resolve_precision("int8", "tensorflow")
    monkeypatch.setattr(engines, "_has_bfloat16", lambda engine: False)
    assert resolve_precision("auto") == "float32"
    with pytest.raises(UsageError, match="Set precision to auto, float32 or int8"):
        resolve_precision("bfloat16")
    monkeypatch.setattr(engines, "_has_bfloat16", lambda engine: True)
    assert resolve_precision("auto") == resolve_precision("bfloat16") == "bfloat16"
    assert resolve_precision("float32") == "float32"


def test_auto_on_a_gpu_is_tensorflow_and_asks_the_gpu(monkeypatch):
    monkeypatch.setattr(engines, "has_gpu", lambda: True)
    assert (resolve_engine(), batch_size()) == ("tensorflow", 64)
    for able, precision in ((True, "bfloat16"), (False, "float32")):
        monkeypatch.setattr(engines, "gpu_has_bfloat16", lambda able=able: able)
        assert resolve_precision() == precision


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
