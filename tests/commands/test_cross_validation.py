"""`folds`: cross-validation beside a run, over rows that are stored already."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
from conftest import paint
from PIL import Image

from finetune.commands.run import plan_run, run
from finetune.data.catalog import read_dataset
from finetune.errors import DataError, UsageError
from finetune.evaluation.folds import with_folds
from finetune.execution.crossing import cross_validate
from finetune.execution.sharing import needs
from finetune.progress import SILENT
from finetune.recipe.reading import load

pytestmark = pytest.mark.usefixtures("no_worker")

BASE = {"weights": "random", "image_size": 32, "strategy": "cached-features"}


@pytest.mark.parametrize("views", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_every_photo_is_predicted_once_out_of_fold_and_no_trunk_runs_for_it(
    photos, tmp_path, monkeypatch, views
):
    from finetune.activations.cache import ActivationCache

    extracted = []
    real = ActivationCache.rows

    def rows(self, photos, cut, view=0):
        extracted.append(self.missing(photos, cut, view))
        return real(self, photos, cut, view)

    monkeypatch.setattr(ActivationCache, "rows", rows)
    recipe = {**BASE, "folds": 3, "repeats": 2, **({"augment": "light"} if views else {})}
    recipe["views"] = views
    plan = plan_run(recipe, data=photos)
    assert (plan["to_extract"], plan["folds"]) == (26 * (1 + views), 6)
    assert plan["estimate"]["folds"] > 0
    found = run(recipe, data=photos, out=tmp_path / "run").folds
    assert sum(extracted) == 26 * (1 + views)
    assert sum(extracted[len(needs(load(None, recipe))) :]) == 0, "folds read what is stored"
    assert (found["folds"], found["repeats"], found["n"]) == (3, 2, 26)
    table = pd.read_csv(tmp_path / "run/folds.csv")
    assert len(table) == 2 * 26
    assert table.groupby("repeat")["file"].nunique().tolist() == [26, 26]
    by_fold = table.groupby(["repeat", "fold"])["correct"].mean().tolist()
    assert found["per_fold"] == pytest.approx(by_fold)
    assert found["accuracy"] == pytest.approx(np.mean(by_fold))
    low, high = found["accuracy_interval"]
    assert low <= found["accuracy"] <= high
    written = json.loads((tmp_path / "run/metrics.json").read_text())
    assert written["folds"] == found
    assert "folds.csv" in written["files"]
    card = (tmp_path / "run/README.md").read_text()
    assert f"Accuracy **{100 * found['accuracy']:.1f} %** (95 % interval" in card
    assert "each of 26 photos was classified 2 times" in card


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"folds": 2}, "folds is 2; allowed are 0 for none, and 3 and more"),
        ({"repeats": 3}, "repeats: 3 needs folds"),
        ({"folds": 5, "strategy": "full"}, "streams photos"),
        ({"folds": 5, "strategy": "frozen-base", "augment": "light"}, "streams photos"),
    ],
)
def test_folds_that_make_no_sense_are_refused(values, reason):
    with pytest.raises(UsageError) as caught:
        load(None, values)
    assert reason in str(caught.value)


@pytest.mark.parametrize("command", ["run", "dry run", "tune"])
def test_folds_that_a_class_is_too_small_for_are_refused_before_anything_is_trained(
    command, photos, tmp_path, monkeypatch
):
    from finetune.commands.tune import tune
    from finetune.execution.learning import Learner

    monkeypatch.setattr(Learner, "fit_head", lambda learner: pytest.fail("it trains"))
    recipe = {**BASE, "folds": 20, "data": str(photos)}
    calls = {
        "run": lambda: run(recipe, out=tmp_path / "run"),
        "dry run": lambda: plan_run(recipe),
        "tune": lambda: tune({**recipe, "search": {"head": ["gap", "gmp"]}}, out=tmp_path / "t"),
    }
    with pytest.raises(DataError, match="folds: 20 needs as many independent photos"):
        calls[command]()


def test_compare_says_what_the_folds_found(photos, tmp_path):
    from finetune.commands.compare import compare

    text = f"data: {photos}\nweights: random\nimage_size: 32\nstrategy: cached-features\n"
    (tmp_path / "r.yaml").write_text(f"{text}folds: 3\nmatrix: {{head: [gap, gmp]}}\n")
    found = compare(tmp_path / "r.yaml", out=tmp_path / "compared")
    assert [cell["status"] for cell in found["cells"]] == ["done", "done"]
    for row in found["ranking"]:
        cell = next(cell for cell in found["cells"] if cell["recipe"] == row["recipe"])
        assert row["folds"]["accuracy"] == pytest.approx(cell["folds"]["accuracy"])
        assert (row["folds"]["folds"], row["folds"]["repeats"]) == (3, 1)
    assert json.loads((tmp_path / "compared/compare.json").read_text()) == found
    assert [row["recipe"] for row in found["folds"]] == [row["recipe"] for row in found["ranking"]]
    assert {"accuracy", "difference", "difference_interval", "p"} <= set(found["folds"][0])
    page = (tmp_path / "compared/report.html").read_text()
    assert '<h3 id="s1-folds">Cross-validation</h3>' in page
    assert "cross-validated accuracy" in (tmp_path / "compared/results.md").read_text()


def test_what_leaks_is_in_one_fold_whatever_splits_it_came_in(tmp_path):
    """Copies, look-alikes and groups across the splits of a table, through to the predictions."""
    rows = []
    for number in range(30):
        name = "apples" if number % 2 else "plums"
        path = paint(tmp_path / f"{number}.png", (200, 60, 50), number, (96, 72))
        split = ("train", "validation", "test")[number % 3]
        rows.append([path.name, name, split, "burst" if number in (20, 22, 24, 26) else ""])
    for source, target in ((0, "copy.png"), (4, "alike.jpg")):
        picture = Image.open(tmp_path / f"{source}.png")
        if target == "copy.png":
            shutil.copy(tmp_path / f"{source}.png", tmp_path / target)
        else:
            picture.save(tmp_path / target, quality=90)
        rows.append([target, "plums", "test" if source == 0 else "train", ""])
    table = pd.DataFrame(rows, columns=["file", "label", "split", "group"])
    table.to_csv(tmp_path / "photos.csv", index=False)
    recipe = load(None, {**BASE, "folds": 4, "repeats": 3, "data": str(tmp_path / "photos.csv")})
    trained = []

    def learn(fold):
        trained.append({photo.file for photo in fold.photos if photo.split != "test"})
        labels = fold.labels("test")
        return np.eye(2)[labels].astype(np.float32), labels

    dataset = read_dataset(recipe.data)
    summary, found = cross_validate(recipe, dataset, learn, SILENT)
    assert summary["n"] == 32
    together = [{"0.png", "copy.png"}, {"4.png", "alike.jpg"}]
    together.append({f"{number}.png" for number in (20, 22, 24, 26)})
    for unit in together:
        places = found[found["file"].isin(unit)].groupby("repeat")["fold"].agg(["nunique", "size"])
        assert places["nunique"].tolist() == [1] * 3
        assert places["size"].tolist() == [len(unit)] * 3
    for number, files in enumerate(trained):
        part = found[(found["repeat"] == number // 4) & (found["fold"] == number % 4)]
        assert files.isdisjoint(part["file"])


def test_a_comparison_compares_what_went_through_the_same_folds():
    def row(recipe, values, **changes):
        folds = {"folds": 3, "repeats": 1, "per_fold": values}
        return {"split": "s", "recipe": recipe, "folds": folds, **changes}

    rows = [row("a", [0.7, 0.8, 0.9]), row("a", [0.8, 0.8, 0.8]), row("b", [0.9, 0.9, 1.0])]
    rows += [{"split": "s", "recipe": "c"}, row("d", [0.5, 0.5, 0.5], split="t")]
    ranking = [{"split": "s", "recipe": name} for name in "bac"]
    found = with_folds([*ranking, {"split": "t", "recipe": "d"}], rows)
    assert found[1]["folds"]["accuracy"] == pytest.approx(0.8)
    assert found[1]["folds"]["difference"] == pytest.approx(0.8 - 2.8 / 3)
    assert found[1]["folds"]["best"] == "b"
    assert found[2] == ranking[2]
    assert found[3]["folds"]["best"] == "d"
