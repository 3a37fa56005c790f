"""The commands as functions."""

import subprocess
import sys

import pytest

import finetune as ft
from finetune.errors import DataError, UsageError


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Two runs on twelve painted photos of each class, in a folder of their own."""
    from conftest import paint

    root = tmp_path_factory.mktemp("api")
    for number, (name, color) in enumerate(
        {"apples": (200, 60, 50), "plums": (70, 60, 160)}.items()
    ):
        for i in range(12):
            paint(root / "photos" / name / f"{i}.png", color, 100 * number + i)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FINETUNE_CACHE", str(root / "cache"))
        recipe = {"weights": "random", "image_size": 32, "strategy": "cached-features"}
        runs = [
            ft.run(recipe, data=root / "photos", head=head, out=root / head)
            for head in ("gap", "gmp")
        ]
    return root, runs


def test_importing_the_package_imports_nothing_heavy():
    code = "import sys, finetune as ft; ft.run, ft.Run; print({'keras', 'tensorflow', 'openvino'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "set()\n", done.stderr


def test_a_run_predicts_explains_evaluates_and_exports(trained, tmp_path):
    root, (run, _) = trained
    assert run.result["head"]["solver"] == "lbfgs"
    assert repr(run) == f"Run({str(root / 'gap')!r})"
    (tmp_path / "bad.png").write_text("no photo")
    table = run.predict(root / "photos" / "plums", tmp_path / "bad.png", top=2)
    assert list(table.columns) == [
        "file",
        "class",
        "probability",
        "class_2",
        "probability_2",
        "bad",
    ]
    assert len(table) == 13
    assert list(table["bad"].notna()) == [False] * 12 + [True]
    assert (table["probability"] + table["probability_2"])[:12].between(0.999, 1.001).all()
    measured = run.evaluate(root / "photos", out=tmp_path / "evaluated")
    assert measured["n"] == 24
    shown = run.explain(
        root / "photos" / "plums" / "0.png", layers=["block4_conv3"], out=tmp_path / "explained"
    )
    assert list(shown["photos"][0]["layers"]) == ["block4_conv3"]
    assert run.export("onnx", tmp_path / "onnx")["max_difference"] < 1e-4
    assert (tmp_path / "onnx/model.onnx").exists()


def test_runs_are_combined(trained, tmp_path):
    root, runs = trained
    both = ft.ensemble(*runs, out=tmp_path / "both")
    assert len(both.predict(root / "photos" / "apples")) == 12


def test_a_second_call_is_still_a_function(trained):
    """A module `finetune.run` would have taken its place."""
    assert callable(ft.run)
    assert callable(ft.compare)


def test_mistakes_are_explained(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        ft.Run(tmp_path / "nothing")
    with pytest.raises(UsageError, match="strategi"):
        ft.run({"strategi": "full"})
    with pytest.raises(AttributeError, match="no attribute 'train'"):
        ft.train  # noqa: B018
