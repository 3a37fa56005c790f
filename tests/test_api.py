"""The commands as functions: ``import finetune as ft``."""

import subprocess
import sys

import pytest
from conftest import paint

import finetune as ft
from finetune.errors import DataError, UsageError


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Two runs on twelve painted photos of each class, and what `run` returned for each."""
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
    code = "import sys, finetune as ft; ft.run, ft.Classifier, ft.predict, ft.ensemble\n"
    code += "print({'keras', 'tensorflow', 'openvino', 'pandas'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "set()\n", done.stderr


def test_dir_shows_the_public_names():
    assert set(ft.__all__) <= set(dir(ft))
    assert all(callable(getattr(ft, name)) for name in ft.__all__)


def test_a_run_is_used_through_its_path_or_as_an_open_classifier(trained, tmp_path):
    root, (result, _) = trained
    assert result.head["solver"] == "lbfgs"
    assert result.run == str(root / "gap")
    (tmp_path / "bad.png").write_text("no photo")
    classifier = ft.Classifier.open(result.run)
    rows = list(ft.predict(classifier, [root / "photos" / "plums", tmp_path / "bad.png"], top=2))
    assert len(rows) == 13
    assert [row.bad is not None for row in rows] == [False] * 12 + [True]
    assert {name for name, _ in rows[0].top} == {"apples", "plums"}
    measured = ft.evaluate(classifier, root / "photos", out=tmp_path / "evaluated")
    assert measured["n"] == 24
    photo = root / "photos" / "plums" / "0.png"
    shown = ft.explain(classifier, photo, layers=["block4_conv3"], out=tmp_path / "explained")
    assert list(shown["photos"][0]["layers"]) == ["block4_conv3"]
    exported = ft.export(result.run, format="openvino", out=tmp_path / "ir")
    assert exported["max_difference"] < 1e-4


def test_runs_are_combined(trained, tmp_path):
    root, runs = trained
    ft.ensemble(*(run.run for run in runs), out=tmp_path / "both")
    assert len(list(ft.predict(tmp_path / "both", root / "photos" / "apples"))) == 12


def test_mistakes_are_explained(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        ft.Classifier.open(tmp_path / "nothing")
    with pytest.raises(UsageError, match="strategi"):
        ft.run({"strategi": "full"})
    with pytest.raises(AttributeError, match="no attribute 'train'"):
        ft.train  # noqa: B018
