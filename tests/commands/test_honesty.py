"""No figure that deceives a newcomer: what stands beside accuracy, wherever it is shown."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import finetune_here, paint
from PIL import Image

from finetune.cli.manage import _checked
from finetune.cli.train import _compare_plan, _run
from finetune.commands.check import check
from finetune.commands.compare import compare, plan_compare
from finetune.commands.ensemble import ensemble
from finetune.commands.evaluate import evaluate
from finetune.commands.run import run
from finetune.errors import UsageError
from finetune.evaluation.intervals import interval
from finetune.runs import ledger
from finetune.runs.folder import read_contents

pytestmark = pytest.mark.usefixtures("no_worker")

SMALL = {
    "weights": "random",
    "image_size": 32,
    "strategy": "cached-features",
    "precision": "float32",
}


def recipe(folder: Path, photos: Path, name: str, text: str) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}.yaml"
    path.write_text(
        f"data: {photos}\nweights: random\nimage_size: 32\nprecision: float32\n"
        f"batch_size: 8\nepochs: 1\n{text}\n"
    )
    return path


@pytest.fixture(scope="module")
def uneven(tmp_path_factory) -> Path:
    """200 cats and 12 dogs that no network tells apart."""
    root = tmp_path_factory.mktemp("uneven") / "photos"
    for name, n in {"cats": 200, "dogs": 12}.items():
        for i in range(n):
            paint(root / name / f"{i}.png", (128, 120, 120), 1000 * len(name) + 500 * (n < 20) + i)
    return root


def scene(path: Path, seed: int) -> Path:
    """A picture with shapes of its own, large enough to be compared."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6, 3)).astype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(coarse).resize((64, 64), Image.Resampling.BICUBIC).save(path)
    return path


@pytest.fixture
def leaking(tmp_path) -> Path:
    """Scenes by split; one test photo is a training photo, another is one saved again."""
    root = tmp_path / "scenes"
    for number, (split, n) in enumerate({"train": 8, "validation": 4, "test": 5}.items()):
        for label, name in enumerate(("apples", "plums")):
            for i in range(n):
                scene(root / split / name / f"{i}.png", 100 * number + 10 * label + i)
    shutil.copy(root / "train/apples/0.png", root / "test/apples/copy.png")
    Image.open(root / "train/plums/1.png").save(root / "test/plums/again.jpg", quality=70)
    return root


def test_two_hundred_cats_and_twelve_dogs_of_which_every_one_is_called_cat(uneven, tmp_path):
    result = run({**SMALL, "data": str(uneven)}, out=tmp_path / "run").to_json()
    test = result["test"]
    assert (test["accuracy"], test["balanced_accuracy"]) == (40 / 42, 0.5)
    assert test["majority_baseline"] == 40 / 42
    text = _run(result)
    assert "balanced accuracy 50.0 %; always naming the most frequent class" in text
    assert "95.2 %" in text
    warnings = "\n".join(result["warnings"])
    for words in (
        "imbalance",
        "--set class_weight=balanced",
        "fewer than 20 test photos ('dogs' 2)",
        "validation set is small",
        "(recall 0): 'dogs'",
        "wider than 10 points",
    ):
        assert words in warnings
    card = (tmp_path / "run" / "README.md").read_text()
    assert all(f"- {warning}\n" in card for warning in result["warnings"])


def test_the_advice_about_imbalance_works_as_printed(uneven, tmp_path):
    done = finetune_here(
        *("run", "--data", uneven, "--weights", "random", "--image-size", "32", "--strategy"),
        *("cached-features", "--out", tmp_path / "run", "--set", "class_weight=balanced"),
    )
    assert done.returncode == 0, done.stderr
    assert "imbalance" in done.stderr
    assert "--set class_weight=balanced" not in done.stderr, "it is set already"
    assert "balanced accuracy" in done.stdout


def test_check_says_what_will_be_warned_of(uneven):
    report = check(uneven)
    text = _checked(report)
    for words in (
        "imbalance",
        "--set class_weight=balanced",
        "test accuracy 95.2 %, balanced accuracy 50.0 %",
        "wider than 10 points",
    ):
        assert words in text
    assert json.loads(json.dumps(report)) == report


