"""A run's network as IR: equal to Keras, without TensorFlow, verified, and in int8 its own trunk
with the tail.
"""

import importlib.util
import json
import subprocess
import sys

import numpy as np
import pytest

import finetune.runs.ir as irs
from finetune.activations.engine import compile_graph, resolve_precision
from finetune.errors import DataError, IntegrityError, UsageError
from finetune.files import sha256_of
from finetune.model.base import build_base
from finetune.model.cut import split
from finetune.model.heads import add_head
from finetune.model.quantize import quantized
from finetune.model.weights import load_weights
from finetune.recipe.recipe import Recipe
from finetune.runs.classifier import Classifier
from finetune.runs.folder import write_result
from finetune.runs.ir import has_ir, open_ir, write_int8, write_ir

PHOTOS = np.random.default_rng(1).integers(0, 256, (5, 32, 32, 3), np.uint8)


@pytest.fixture(scope="module")
def model():
    base = build_base("vgg16", 32)
    load_weights(base, "vgg16", "random")
    return add_head(base, 3, "gap")


def test_it_predicts_what_keras_predicts_without_importing_it(model, tmp_path):
    assert write_ir(model, tmp_path, PHOTOS) < 1e-4
    np.save(tmp_path / "photos.npy", PHOTOS)
    code = (
        "import json, sys; import numpy as np; from pathlib import Path\n"
        "from finetune.runs.ir import open_ir\n"
        f"run = Path({str(tmp_path)!r}); photos = np.load(run / 'photos.npy')\n"
        "rows = np.concatenate(list(open_ir(run, 'float32')([photos[:2], photos[2:]])))\n"
        "print(json.dumps([rows.tolist(), sorted({'keras', 'tensorflow'} & set(sys.modules))]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows, heavy = json.loads(done.stdout)
    assert heavy == []
    np.testing.assert_allclose(rows, model.predict(PHOTOS, verbose=0), atol=1e-4)


def test_damage_and_difference_are_refused(model, tmp_path, monkeypatch):
    write_ir(model, tmp_path, PHOTOS)
    (weights,) = tmp_path.glob("openvino/float32/*.bin")
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(IntegrityError, match="missing or damaged"):
        open_ir(tmp_path, "float32")
    with pytest.raises(UsageError, match="was not made in it"):
        open_ir(tmp_path, "int8")
    monkeypatch.setattr(irs, "_TOLERANCE", -1.0)
    with pytest.raises(IntegrityError, match="differs from Keras"):
        write_ir(model, tmp_path, PHOTOS)
    with pytest.raises(IntegrityError, match="describes no network"):
        open_ir(tmp_path, "float32")


@pytest.mark.skipif(not importlib.util.find_spec("nncf"), reason="extra int8 missing")
def test_int8_is_the_trunk_that_the_tail_was_trained_on(model, tmp_path, cache):
    cut = "block4_pool"
    whole = split(model, cut)
    made = quantized(
        cache, {"weights": "random"}, [cut], lambda cuts: whole.trunk, lambda: [PHOTOS]
    )
    (activations,) = compile_graph(made[cut].graph(), "int8")([PHOTOS])
    write_int8(made[cut].graph(), whole.tail, tmp_path, False)
    (found,) = open_ir(tmp_path, "int8")([PHOTOS])
    expected = whole.tail.predict(activations, verbose=0)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert np.abs(found - model.predict(PHOTOS, verbose=0)).max() > 1e-7


@pytest.mark.skipif(resolve_precision() != "bfloat16", reason="no native bfloat16 here")
def test_auto_is_the_native_precision(model, tmp_path):
    write_ir(model, tmp_path, PHOTOS)
    exact, native = (next(open_ir(tmp_path, name)([PHOTOS])) for name in ("float32", "auto"))
    assert 0 < np.abs(exact - native).max() < 0.02


def test_an_ir_counts_from_its_manifest_on_and_only_for_the_model_that_it_was_made_from(tmp_path):
    folder = tmp_path / "openvino" / "float32"
    folder.mkdir(parents=True)
    (folder / "0.xml").touch()
    assert not has_ir(tmp_path), "half-written"
    about = {"fields": {"model": "a"}, "cuts": [], "sha256": {"0.xml": "", "0.bin": ""}, "made": 0}
    manifest = folder / "manifest.json"
    manifest.write_text(json.dumps(about))
    write_result(tmp_path, {"files": {"model.keras": "a"}})
    assert has_ir(tmp_path), "made later, from this model"
    write_result(tmp_path, {"files": {"model.keras": "b"}})
    assert not has_ir(tmp_path), "made from another model"
    name = manifest.relative_to(tmp_path).as_posix()
    write_result(tmp_path, {"files": {"model.keras": "b", name: sha256_of(manifest)}})
    assert has_ir(tmp_path), "as the run recorded it"
    manifest.write_text(json.dumps(about | {"made": 1}))
    with pytest.raises(IntegrityError, match="another sha256"):
        has_ir(tmp_path)


def test_a_run_without_its_result_is_not_opened(tmp_path):
    for name in ("model.keras", "recipe.yaml", "classes.json"):
        (tmp_path / name).touch()
    with pytest.raises(DataError, match="no finished run"):
        Classifier.open(tmp_path)


def test_a_network_that_openvino_gets_wrong_is_left_to_keras(model, tmp_path, monkeypatch):
    model.save(tmp_path / "model.keras")
    (tmp_path / "openvino" / "float32").mkdir(parents=True)
    recipe = Recipe(data="photos", weights="random")
    classifier = Classifier(tmp_path, ("a", "b", "c"), 32, "squash", recipe, model)
    monkeypatch.setattr(irs, "_TOLERANCE", -1.0)
    assert not classifier.has_ir()
    monkeypatch.undo()
    assert classifier.has_ir(), "made now, beside what an interrupted one left"
