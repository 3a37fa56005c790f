"""Features of several cuts, and mirror images: what is saved, used and exported is what was
measured.
"""

import csv
import json

import keras
import numpy as np
import pytest
from conftest import finetune_here

from finetune.data.photos import decode
from finetune.execution import trial as runs
from finetune.progress import Reporter
from finetune.recipe.reading import load
from finetune.runs.classifier import Classifier

pytestmark = pytest.mark.usefixtures("no_worker")

QUIET = Reporter(quiet=True)
SIZE = 32


def trained(photos, out, **values):
    """A run on random weights."""
    values = {
        "data": str(photos),
        "weights": "random",
        "image_size": SIZE,
        "batch_size": 8,
        "epochs": 1,
        "precision": "float32",
        "strategy": "cached-features",
    } | values
    return runs.run_trial(load(None, values, []), out, QUIET, for_use=True)


def written(photos, out) -> tuple[np.ndarray, np.ndarray]:
    """The photos of predictions.csv as pixels, and its probabilities."""
    with (out / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    pixels = np.stack([decode((photos / row["file"]).read_bytes(), SIZE) for row in rows])
    return pixels, np.array([[float(row["apples"]), float(row["plums"])] for row in rows])


def case(name: str, is_slow: bool, **values):
    return pytest.param(values, id=name, marks=[pytest.mark.slow] if is_slow else [])


@pytest.mark.parametrize(
    "values",
    [
        case("two-cuts", True, features=["block4_pool", "block5_pool"]),
        case("lower-cut", True, features=["block2_pool"], head="gmp", store="float32"),
        case("top-blocks", True, features=["block4_pool", "block5_pool"], strategy="top-blocks"),
        case("mirrored-full", True, strategy="full", tta="flip"),
        case("both", False, features=["block3_pool", "block4_pool"], tta="flip"),
    ],
)
def test_saved_model_gives_what_was_measured(values, photos, tmp_path):
    out = tmp_path / "run"
    result = trained(photos, out, **values)
    assert result.audit["moved"] == 0 < result.audit["frozen"]
    assert (out / "explanations.png").exists()
    pixels, expected = written(photos, out)
    model = keras.saving.load_model(out / "model.keras")
    np.testing.assert_allclose(model.predict(pixels, verbose=0), expected, atol=2e-3)
    (found,) = Classifier.open(out).predict([pixels])
    np.testing.assert_allclose(found, expected, atol=2e-3)
    names = {layer.name for layer in model.layers}
    assert ("block5_conv1" in names) == ("block5_pool" in values.get("features", ["block5_pool"]))
    if "tta" in values:
        np.testing.assert_allclose(model(pixels[:, :, ::-1]), model(pixels), atol=1e-6)


@pytest.mark.slow
def test_joined_features_are_vectors_of_one_pass(photos, tmp_path):
    joined = trained(photos, tmp_path / "joined", features=["block4_pool", "block5_pool"])
    (entry,) = joined.entries.values()
    assert joined.cut == entry["cut"] == "gap-block4_pool-block5_pool"
    assert entry["bytes"] == 26 * 1024 * 2
    assert list(joined.head["factors"]) == ["block4_pool", "block5_pool"]


@pytest.mark.slow
def test_mirrored_run_is_explained_exported_and_refused_by_ensembles(photos, tmp_path):
    out = tmp_path / "run"
    plain = trained(photos, tmp_path / "plain")
    result = trained(photos, out, tta="flip")
    assert result.cost["multiply_adds"] == 2 * plain.cost["multiply_adds"]
    assert result.extracted == 14, "the mirror images of validation and test photos"
    photo = photos / "test" / "plums" / "0.png"
    explained = finetune_here("explain", out, photo, "--out", tmp_path / "explained", "--json")
    assert explained.returncode == 0, explained.stderr
    assert list(json.loads(explained.stdout)["photos"][0]["layers"]) == ["block5_pool"]
    exported = finetune_here("export", out, "--format", "openvino", "--json")
    assert exported.returncode == 0, exported.stderr
    refused = finetune_here("ensemble", out, tmp_path / "plain", "--out", tmp_path / "both")
    assert refused.returncode == 2
    assert "tta" in refused.stderr


def test_comparison_computes_both_kinds_of_features_in_one_pass(photos, tmp_path):
    file = tmp_path / "features.yaml"
    file.write_text(
        f"data: {photos}\nweights: random\nimage_size: {SIZE}\nstrategy: cached-features\n"
        "matrix: {features: [[], [block4_pool, block5_pool]]}\n"
    )
    done = finetune_here("compare", file, "--out", tmp_path / "out", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["extractions"] == 1
    assert [cell["extracted"] for cell in found["cells"]] == [26, 0]


@pytest.mark.slow  # NNCF
def test_int8_network_is_mirrored_too(photos, tmp_path):
    pytest.importorskip("nncf")
    out = tmp_path / "run"
    values = {"features": ["block4_pool", "block5_pool"], "tta": "flip", "precision": "int8"}
    trained(photos, out, **values)
    pixels, expected = written(photos, out)
    (found,) = Classifier.open(out).predict([pixels], "int8")
    np.testing.assert_allclose(found, expected, atol=2e-3)
