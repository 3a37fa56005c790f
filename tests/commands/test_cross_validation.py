"""`folds`: cross-validation beside a run, over rows that are stored already."""

import json

import numpy as np
import pandas as pd
import pytest

from finetune.commands.run import run
from finetune.errors import UsageError
from finetune.execution.crossing import with_folds
from finetune.recipe.reading import load

BASE = {"weights": "random", "image_size": 32, "strategy": "cached-features"}


def test_every_photo_is_predicted_once_out_of_fold_and_no_trunk_runs_for_it(
    photos, tmp_path, monkeypatch
):
    from finetune.activations.cache import ActivationCache

    extracted = []
    real = ActivationCache.rows

    def rows(self, photos, cut, view=0):
        extracted.append(self.missing(photos, cut, view))
        return real(self, photos, cut, view)

    monkeypatch.setattr(ActivationCache, "rows", rows)
    recipe = {**BASE, "folds": 3, "repeats": 2}
    found = run(recipe, data=photos, out=tmp_path / "run").folds
    assert sum(extracted) == 26
    assert sum(extracted[3:]) == 0, "folds read what the run has stored"
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
