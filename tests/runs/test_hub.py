"""A run goes to a stand-in of the hub through the hub's own client, and predicts from there."""

import csv
import io
import json
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from conftest import finetune, paint
from hub import serving

from finetune.commands.push import push
from finetune.commands.run import run as train
from finetune.data import hub as data_hub
from finetune.errors import DataError, IntegrityError, UsageError
from finetune.recipe.recipe import Recipe
from finetune.runs.classifier import Classifier
from finetune.runs.folder import read_run
from finetune.runs.hub import fetch, is_address, repository
from finetune.runs.hub_card import _without, licence, stage

NAME = "teacher/fruit"


def test_a_run_pushed_from_within_keeps_its_full_stops():
    text = "Test accuracy 98.1 %. See /home/me/run/model.keras."
    assert (
        _without([".", "/home/me/run", "run"], text) == "Test accuracy 98.1 %. See run/model.keras."
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run on a few photos in a folder with a telling name."""
    root = tmp_path_factory.mktemp("hub")
    # four children, and copies of their photos, in training and in validation
    for split, seeds in {"train": range(6), "validation": range(2), "test": (6, 7)}.items():
        for label, color in {"apples": (200, 60, 50), "plums": (70, 60, 160)}.items():
            for i in seeds:
                paint(root / "secret" / split / label / f"{label}-child-{i}.png", color, i)
    recipe = {
        "data": str(root / "secret"),
        "groups": "(.*[0-9])",
        "folds": 3,
        "backbone": "mini-cnn",
        "head": "gap",
        "weights": "random",
        "image_size": 32,
        "strategy": "cached-features",
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FINETUNE_CACHE", str(root / "cache"))
        train(recipe, out=root / "run")
    return root


@pytest.fixture(scope="module")
def pushed(folder):
    """The hub after a push, the environment that leads there, and what was printed."""
    with serving() as hub:
        environment = {
            "HF_ENDPOINT": hub.address,
            "HF_HOME": str(folder / "hf"),
            "HF_TOKEN": "hf_writes",
            "HF_HUB_DISABLE_XET": "1",  # its protocol is not the stand-in's
        }
        command = ("push", folder / "run", f"hf://{NAME}", "--private", "--json")
        done = finetune(*command, **environment)
        assert done.returncode == 0, done.stderr
        yield hub, environment, json.loads(done.stdout)


def test_a_pushed_run_is_whole_and_says_nothing_of_where_it_was_made(folder, pushed):
    hub, _, printed = pushed
    files = hub.files[NAME]
    assert hub.private == {NAME: True}
    assert printed["repository"] == NAME
    assert [file["name"] for file in printed["files"]] == sorted(files)
    assert files["model.keras"] == (folder / "run/model.keras").read_bytes()
    assert {"classes.json", "recipe.yaml", "metrics.json", "photos.csv"} <= set(files)
    assert not {"predictions.csv", "folds.csv", "explanations.png"} & set(files)
    warnings = json.loads(files["metrics.json"])["warnings"]
    assert any("4 groups of photos stand in more than one split" in text for text in warnings)
    assert any("identical photos" in text for text in warnings)
    assert "folds.csv" not in files["README.md"].decode()
    telling = [str(folder).encode(), b"child-"]
    zipped = [name for name in files if name.endswith((".keras", ".bin", ".png"))]
    assert [
        name for name in set(files) - set(zipped) if any(word in files[name] for word in telling)
    ] == []
    with zipfile.ZipFile(io.BytesIO(files["model.keras"])) as archive:
        assert not any(str(folder).encode() in archive.read(name) for name in archive.namelist())
    rows = list(csv.DictReader(io.StringIO(files["photos.csv"].decode())))
    assert len(rows) == 20
    assert all(len(row["sha256"]) == 64 for row in rows)


def test_where_the_weights_lay_is_not_told(folder, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(folder / "run", run)
    result = read_run(run)
    place = str(tmp_path / "weights.h5")
    card = (run / "README.md").read_text().replace(result.weights["source"], place)
    (run / "README.md").write_text(card)
    replace(result, weights={**result.weights, "source": place}).write(run)
    (tmp_path / "shared").mkdir()
    assert stage(run, NAME, tmp_path / "shared").weights["source"] == "weights.h5"
    text = (tmp_path / "shared/README.md").read_text()
    assert "weights.h5" in text
    assert str(tmp_path) not in text


def test_the_card_has_the_metadata_of_the_hub(folder, pushed):
    _, block, text = pushed[0].files[NAME]["README.md"].decode().split("---\n", 2)
    found = yaml.safe_load(block)
    assert found["pipeline_tag"] == "image-classification"
    assert found["library_name"] == "keras"
    assert "license" not in found  # random weights have none
    (result,) = found["model-index"][0]["results"]
    accuracy = json.loads((folder / "run/metrics.json").read_text())["test"]["accuracy"]
    assert result["task"]["type"] == "image-classification"
    assert result["dataset"]["name"].startswith("secret (")
    assert {row["type"]: row["value"] for row in result["metrics"]}["accuracy"] == accuracy
    assert f"finetune predict hf://{NAME} PHOTO" in text
    assert "explanations.png" not in text
    assert [name for name in pushed[0].files[NAME] if Path(name).name.startswith(".lock")] == []


def test_a_pushed_run_predicts_without_the_folder_and_then_without_the_hub(folder, pushed):
    _, environment, _ = pushed
    photo = folder / "secret/train/plums/plums-child-3.png"
    here = finetune("predict", folder / "run", photo, "--json")
    there = finetune("predict", f"hf://{NAME}", photo, "--json", **environment)
    assert there.returncode == 0, there.stderr
    assert f"{NAME} is fetched" in there.stderr
    answers = [json.loads(done.stdout)["predictions"] for done in (here, there)]
    assert answers[0] == answers[1]
    again = finetune("predict", f"hf://{NAME}", photo, **environment | {"HF_HUB_OFFLINE": "1"})
    assert again.returncode == 0, again.stderr


def test_pushing_again_replaces_the_network(folder, pushed):
    hub, environment, _ = pushed
    hub.files[NAME]["openvino/int8/manifest.json"] = b"{}"
    hub.files[NAME]["NOTES.md"] = b"by hand"
    done = finetune("push", folder / "run", f"hf://{NAME}", **environment)
    assert done.returncode == 0, done.stderr
    assert "openvino/int8/manifest.json" not in hub.files[NAME]
    assert hub.files[NAME].pop("NOTES.md") == b"by hand"
    assert done.stdout.splitlines()[-1].startswith(f"{hub.address}/{NAME} at ccc")


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"HF_TOKEN": "hf_reads"}, "hf auth login"),
        ({"HF_ENDPOINT": "http://127.0.0.1:9"}, "no route to"),
    ],
)
def test_a_hub_that_refuses_or_is_not_there_is_said(folder, pushed, change, text):
    done = finetune("push", folder / "run", f"hf://{NAME}", **pushed[1] | change)
    assert (done.returncode, done.stdout) == (3, "")
    assert text in done.stderr
    assert "Traceback" not in done.stderr


def test_a_repository_that_is_not_there_is_said(pushed):
    done = finetune("predict", "hf://teacher/none", __file__, **pushed[1])
    assert done.returncode == 3
    assert "teacher/none" in done.stderr


def test_a_dry_run_sends_nothing(folder):
    done = push(folder / "run", f"hf://{NAME}", dry_run=True)
    assert (done["url"], done["commit"]) == (None, None)
    assert "model.keras" in [file["name"] for file in done["files"]]


def test_what_is_no_run_and_what_was_changed_is_not_sent(folder, tmp_path):
    with pytest.raises(DataError, match="no finished run"):
        push(tmp_path, f"hf://{NAME}", dry_run=True)
    file = folder / "run/history.csv"
    text = file.read_text()
    file.write_text(text + "\n")
    with pytest.raises(IntegrityError, match="history"):
        push(folder / "run", f"hf://{NAME}", dry_run=True)
    file.write_text(text)
    assert Classifier.open(folder / "run").classes == ("apples", "plums")


@pytest.mark.parametrize("address", ["fruit", "hf://fruit", "hf://a/b/c", "https://x/y"])
def test_other_addresses_are_refused(folder, address):
    with pytest.raises(UsageError, match="hf://USER/REPO"):
        push(folder / "run", address, dry_run=True)


def test_a_run_that_is_too_large_is_not_fetched(monkeypatch):
    file = SimpleNamespace(file_size=9 * 2**30, will_download=True)
    monkeypatch.setattr(
        data_hub, "client", lambda: SimpleNamespace(snapshot_download=lambda **_: [file])
    )
    with pytest.raises(DataError, match="9,663,676,416 bytes; allowed are 8,589,934,592"):
        fetch("hf://a/b")


def test_an_address_may_name_a_revision():
    assert repository("hf:/a/b@v1.0") == ("a/b", "v1.0")
    assert is_address("hf:/a/b")
    assert not is_address("hf/a/b")


@pytest.mark.parametrize(
    ("backbone", "weights", "expected"),
    [
        ("vgg16", "imagenet", {"license": "cc-by-4.0"}),
        ("resnet50", "imagenet", {"license": "mit"}),
        ("densenet121", "imagenet", {"license": "bsd-3-clause"}),
        ("vgg16", "random", {}),
    ],
)
def test_the_licence_is_that_of_the_weights(backbone, weights, expected):
    assert licence(Recipe(backbone=backbone, weights=weights)) == expected


def test_weights_of_somewhere_else_have_a_licence_that_is_looked_up():
    assert licence(Recipe(backbone="vgg16", weights="mine.h5"))["license"] == "other"
