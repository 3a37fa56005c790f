"""A table of photos on the command line: checked, trained on and evaluated."""

import json

import pandas as pd
import pytest
from conftest import finetune

TINY = ("--backbone", "vgg16", "--weights", "random", "--image-size", 32, "--precision", "float32")


@pytest.fixture
def table(photos):
    """The photos' splits as a CSV beside them, and weights of two kinds."""
    rows = [
        {
            "file": path.relative_to(photos).as_posix(),
            "label": path.parent.name,
            "split": path.parent.parent.name,
            "weight": 1 + number % 2,
        }
        for number, path in enumerate(sorted(photos.rglob("*.png")))
    ]
    pd.DataFrame(rows).to_csv(photos / "photos.csv", index=False)
    return photos / "photos.csv"


@pytest.mark.slow
def test_a_table_from_check_to_evaluate(table, tmp_path):
    done = finetune("check", table, "--json")
    assert (done.returncode, json.loads(done.stdout)["photos"]["train"]) == (
        0,
        {"apples": 7, "plums": 5},
    )
    run = tmp_path / "run"
    done = finetune(
        "run", "--data", table, *TINY, "--strategy", "top-blocks", "--epochs", 1,
        "--set", "class_weight=balanced", "--out", run, "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["test"]["n"] == 7
    features = tmp_path / "features"
    done = finetune("extract-features", "--data", table, *TINY, "--out", features, "--json")
    assert json.loads(done.stdout)["n"] == 26, done.stderr
    done = finetune("evaluate", run, table, "--split", "test", "--out", tmp_path / "e", "--json")
    assert json.loads(done.stdout)["n"] == 7, done.stderr


def test_the_error_names_the_flag_and_the_flag_works(photos):
    rows = [{"file": p.relative_to(photos), "label": p.parent.name}
            for p in sorted(photos.rglob("*.png"))]  # fmt: skip
    rows[0]["label"] = rows[1]["label"] = "pears"
    table = photos / "photos.csv"
    pd.DataFrame(rows).to_csv(table, index=False)
    done = finetune("check", table)
    assert done.returncode == 3
    assert "--min-per-class 3 leaves such classes out" in done.stderr
    done = finetune("check", table, "--min-per-class", 3, "--json")
    assert (done.returncode, json.loads(done.stdout)["left_out"]) == (0, {"pears": 2})
