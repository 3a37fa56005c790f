"""Advice on a few photos with small networks: the contract's keys, and what they are made of."""

import json
import shutil

import keras
import numpy as np
import pytest
from conftest import finetune_here

from finetune.activations.rows import _open
from finetune.commands.advise import advise
from finetune.errors import DataError
from finetune.execution.advising import _drawn

SMALL = ("--weights", "random", "--image-size", "32", "--precision", "float32")


def test_the_command_keeps_the_contract(photos, tmp_path):
    shutil.copytree(photos, tmp_path / "own")
    out = tmp_path / "advice"
    out.mkdir()
    (out / ".advise.json.x1.tmp").write_text("of a writer that was killed")
    done = finetune_here(
        "advise", tmp_path / "own", "--backbone", "mobilenet", *SMALL, "--out", out, "--json"
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found == json.loads((out / "advise.json").read_text())
    assert not list(out.glob("*.tmp"))
    assert {"strategy", "why"} <= set(found["recommendation"])
    assert len({row["cut"] for row in found["scores"]}) == 2
    assert found["learning_curve"][-1]["extrapolated"]
    assert isinstance(found["suspects"], list)
    assert found["similarity"]["value"] == 0, "random weights are the zero point"
    assert found["photos"] == 19, "no test photo is looked at"
    assert "default-src &#39;none&#39;" in (out / "advise.html").read_text()


@pytest.fixture
def mobilenet_file(tmp_path):
    """Weights that are compared with random ones: another draw."""
    base = keras.applications.MobileNet((32, 32, 3), 0.25, include_top=False, weights=None)
    path = tmp_path / "other.weights.h5"
    base.save_weights(path)
    return path


def test_backbones_are_ranked_and_a_second_call_extracts_nothing(
    photos, tmp_path, mobilenet_file, monkeypatch
):
    values = {"weights": mobilenet_file, "image_size": 32, "precision": "float32", "blocks": 0}
    values |= {"backbone": ["mobilenet"], "settings": ["alpha=0.25"]}
    first = advise(photos, **values, out=tmp_path / "a")
    assert len(first["scores"]) == 1
    assert first["similarity"]["random"] is not None
    assert not _open, "no shard stays open"
    monkeypatch.setattr(
        "finetune.activations.trunk.open_trunk", lambda *_: pytest.fail("a trunk was run")
    )
    second = advise(photos, **values, out=tmp_path / "b")
    assert {**first, "page": ""} == {**second, "page": ""}


def test_an_exchanged_label_is_among_the_suspects(photos, tmp_path):
    """A plum among the apples: colours are far apart, whatever the weights."""
    for i in range(3):
        (photos / f"train/plums/{i}.png").rename(photos / f"train/plums/copy{i}.png")
    shutil.copy(photos / "test/plums/0.png", photos / "train/apples/plum.png")
    values = {"weights": "random", "image_size": 32, "precision": "float32", "blocks": 0}
    found = advise(photos, **values, out=tmp_path / "a")
    kinds = {row["file"]: row for row in found["suspects"]}
    assert kinds["train/apples/plum.png"]["kind"] == "label"
    assert kinds["train/apples/plum.png"]["class"] == "apples"


def test_too_few_photos_are_said_before_anything_is_fitted(photos, tmp_path):
    values = {"backbone": ["mini-resnet"], "weights": "random", "image_size": 28}
    values |= {"precision": "float32", "blocks": 0}
    copied = next((photos / "train/apples").iterdir()).read_bytes()
    for split in ("train", "validation"):
        for photo in (photos / split / "apples").iterdir():
            photo.write_bytes(copied)
    with pytest.raises(DataError, match=r"copies and groups counted once: apples \(1 photo\)"):
        advise(photos, **values, out=tmp_path / "a")
    one = tmp_path / "one"
    shutil.copytree(photos / "train/plums", one / "plums")
    with pytest.raises(DataError, match="one class"):
        advise(one, **values, out=tmp_path / "b")
    assert not (tmp_path / "a").exists(), "nothing half-made is left"


@pytest.mark.parametrize(
    ("photos_of_a_class", "similarity", "accuracy", "strategy"),
    [
        (10, 0.9, 0.9, "cached-features"),
        (10, 0.2, 0.9, "top-blocks"),
        (2000, 0.9, 0.9, "top-blocks"),
        (2000, 0.2, 0.9, "full"),
        (2000, 0.2, 0.999, "cached-features"),
    ],
)
def test_the_guide(photos_of_a_class, similarity, accuracy, strategy):
    from types import SimpleNamespace

    from finetune.commands.advise import recommended

    look = SimpleNamespace(
        top={"linear_probe": {"accuracy": accuracy}}, recipe=SimpleNamespace(backbone="vgg16")
    )
    dataset = SimpleNamespace(
        classes=("a", "b"), labels=lambda split: np.repeat([0, 1], photos_of_a_class)
    )
    curve = [{"extrapolated": True, "interval": [0.9, 0.95]}]
    found = recommended(look, {"value": similarity}, curve, dataset)
    assert found["strategy"] == strategy
    assert f"{photos_of_a_class:,} training photos" in found["why"]


def test_of_a_rare_class_enough_is_compared_with_random_weights():
    labels = np.repeat([0, 1], [5000, 3])
    groups = np.arange(5003)
    chosen = _drawn(labels, groups)
    assert len(chosen) == len(set(chosen)) == 1000
    assert (labels[chosen] == 1).sum() >= 2
    assert len(_drawn(labels[:40], groups[:40])) == 40
