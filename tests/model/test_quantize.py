"""int8 trunks: near float32, made once, found again by fields and cut, and silent on the
network.
"""

import functools
import importlib.util
import json
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import keras
import numpy as np
import pytest

from finetune.activations.engine import compile_graph, resolve_precision
from finetune.errors import UsageError
from finetune.model import quantize as quantizing
from finetune.model.base import build_base
from finetune.model.ir import artefacts, intact, leftovers
from finetune.model.quantize import find_quantized, quantized
from finetune.model.weights import load_weights

PHOTOS = np.random.default_rng(1).integers(0, 256, (20, 32, 32, 3), np.uint8)
FIELDS = {"backbone": "vgg16", "weights": "random", "image_size": 32, "preprocessing": (1, 2)}
needs_nncf = pytest.mark.skipif(not importlib.util.find_spec("nncf"), reason="extra int8 missing")


@pytest.fixture(scope="module")
def base():
    base = build_base("vgg16", 32)
    load_weights(base, "vgg16", "random")
    return base


def builder(base, built):
    def build(cuts):
        built.append(list(cuts))
        outputs = [base.get_layer(cut).output for cut in cuts]
        return keras.Model(base.input, outputs if len(outputs) > 1 else outputs[0])

    return build


@needs_nncf
def test_a_trunk_is_quantized_once_and_its_digest_stays(base, cache):
    built, asked = [], []

    def photos():
        asked.append(1)
        return [PHOTOS[:15], PHOTOS[15:]]

    build = builder(base, built)
    assert find_quantized(cache, FIELDS, "block5_pool") is None
    first = quantized(cache, FIELDS, ["block4_pool", "block5_pool"], build, photos)
    again = quantized(cache, FIELDS, ["block5_pool"], build, lambda: pytest.fail("photos read"))
    assert again["block5_pool"] == first["block4_pool"] == first["block5_pool"]
    third = quantized(cache, FIELDS, ["block5_pool", "block3_pool"], build, photos)
    assert third["block5_pool"] == first["block5_pool"] != third["block3_pool"]
    assert built == [["block4_pool", "block5_pool"], ["block3_pool"]]
    assert len(asked) == 2
    assert third["block3_pool"].digest != first["block5_pool"].digest

    expected = base.predict(PHOTOS, verbose=0)
    (found,) = compile_graph(first["block5_pool"].graph(["block5_pool"]), "int8")([PHOTOS])
    error = np.linalg.norm(found - expected) / np.linalg.norm(expected)
    assert 1e-3 < error < 0.2
    four, five = next(compile_graph(first["block5_pool"].graph(), "int8")([PHOTOS]))
    assert (four.shape[1:], five.shape[1:]) == ((2, 2, 512), (1, 1, 512))


def test_of_two_that_want_the_same_trunk_one_makes_it_and_the_other_waits(cache, monkeypatch):
    kept, waited = {}, []
    begin = threading.Barrier(2)

    def keep(folder, graph, key, cuts):
        kept.update(dict.fromkeys(cuts, graph))
        return graph

    def slow(graph, photos):
        time.sleep(0.5)
        return object()

    changes = {"check_extra": begin.wait, "convert": lambda model: model, "quantize": slow}
    changes |= {"keep": keep, "find_quantized": lambda cache, fields, cut: kept.get(cut)}
    for name, change in changes.items():
        monkeypatch.setattr(quantizing, name, change)

    def make(_):
        wait = functools.partial(waited.append, 1)
        return quantized(cache, FIELDS, ["block2_pool"], list, list, wait)["block2_pool"]

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(make, range(2))
    assert first is second
    assert waited == [1]


@needs_nncf
def test_the_cache_lists_verifies_and_sets_aside(base, cache):
    build = builder(base, [])
    made = quantized(cache, FIELDS, ["block2_pool"], build, lambda: [PHOTOS])["block2_pool"]
    assert [found.folder for found in artefacts(cache)] == [made.folder]
    assert (made.fields["precision"], made.cuts) == ("int8", ("block2_pool",))
    assert made.size > 0
    assert intact(made)
    assert leftovers(cache) == []
    (made.folder / next(iter(made.sha256))).write_bytes(b"other")
    assert not intact(made)
    assert find_quantized(cache, FIELDS, "block2_pool") is None
    assert artefacts(cache) == []
    assert len(leftovers(cache)) == 3


def test_the_message_about_the_missing_extra_names_it(monkeypatch, base, cache):
    find_spec = importlib.util.find_spec
    hidden = lambda name: None if name == "nncf" else find_spec(name)  # noqa: E731
    monkeypatch.setattr(quantizing.importlib.util, "find_spec", hidden)
    for call in (
        lambda: resolve_precision("int8", "openvino"),
        lambda: quantized(cache, FIELDS, ["block2_pool"], builder(base, []), lambda: [PHOTOS]),
    ):
        with pytest.raises(UsageError, match=r'pip install "finetune-cut\[int8\]"') as raised:
            call()
        assert raised.value.exit_code == 2


@needs_nncf
def test_quantizing_opens_no_socket_starts_no_process_and_prints_nothing():
    code = """
import json, multiprocessing, socket, sys
from finetune.backend import load_keras
load_keras()
import keras, numpy as np
def refuse(*_, **__): raise SystemExit('a socket or a process was opened')
socket.socket.connect = socket.create_connection = multiprocessing.Process.start = refuse
from finetune.model.ir import convert
from finetune.model.quantize import quantize
x = keras.Input((8, 8, 3), dtype="uint8")
y = keras.layers.Conv2D(4, 3)(keras.layers.Rescaling(1.0)(x))
graph = quantize(convert(keras.Model(x, y)), [np.zeros((3, 8, 8, 3), np.uint8)])
import nncf.telemetry.wrapper as wrapper
print(json.dumps([type(wrapper.telemetry).__name__, str(sys.modules["openvino_telemetry"]),
    "FakeQuantize" in {op.get_type_name() for op in graph.get_ops()}]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    name, masked, has_scales = json.loads(done.stdout)  # and nothing else is on stdout
    assert (name, masked, has_scales) == ("MagicMock", "None", True)