def test_leaks_are_told_where_people_read(leaking, tmp_path):
    matrix = "strategy: cached-features\nmatrix: {head: [gap, gmp], seed: [0, 1]}"
    out = tmp_path / "out"
    result = compare(recipe(tmp_path / "recipes", leaking, "r", matrix), out=out)
    copy = {"train/apples/0.png", "test/apples/copy.png"}
    near = {"train/plums/1.png", "test/plums/again.jpg"}
    assert [set(group) for group in result["leaks"]] == [copy]
    assert [set(pair) for pair in result["near_duplicates"]] == [near]
    for cell in result["cells"]:
        assert cell["unseen"]["n"] == cell["test"]["n"] - 2 == 10
        rows = pd.read_csv(out / cell["run"] / "predictions.csv").query("split == 'test'")
        rows = rows[~rows["file"].isin(copy | near)]
        hits = rows[["apples", "plums"]].idxmax(axis=1) == rows["class"]
        assert cell["unseen"]["accuracy"] == pytest.approx(hits.mean())
    by_recipe = {row["recipe"]: row for row in result["ranking"]}
    own = [c["unseen"]["accuracy"] for c in result["cells"] if c["recipe"] == "r-gap"]
    assert by_recipe["r-gap"]["accuracy_unseen"] == pytest.approx(np.mean(own))
    said = "2 test photos have a copy or a look-alike in another split"
    head = (out / "report.html").read_text().partition("<main>")[0]
    assert said in head
    assert "test/apples/copy.png" in head
    assert said in (out / "results.md").read_text()
    card = (out / "cells" / "r-gap-s0" / "README.md").read_text()
    assert f"{said}. Test accuracy without them:" in card
    assert json.loads((out / "compare.json").read_text()) == result
    assert result["ledger"] == {result["cells"][0]["split"]: {"models": 4, "comparisons": 1}}


@pytest.mark.slow  # half a minute
def test_seeds_that_are_added_until_something_wins_are_in_the_ledger(photos, tmp_path):
    out, recipes = tmp_path / "out", tmp_path / "recipes"
    text = "strategy: cached-features\nmatrix: {head: [gap, gmp], seed: [0]}"
    one = compare(recipe(recipes, photos, "r", text), out=out)
    split = one["cells"][0]["split"]
    assert one["ledger"][split] == {"models": 2, "comparisons": 1}
    run({**SMALL, "data": str(photos)}, out=tmp_path / "alone")
    assert ledger.read(split) == {"models": 3, "comparisons": 1}, "a run looks at the test, too"
    again = compare(recipe(recipes, photos, "r", text.replace("[0]", "[0, 1]")), out=out)
    assert again["ledger"][split] == {"models": 5, "comparisons": 2}
    assert (
        "5 models have been scored on this test split so far, in 2 comparisons"
        in (out / "report.html").read_text()
    )


def test_groups_go_from_the_recipe_to_split_test_and_intervals(tmp_path):
    root = tmp_path / "animals"
    for number, name in enumerate(("cats", "dogs")):
        for animal in range(10):
            for shot in range(4):
                file = root / name / f"{name}{animal}_{shot}.png"
                paint(file, (128, 120, 120), 1000 * number + 10 * animal + shot)
    text = (
        "strategy: cached-features\ngroups: '([a-z]+[0-9]+)_'\n"
        "matrix: {head: [gap, gmp], seed: [0]}"
    )
    result = compare(recipe(tmp_path / "recipes", root, "r", text), out=tmp_path / "out")
    cell = tmp_path / "out" / result["cells"][0]["run"]
    rows = pd.read_csv(cell / "photos.csv")
    assert (rows.groupby("group")["split"].nunique() == 1).all()
    test = pd.read_csv(cell / "predictions.csv").query("split == 'test'")
    assert test["group"].nunique() == 4 < len(test) == 16
    row = result["ranking"][0]
    shown = next(cell for cell in result["cells"] if cell["recipe"] == row["recipe"])
    test = pd.read_csv(tmp_path / "out" / shown["run"] / "predictions.csv").query("split == 'test'")
    hits = (test[["cats", "dogs"]].idxmax(axis=1) == test["class"]).to_numpy()
    assert row["accuracy_interval"] == pytest.approx(interval(hits, test["group"]))
    assert shown["test"]["accuracy_interval"] == row["accuracy_interval"]


