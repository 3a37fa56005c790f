"""Precision from the option to the key, and what trials share: one pass, one trunk, one network."""

import json
import subprocess
import sys

import keras
import numpy as np
import pytest
from conftest import finetune_here, paint

from finetune.activations import cache as activation_cache
from finetune.activations import engine
from finetune.commands.cache import ls
from finetune.commands.compare import compare, plan_compare
from finetune.commands.predict import predict
from finetune.commands.run import plan_run, run
from finetune.errors import UsageError
from finetune.model import quantize
from finetune.model.saved import load_model, with_classifier
from finetune.runs.classifier import Classifier

pytestmark = pytest.mark.usefixtures("no_worker")

SMALL = {"weights": "random", "image_size": 32, "batch_size": 8, "epochs": 1}
HEAVY = """
import runpy, sys
sys.argv = ["finetune", *{arguments!r}]
try:
    runpy.run_module("finetune", run_name="__main__")
except SystemExit as end:
    print(end.code, sorted({{"keras", "tensorflow"}} & set(sys.modules)), file=sys.stderr)
"""


def small(photos, **changes):
    return {"data": str(photos), "strategy": "cached-features", **SMALL, **changes}


def test_a_run_says_its_precision_and_predicts_without_tensorflow(photos, tmp_path):
    settings = [f"{name}={value}" for name, value in SMALL.items() if name not in ("weights",)]
    given = [part for setting in settings for part in ("--set", setting)]
    done = finetune_here(
        *("run", "--data", photos, "--weights", "random", "--strategy", "cached-features"),
        *(*given, "--out", tmp_path / "run", "--json"),
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["precision"] == engine.resolve_precision("auto", "openvino")
    assert {"extract", "train", "total", "command"} == set(result["seconds"])
    assert result["seconds"]["command"] > result["seconds"]["total"]
    if result["precision"] != "float32":
        assert set(result["fidelity"]) == {"n", "max", "mean", "changed"}
        card = (tmp_path / "run" / "README.md").read_text()
        assert f"computed in {result['precision']}" in card
    photo = next((photos / "test").rglob("*.png"))
    arguments = ["predict", str(tmp_path / "run"), str(photo), "--json"]
    code = HEAVY.format(arguments=arguments)
    asked = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert asked.stderr.strip().splitlines()[-1] in ("0 []", "None []"), asked.stderr
    (row,) = json.loads(asked.stdout)["predictions"]
    model = Classifier.open(tmp_path / "run").model
    pixels = keras.utils.img_to_array(keras.utils.load_img(photo))
    assert row["class"] in ("apples", "plums")
    assert model.inputs[0].shape[1] == 32 <= pixels.shape[1]


def test_what_is_asked_for_and_not_there_is_one_paragraph(photos, monkeypatch):
    monkeypatch.setattr(engine, "_has_bfloat16", lambda name: False)
    monkeypatch.setattr(quantize.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match="not compute natively"):
        plan_run(small(photos, engine="tensorflow", precision="bfloat16"))
    with pytest.raises(UsageError, match="NNCF") as caught:
        quantize.check_extra()
    assert caught.value.exit_code == 2
    with pytest.raises(UsageError, match="precision is 'half'"):
        plan_run(small(photos, precision="half"))


def recipes(folder, photos):
    folder.mkdir()
    common = "\n".join(f"{name}: {value}" for name, value in SMALL.items())
    for name, text in {
        "features": "strategy: cached-features\nmatrix: {head: [gap, gmp]}",
        "features-views": "strategy: cached-features\naugment: light\nviews: 1",
        "blocks": "strategy: top-blocks",
        "blocks-views": "strategy: top-blocks\naugment: light\nviews: 1",
        "base": "strategy: frozen-base",
    }.items():
        (folder / f"{name}.yaml").write_text(f"data: {photos}\n{common}\n{text}\n")
    return folder


@pytest.mark.slow  # half a minute
def test_recipes_of_several_cuts_share_one_pass_of_photos_and_one_of_views(photos, tmp_path):
    """As the README's matrix: two passes, whatever the cuts; the plan says the same."""
    folder = recipes(tmp_path / "recipes", photos)
    plan = plan_compare(folder)
    result = compare(folder, out=tmp_path / "out")
    assert {cell["status"] for cell in result["cells"]} == {"done"}
    assert result["extractions"] == plan["extractions"] == 2
    assert sum(cell["extracted"] for cell in result["cells"]) == 26 + 12
    kept = [entry["fields"]["precision"] for entry in ls()["entries"]]
    reduced = [precision for precision in kept if precision != "float32"]  # the rest: audits
    assert len(reduced or kept) == 4, "two cuts of photos and of views"
    alone = run(small(photos, head="gmp"), out=tmp_path / "alone")
    assert alone.extracted == 0
    (cell,) = [cell for cell in result["cells"] if cell["name"] == "features-gmp"]
    assert alone.test == cell["test"]


@pytest.mark.slow  # half a minute
def test_rows_do_not_depend_on_what_is_stored_beside_them(photos, tmp_path, monkeypatch):
    folder = recipes(tmp_path / "recipes", photos)
    shared = compare(folder / "features.yaml", folder / "blocks.yaml", out=tmp_path / "shared")
    monkeypatch.setenv("FINETUNE_CACHE", str(tmp_path / "another"))
    single = compare(folder / "features.yaml", out=tmp_path / "single")
    tests = {cell["name"]: cell["test"] for cell in shared["cells"]}
    assert [cell["test"] for cell in single["cells"]] == [
        tests[cell["name"]] for cell in single["cells"]
    ]


def test_a_higher_cut_is_computed_from_exact_rows_of_a_lower_one(photos, tmp_path, monkeypatch):
    exact = {"store": "float32", "precision": "float32"}
    run(small(photos, strategy="top-blocks", **exact), out=tmp_path / "lower")
    calls = []
    read = activation_cache.read_photos
    monkeypatch.setattr(
        activation_cache, "read_photos", lambda *given: calls.append(given) or read(*given)
    )
    above = run(small(photos, **exact), out=tmp_path / "higher")
    assert (above.extracted, calls) == (26, [])
    monkeypatch.undo()
    monkeypatch.setenv("FINETUNE_CACHE", str(tmp_path / "another"))
    direct = run(small(photos, **exact), out=tmp_path / "direct")
    assert above.test["loss"] == pytest.approx(direct.test["loss"], abs=1e-5)


def test_an_int8_trunk_is_made_once_and_more_photos_invalidate_nothing(photos, tmp_path):
    pytest.importorskip("nncf")
    first = run(small(photos, precision="int8"), out=tmp_path / "a")
    assert (first.precision, first.fidelity["n"]) == ("int8", 7)
    (digest,) = [
        item["digest"] for item in ls()["networks"] if item["fields"]["precision"] == "int8"
    ]
    assert f"int8 {digest}" in {entry["fields"]["precision"] for entry in ls()["entries"]}
    paint(photos / "train" / "apples" / "new.png", (200, 60, 50), 99)
    planned = plan_run(small(photos, precision="int8"))
    assert (planned["precision"], planned["to_extract"]) == ("int8", 1)
    assert run(small(photos, precision="int8"), out=tmp_path / "b").extracted == 1
    asked = photos / "test"
    assert len([*predict(tmp_path / "a", asked, precision="int8")]) == 7


@pytest.mark.slow
def test_a_trial_of_a_comparison_is_made_ready_by_its_first_prediction(photos, tmp_path):
    folder = recipes(tmp_path / "recipes", photos)
    compare(folder / "features.yaml", out=tmp_path / "out")
    cell = tmp_path / "out" / "cells" / "features-gap"
    assert not (cell / "openvino").exists()
    first = [*predict(cell, photos / "test")]
    assert (cell / "openvino" / "float32" / "manifest.json").exists()
    assert [*predict(cell, photos / "test")] == first


def test_a_saved_model_takes_another_classifier(tmp_path):
    photo = keras.Input((8, 8, 3), dtype="uint8")
    x = keras.layers.Conv2D(4, 3)(keras.layers.Rescaling(1 / 255)(photo))
    x = keras.layers.GlobalAveragePooling2D()(x)
    model = keras.Model(photo, keras.layers.Dense(2, activation="softmax", name="classifier")(x))
    model.save(tmp_path / "old.keras")
    values = [np.float32([[1, 2], [3, 4], [5, 6], [7, 8]]), np.float32([9, 10])]
    model.get_layer("classifier").set_weights(values)
    patched = with_classifier((tmp_path / "old.keras").read_bytes(), *values)
    (tmp_path / "new.keras").write_bytes(patched)
    loaded = load_model(tmp_path / "new.keras")
    for own, other in zip(model.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_array_equal(own, other)
