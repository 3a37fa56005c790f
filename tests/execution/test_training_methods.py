"""Methods of training in whole runs: blocks that thaw in turn, mixed photos, the range test."""

import csv
import json

import numpy as np
import pytest
from conftest import finetune_here
from PIL import Image

from finetune.commands.run import find_lr
from finetune.errors import UsageError
from finetune.execution import learning
from finetune.execution import trial as runs
from finetune.model.backbones import backbone, block_cut
from finetune.model.cut import depths
from finetune.model.network import build_network
from finetune.progress import Reporter
from finetune.recipe.reading import load

QUIET = Reporter(quiet=True)
SMALL = {"weights": "random", "image_size": 32, "batch_size": 8, "precision": "float32"}


def recipe(photos, **values):
    return load(None, {"data": str(photos), "epochs": 2, **SMALL, **values})


def predictions(out) -> list[dict]:
    with (out / "predictions.csv").open() as file:
        return list(csv.DictReader(file))


def test_layers_know_how_many_blocks_below_the_head_they_stand():
    cut = block_cut("vgg16", 2)
    network = build_network("vgg16", 32, 2, weights="random", pool="gap", cut=cut)
    found = depths(network.tail, backbone("vgg16").blocks)
    assert [found[name] for name in ("block4_conv1", "block4_pool", "block5_conv3")] == [2, 2, 1]
    assert (found["gap"], found["classifier"]) == (0, 0)


METHODS = {
    "backbone": "mini-resnet",
    "strategy": "top-blocks",
    "blocks": [1, 2],
    "layer_decay": 0.5,
    "warmup": 0.5,
    "anchor": 0.1,
    "label_smoothing": 0.1,
    "mixup": 0.2,
    "cutmix": 1.0,
    "average": "ema",
    "class_weight": "balanced",
    "learning_rate": 1e-3,
}


def test_blocks_thaw_in_turn_and_an_interrupted_run_goes_on_in_its_stage(
    photos, tmp_path, monkeypatch
):
    resolved = recipe(photos, **METHODS)
    runs.run_trial(resolved, tmp_path / "whole", QUIET)
    history = (tmp_path / "whole/history.csv").read_text()
    phases = [line.split(",")[0] for line in history.splitlines()[1:]]
    assert phases == ["tail-1"] * 3 + ["tail"] * 3
    fit = learning.fit
    asked = []

    def killed(*arguments):
        asked.append(arguments[4])
        if len(asked) == 2:
            raise KeyboardInterrupt
        return fit(*arguments)

    monkeypatch.setattr(learning, "fit", killed)
    with pytest.raises(KeyboardInterrupt):
        runs.run_trial(resolved, tmp_path / "run", QUIET)
    assert (tmp_path / "run/.tail-1.npz").exists()
    runs.run_trial(resolved, tmp_path / "run", QUIET)
    assert asked == ["tail-1", "tail", "tail-1", "tail"]
    assert predictions(tmp_path / "run") == predictions(tmp_path / "whole")
    assert not list((tmp_path / "run").glob(".*.npz"))


def test_what_is_frozen_in_a_stage_does_not_move_in_it(photos, tmp_path, monkeypatch):
    seen = []
    fit = learning.fit

    def watched(model, *arguments):
        names = [layer.name for layer in model.layers if layer.trainable_variables]
        before = {layer.name: layer.get_weights() for layer in model.layers}
        history = fit(model, *arguments)
        still = {
            layer.name
            for layer in model.layers
            if all(map(np.array_equal, layer.get_weights(), before[layer.name]))
        }
        assert not still & set(names) or history[0]["val_loss"] <= history[1]["val_loss"]
        assert set(before) - set(names) <= still
        seen.append(names)
        return history

    monkeypatch.setattr(learning, "fit", watched)
    runs.run_trial(recipe(photos, **METHODS, epochs=1), tmp_path / "run", QUIET)
    first, second = map(set, seen)
    assert first < second
    assert {name.split("_")[0] for name in second - first} == {"stage2"}


@pytest.mark.parametrize("mixup", [0.0, pytest.param(0.2, marks=pytest.mark.slow)])
def test_a_hidden_head_learns_its_pooled_features_without_cutmix(photos, tmp_path, mixup):
    values = {"backbone": "mini-resnet", "strategy": "top-blocks", "cutmix": 1.0, "mixup": mixup}
    resolved = recipe(photos, **values, head={"hidden": 8}, epochs=1)
    runs.run_trial(resolved, tmp_path / "run", QUIET)
    lines = (tmp_path / "run/history.csv").read_text().splitlines()[1:]
    assert {line.split(",")[0] for line in lines} == {"head", "tail"}


@pytest.mark.parametrize("hidden", [0, 8])
def test_a_head_whose_features_do_not_fit_into_memory_streams_them(
    photos, tmp_path, monkeypatch, hidden
):
    monkeypatch.setattr(learning, "fits_memory", lambda photos, features: False)
    monkeypatch.setattr(learning.Learner, "_features", lambda learner: pytest.fail("all at once"))
    head = {"solver": "keras", "hidden": hidden}
    values = {"backbone": "mini-resnet", "strategy": "frozen-base", "head": head}
    runs.run_trial(recipe(photos, **values), tmp_path / "run", QUIET)
    lines = (tmp_path / "run/history.csv").read_text().splitlines()[1:]
    assert {line.split(",")[0] for line in lines} == {"tail"}


def test_find_lr_suggests_a_rate_and_draws_it(photos, tmp_path):
    values = {"data": str(photos), "backbone": "mini-resnet", **SMALL}
    found = find_lr(values, out=tmp_path)
    assert 1e-8 <= found["suggested"] <= 1e-2
    assert found["rates"] == sorted(found["rates"])
    assert len(found["rates"]) == len(found["changes"]) <= 64
    with Image.open(tmp_path / "learning_rate.png") as plot:
        assert plot.size == (750, 480)
    with pytest.raises(UsageError, match="fits this head without a learning rate"):
        find_lr(values, strategy="cached-features", out=tmp_path)


def test_the_flag_of_find_lr_prints_its_result(photos, tmp_path):
    small = ("--data", photos, "--weights", "random", "--image-size", 32, "--backbone")
    done = finetune_here("run", *small, "mini-resnet", "--find-lr", "--out", tmp_path, "--json")
    assert done.returncode == 0, done.stderr
    assert set(json.loads(done.stdout)) == {"suggested", "rates", "changes", "seconds", "plot"}