def test_the_group_column_of_a_table_reaches_the_predictions(photos, tmp_path):
    rows = [
        (path.relative_to(photos).as_posix(), path.parts[-2], path.parts[-3], f"g{path.stem}")
        for path in sorted(photos.rglob("*.png"))
    ]
    table = pd.DataFrame(rows, columns=["file", "label", "split", "group"])
    table.to_csv(photos / "table.csv", index=False)
    run({**SMALL, "data": str(photos / "table.csv")}, out=tmp_path / "run")
    test = pd.read_csv(tmp_path / "run" / "predictions.csv").query("split == 'test'")
    assert set(test["group"]) == {"g0", "g1", "g2", "g3"}


def test_check_proposes_a_rule_that_keeps_look_alikes_together(tmp_path):
    for number, name in enumerate(("apples", "plums")):
        for i in range(5):
            path = scene(tmp_path / "p" / name / f"tree{i}_0.png", 10 * number + i)
            Image.open(path).save(path.with_name(f"tree{i}_1.jpg"), quality=80)
    report = check(tmp_path / "p")
    assert len(report["groups_proposed"]) == 10
    assert f"--set 'groups={report['groups_rule']}'" in _checked(report)
    kept = check(tmp_path / "p", groups=report["groups_rule"])
    assert kept["near_duplicates"] == []
    assert len(kept["bursts"]) == 10


def test_margin_is_a_recipe_s_or_the_command_line_s(photos, tmp_path):
    text = "strategy: cached-features\nmatrix: {head: [gap, gmp]}"
    path = recipe(tmp_path / "recipes", photos, "r", f"{text}\nmargin: 50")
    wide = compare(path, out=tmp_path / "out")
    assert wide["margin"] == 50
    narrow = compare(path, margin=0.5, out=tmp_path / "out")
    assert narrow["margin"] == 0.5
    assert {cell["extracted"] for cell in narrow["cells"]} == {
        cell["extracted"] for cell in wide["cells"]
    }, "a margin runs nothing again"
    with pytest.raises(UsageError, match="--margin is 0; allowed"):
        compare(path, margin=0, out=tmp_path / "out")


@pytest.mark.slow  # half a minute
def test_a_plan_says_what_it_takes_to_find_a_gap(photos, tmp_path):
    text = "strategy: cached-features\nmatrix: {head: [gap, gmp], seed: [0, 1]}"
    path = recipe(tmp_path / "recipes", photos, "r", text)
    plan = plan_compare(path, margin=4, out=tmp_path / "out")
    needed = plan["needed"]
    assert [row["gap"] for row in needed["gaps"]] == [1, 2, 3, 4, 5]
    assert (needed["photos"], needed["seeds"], needed["share_of"]) == (7, 2, None)
    wanted = [row["photos"] for row in needed["gaps"]]
    assert wanted == sorted(wanted, reverse=True)
    assert "an assumption: nothing was measured yet" in _compare_plan(plan)
    assert f"  1 point: {wanted[0]:,} test photos, or " in _compare_plan(plan)
    compare(path, out=tmp_path / "out")
    again = plan_compare(path, out=tmp_path / "out")["needed"]
    assert again["share_of"] == ["r-gap", "r-gmp"]


def test_an_ensemble_knows_what_its_members_were_trained_on(photos, tmp_path):
    for name, head in {"a": "gap", "b": "gmp"}.items():
        run({**SMALL, "data": str(photos), "head": head}, out=tmp_path / name)
    ensemble(tmp_path / "a", tmp_path / "b", out=tmp_path / "both")
    assert read_contents(tmp_path / "both") == read_contents(tmp_path / "a")
    result = evaluate(tmp_path / "both", photos, split="train", out=tmp_path / "evaluation")
    assert result["known"]["train"] == result["n"] == 12
