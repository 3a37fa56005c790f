"""Backbones beside the core, and the recipe's keys for them, through whole runs."""

import json

import keras
import pytest

from finetune.activations.listing import entries
from finetune.commands.predict import predict
from finetune.commands.run import run
from finetune.errors import DataError, IntegrityError
from finetune.execution import sharing
from finetune.recipe.reading import load

NAMES = ("first", "second")


def recipe(photos, **values):
    return {
        "data": str(photos),
        "weights": "random",
        "image_size": 32,
        "batch_size": 8,
        "epochs": 1,
        "precision": "float32",
    } | values


@pytest.mark.parametrize(
    "values",
    [
        pytest.param(
            {"backbone": "convnexttiny", "strategy": "cached-features"}, marks=pytest.mark.slow
        ),
        {"backbone": "mobilenet", "alpha": 0.25, "strategy": "top-blocks", "optimizer": "sgd"},
        pytest.param(
            {"backbone": "mini-cnn", "image_size": 28, "strategy": "full", "augment": "none"},
            marks=pytest.mark.slow,
        ),
    ],
    ids=lambda values: values["backbone"],
)
def test_a_run_with_any_backbone_predicts_what_it_measured(values, photos, tmp_path):
    result = run(recipe(photos, **values), out=tmp_path / "run")
    measured = {
        line.split(",")[0]: line.split(",")[2:]
        for line in (tmp_path / "run/predictions.csv").read_text().splitlines()
    }
    found = list(predict(tmp_path / "run", [photos / "test"], top=2, precision="float32"))
    assert len(found) == result.test["n"]
    assert all(abs(sum(p for _, p in row.top) - 1) < 1e-3 for row in found)
    assert len(measured) > len(found)
    assert load(tmp_path / "run/recipe.yaml", {}).backbone == values["backbone"]


@pytest.mark.slow
def test_what_happens_to_pixels_and_the_width_are_part_of_the_key(photos, tmp_path, cache):
    own = recipe(photos, backbone="mobilenet", strategy="cached-features")
    others = [own, own | {"preprocessing": "scale-only"}, own | {"alpha": 0.5}]
    computed = [run(values, out=tmp_path / str(i)).extracted for i, values in enumerate(others)]
    assert computed == [26, 26, 26]
    fields = [entry["fields"] for entry in entries(cache)]
    assert len({json.dumps(value["preprocessing"]) for value in fields}) == 2
    assert len({value["weights"] for value in fields}) == 2


def test_pixels_and_width_make_other_extractions():
    own = {"backbone": "mobilenet", "weights": "random", "strategy": "cached-features"}
    others = [own, own | {"preprocessing": "scale-only"}, own | {"alpha": 0.5}]
    assert sharing.extractions([load(None, values) for values in others]) == 3


def test_foreign_weights_put_their_preprocessing_into_the_key(tmp_path):
    own = load(None, {"backbone": "vgg16", "weights": "x.h5"})
    foreign = load(None, {"backbone": "vgg16", "weights": "x.safetensors"})
    assert sharing.entries(own) != sharing.entries(foreign)


def test_a_run_starts_from_the_backbone_of_an_earlier_one(photos, tmp_path):
    first = recipe(photos, backbone="mini-resnet", image_size=28, strategy="full", augment="none")
    first |= {"learning_rate": 0.01, "epochs": 2, "preprocessing": "scale-only"}
    run(first, out=tmp_path / "first")
    second = first | {"strategy": "cached-features", "epochs": 0}
    found = run(second | {"weights": str(tmp_path / "first")}, out=tmp_path / "second")
    assert found.weights["source"] == str(tmp_path / "first")
    trained, taken = (keras.saving.load_model(tmp_path / x / "model.keras") for x in NAMES)
    for layer in trained.layers[:-1]:
        pairs = zip(layer.get_weights(), taken.get_layer(layer.name).get_weights(), strict=True)
        assert all((a == b).all() for a, b in pairs), layer.name
    assert run(second, out=tmp_path / "other").weights["digest"] != found.weights["digest"]
    with pytest.raises(IntegrityError, match="set --backbone mini-resnet, or"):
        run(
            second | {"backbone": "resnet34", "weights": str(tmp_path / "first")},
            out=tmp_path / "x",
        )
    model = tmp_path / "first/model.keras"
    model.write_bytes(model.read_bytes() + b"x")
    with pytest.raises(IntegrityError, match="another sha256"):
        run(second | {"weights": str(tmp_path / "first")}, out=tmp_path / "y")
    with pytest.raises(DataError, match="no finished run"):
        run(second | {"weights": str(photos)}, out=tmp_path / "z")
