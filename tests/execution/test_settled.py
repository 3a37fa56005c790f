"""What a recipe leaves open is settled before anything is computed."""

import pytest

from finetune.activations.engine import resolve_precision
from finetune.data.catalog import resolve
from finetune.errors import DataError
from finetune.execution.sharing import head_needs, in_order, settled, starts_head
from finetune.recipe.matrix import Trial
from finetune.recipe.reading import load


@pytest.mark.parametrize(
    ("changes", "starts"),
    [
        ({}, False),
        ({"batchnorm": "frozen"}, True),
        ({"strategy": "top-blocks"}, True),
        ({"backbone": "mobilenet", "weights": "imagenet"}, True),
    ],
)
def test_a_head_is_converged_first_unless_all_of_it_is_trained_from_scratch(changes, starts):
    scratch = {"backbone": "mini-resnet", "weights": "random", "strategy": "full"}
    recipe = load(None, {**scratch, "batchnorm": "train", "image_size": 32, **changes})
    assert starts_head(recipe) == starts
    assert bool(head_needs(recipe)) == starts


def test_photos_of_a_user_who_is_not_there_are_missing():
    place = "~nosuchuser/photos"
    recipe = load(None, {"data": place, "weights": place})
    assert settled(recipe).data.endswith(place)
    with pytest.raises(DataError, match="neither a folder nor the name of a data set"):
        resolve(settled(recipe).data)
    with pytest.raises(DataError, match="neither a folder nor the name of a data set"):
        resolve(place)


def test_a_calibration_is_of_one_precision(monkeypatch):
    from finetune.execution import plan

    monkeypatch.setattr(plan, "_timed", lambda cache, source, target: cache)
    calibration = plan.Calibration()
    for precision in ("float32", "bfloat16", "float32"):
        recipe = load(None, {"precision": precision})
        assert calibration.of(recipe, precision, "photo", "block5_pool") == precision


def test_a_trial_from_scratch_has_no_pass_and_keeps_its_place():
    values = [
        {"backbone": "mini-resnet", "weights": "random", "strategy": "full", "batchnorm": "train"},
        {"backbone": "vgg16"},
        {"backbone": "mini-cnn", "weights": "random", "strategy": "cached-features"},
        {"backbone": "vgg16", "seed": 1},
    ]
    trials = [
        Trial(str(place), str(place), settled(load(None, each)), {})
        for place, each in enumerate(values)
    ]
    assert [trial.name for trial in in_order(trials)] == ["0", "1", "3", "2"]


def test_an_address_of_weights_stays_as_it_is_however_long():
    address = f"https://host/w.h5?key={'k' * 300}#sha256={'0' * 64}"
    assert settled(load(None, {"weights": address})).weights == address


@pytest.mark.parametrize("weights", ["imagenet", "random"])
def test_a_folder_that_is_called_as_weights_are_is_not_taken_for_them(
    weights, tmp_path, monkeypatch
):
    (tmp_path / weights).mkdir()
    monkeypatch.chdir(tmp_path)
    assert settled(load(None, {"weights": weights})).weights == weights


@pytest.mark.parametrize(
    ("values", "precision"),
    [
        ({"backbone": "mobilenet"}, "float32"),
        ({"backbone": "vgg16", "precision": "float32"}, "float32"),
        ({"backbone": "vgg16"}, resolve_precision("auto", "auto")),
    ],
)
def test_auto_is_float32_where_a_backbone_needs_it(values, precision):
    assert settled(load(None, values)).precision == precision
