"""Sections: every seed counts, what must not be ranked is not, and sentences follow the numbers."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from report_cells import add_cell, failed, write

from finetune.errors import DataError
from finetune.evaluation.metrics import summarize
from finetune.evaluation.significance import Design, cross
from finetune.report import sentences
from finetune.report.axes import effects, read_settings
from finetune.report.sections import sections
from finetune.runs.predictions import read_predictions


@pytest.fixture
def out(tmp_path) -> Path:
    return tmp_path / "out"


def history(out: Path, cell: dict, *losses: float) -> None:
    rows = {"phase": "tail", "epoch": range(len(losses)), "loss": 0.1, "val_loss": losses}
    pd.DataFrame(rows).to_csv(out / cell["run"] / "history.csv", index=False)


# Which trials count


def test_all_seeds_count_and_the_one_nearest_the_mean_is_shown(out):
    cells = [add_cell(out, "a", seed, wrong=3 + 3 * seed) for seed in range(4)]
    for cell, loss in zip(cells, (0.1, 0.2, 0.3, 0.9), strict=True):
        cell["validation"]["loss"] = loss
    (section,) = sections(out, [*cells, add_cell(out, "b", wrong=9)])
    entry = next(entry for entry in section.entries if entry.name == "a")
    assert entry.shown["seed"] == 2, "the mean is 0.375"
    assert [cell["seed"] for cell in entry.cells] == [2, 0, 1, 3]
    pair = section.pairs.iloc[0]
    assert pair["difference"] == pytest.approx((9 - 7.5) / 60), "the mean of an even number"
    assert (pair["only_a"], pair["only_b"]) == (0, 0), "of the shown models"


def test_seeds_that_diverged_are_counted_and_named(out):
    cells = [add_cell(out, "steady"), *(add_cell(out, "shaky", seed) for seed in (0, 1))]
    cells.append(failed("shaky", "loss is NaN", "diverged", 2))
    (section,) = sections(out, cells)
    assert {entry.name: entry.diverged for entry in section.entries} == {"steady": 0, "shaky": 1}
    assert any("shaky: 1 of 3 seeds diverged" in sentence for sentence in section.findings)


def test_a_recipe_that_mostly_diverges_is_not_ranked(out):
    cells = [add_cell(out, "steady"), add_cell(out, "shaky")]
    cells += [failed("shaky", "loss is NaN", "diverged", seed) for seed in (1, 2)]
    (section,) = sections(out, cells)
    assert [entry.name for entry in section.entries] == ["steady"]
    assert section.left_out == [("shaky", "2 of 3 seeds diverged")]


def test_photos_are_matched_by_name(out):
    cells = [add_cell(out, "a", wrong=3), add_cell(out, "b", wrong=3)]
    path = out / cells[1]["run"] / "predictions.csv"
    table = pd.read_csv(path)
    table.iloc[::-1].to_csv(path, index=False)
    pair = sections(out, cells)[0].pairs.iloc[0]
    assert (pair["only_a"], pair["only_b"]) == (0, 0)
    table.assign(file="copy/" + table["file"]).to_csv(path, index=False)
    with pytest.raises(DataError, match="different photos"):
        sections(out, cells)


def test_classes_may_be_called_like_columns(out):
    classes = ("NA", "class", "file", "split")
    cell = add_cell(out, "odd", wrong=5, classes=classes)
    names, parts = read_predictions(out / cell["run"])
    assert tuple(names) == classes
    assert parts["test"].groups is None
    measured = summarize(parts["test"].probabilities, parts["test"].labels)
    assert measured["accuracy"] == cell["test"]["accuracy"]
    assert measured["loss"] == pytest.approx(cell["test"]["loss"])


def test_groups_of_photos_widen_the_intervals(out):
    cells = [add_cell(out, "a", wrong=range_of(0, 20)), add_cell(out, "b", wrong=[])]
    alone = sections(out, cells)[0].pairs.iloc[0]
    for cell in cells:
        path = out / cell["run"] / "predictions.csv"
        table = pd.read_csv(path)
        number = table["file"].str.extract(r"(\d+)")[0].astype(int) // 10
        table.assign(group="animal" + number.astype(str)).to_csv(path, index=False)
    assert set(read_predictions(out / cells[0]["run"])[1]["test"].groups) == {
        f"animal{i}" for i in range(6)
    }
    grouped = sections(out, cells)[0].pairs.iloc[0]
    assert grouped["p"] > 0.1 > alone["p"], "twenty mistakes on two animals"
    assert grouped["high"] - grouped["low"] > alone["high"] - alone["low"]
    path = out / cells[0]["run"] / "predictions.csv"
    pd.read_csv(path).drop(columns="group").to_csv(path, index=False)
    assert sections(out, cells)[0].pairs.iloc[0]["p"] == grouped["p"], "b alone names groups"


def range_of(start: int, stop: int) -> list[int]:
    return list(range(start, stop))


def test_heads_by_lbfgs_on_stored_features_are_fixed(out):
    cells = [
        add_cell(out, name, strategy="cached-features", wrong=w) for name, w in (("a", 1), ("b", 9))
    ]
    (section,) = sections(out, cells)
    assert section.pairs["scope"].tolist() == ["recipes"]
    cells += [add_cell(out, "c", strategy="top-blocks", wrong=9)]
    (section,) = sections(out, cells)
    assert section.pairs["scope"].tolist() == ["recipes", "models", "models"]


# What is recommended


def test_recommendation_is_blind_to_the_test_photos(out):
    cells = [add_cell(out, "lucky", wrong=0, validation_wrong=30)]
    cells += [add_cell(out, "sound", wrong=9, validation_wrong=3)]
    cells += [add_cell(out, "dear", wrong=0, validation_wrong=2, seconds=999)]
    chosen, best = sections(out, cells)[0].recommended
    assert (chosen.name, best.name) == ("sound", "dear"), "within one standard error of dear"


@pytest.mark.parametrize("noise", [0.9, 1.0, 1.1])
def test_timing_noise_recommends_nothing(out, noise):
    cells = [add_cell(out, "large", seconds=100), add_cell(out, "small", seconds=100 * noise)]
    cells[1]["cost"]["trainable"] = 10
    (section,) = sections(out, cells)
    assert section.recommended[0].name == "small"
    assert section.groups["recipe"].tolist() == ["small", "large"]


# Sentences


def test_a_run_that_was_cut_short_is_no_headline(out):
    cells = [add_cell(out, "whole", wrong=0), add_cell(out, "short", wrong=25)]
    assert "whole beats short" in sections(out, cells)[0].verdict
    history(out, cells[1], 0.9, 0.7, 0.5)
    assert "beats" not in sections(out, cells)[0].verdict
    assert "short was cut short" in sections(out, cells)[0].verdict
    cells.append(add_cell(out, "poor", wrong=28))
    assert "whole beats poor" in sections(out, cells)[0].verdict


def test_identical_recipes_are_named_with_the_reason(out):
    cells = [add_cell(out, "cached", wrong=4), add_cell(out, "blocks", wrong=4)]
    cells += [add_cell(out, "other", wrong=[7])]
    history(out, cells[1], 0.2, 0.4, 0.5)
    (sentence,) = [text for text in sections(out, cells)[0].findings if "same test photos" in text]
    assert sentence.startswith("blocks and cached are right on the same test photos")
    assert "training of blocks kept epoch 0" in sentence


def pairs_of(*rows: tuple) -> pd.DataFrame:
    columns = ["a", "b", "difference", "low", "high", "p", "better"]
    table = pd.DataFrame(rows, columns=columns)
    return table.assign(scope="recipes", same=False)


def groups_of(*rows: tuple) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["group", "recipe", "accuracy"])


def test_the_claim_has_interval_and_scope():
    pairs = pairs_of(("b", "a", -0.011, -0.02, -0.003, 0.012, "a"))
    groups = groups_of((1, "a", 0.98), (2, "b", 0.969))
    claim = "a beats b by 1.1 points (0.3 to 2.0, p = 0.012)"
    assert sentences.verdict(pairs, groups) == claim
    models = sentences.verdict(pairs.assign(scope="models"), groups)
    assert models == f"{claim}, as trained models"


def test_of_equally_accurate_recipes_the_one_that_beats_another_is_said_to():
    """b is cheaper and stands first; its difference to x may be chance."""
    pairs = pairs_of(
        ("a", "b", 0.0, -0.01, 0.01, 1.0, None),
        ("a", "x", 0.015, 0.004, 0.026, 0.01, "a"),
        ("b", "x", 0.015, -0.004, 0.034, 0.11, None),
    )
    groups = groups_of((1, "b", 0.975), (1, "a", 0.975), (2, "x", 0.96))
    said = sentences.verdict(pairs, groups)
    assert said.startswith("a beats x by 1.5 points (0.4 to 2.6, p = 0.01)")


def test_no_difference_is_said_within_the_margin_alone():
    pairs = pairs_of(
        ("a", "b", 0.002, -0.004, 0.008, 0.9, None), ("a", "c", 0.004, -0.0042, 0.03, 0.4, None)
    )
    groups = groups_of((1, "a", 0.98), (1, "b", 0.978), (1, "c", 0.976))
    said = sentences.verdict(pairs, groups)
    assert "cannot tell a, b and c apart" in said
    assert "b differs from a by less than 1 point" in said
    assert "c differs" not in said
    assert "no recipe is more than 0.5 points better than a" in said, "bounds are rounded up"
    assert "differs" not in sentences.verdict(pairs, groups, margin=0.005)


def test_bounds_look_from_the_named_recipe():
    pairs = pairs_of(("a", "b", 0.01, -0.01, 0.03, 0.5, None), ("b", "c", 0, -0.02, 0.02, 1, None))
    assert sentences.bound(pairs, "a") == 0.01
    assert sentences.bound(pairs, "b") == 0.03
    assert sentences.bound(pairs.iloc[:0], "a") == 0
    assert "no recipe is more than 3.0 points better" in sentences.recommendation(pairs, "b")


def test_one_recipe_has_nothing_to_be_compared_with(out):
    assert "only recipe" in sections(out, [add_cell(out, "alone")])[0].verdict


def test_every_swept_setting_has_its_effect(out):
    cells = []
    for i, head in enumerate(("gap", "gmp")):
        cells.append(add_cell(out, f"top-{head}", wrong=2 + i, head=head))
        name = f"cached-{head}"
        cells.append(add_cell(out, name, wrong=30 + i, strategy="cached-features", head=head))
    (section,) = sections(out, cells)
    said = {text.split(":")[0]: text for text in section.findings}
    assert "top-blocks over cached-features: +46.7 points" in said["strategy"]
    assert "mean of 2 pairs" in said["strategy"]
    assert "gap over gmp: +1.7 points" in said["head"]
    assert "not told from 0" in said["head"]


def test_the_margin_makes_an_equivalence():
    found = {"value": "gap", "against": "gmp", "pairs": 1, "difference": 0.001, "p": 0.8}
    found |= {"low": -0.004, "high": 0.006, "alike": True, "scope": "recipes"}
    assert sentences.effect("head", found).endswith("no difference beyond 1 point")
    assert sentences.effect("head", found | {"alike": False}).count("not shown") == 1


def test_the_ledger_is_stated(out):
    cells = [add_cell(out, "a", wrong=1), add_cell(out, "b", wrong=2)]
    write(out, cells)
    assert (
        "2 models have been scored on this test split so far, in 1 comparison"
        in (out / "results.md").read_text()
    )
    write(out, [*cells, add_cell(out, "a", seed=1, wrong=3)])
    assert (
        "3 models have been scored on this test split so far, in 2 comparisons"
        in (out / "results.md").read_text()
    )


# Main effects


def test_effects_pool_the_pairs_that_differ_in_one_setting_alone(out):
    cells = [add_cell(out, "a"), add_cell(out, "b", strategy="cached-features"), add_cell(out, "c")]
    a, b, c = (read_settings(out / cell["run"]) for cell in cells)
    b |= {"epochs": "100", "views": "2"}  # go with the strategy
    c |= {"head": "gmp", "solver": "keras"}
    d = b | {"head": "gmp", "solver": "keras"}
    e = b | {"head": "flatten", "learning_rate": "0.1"}  # differs in two settings from all
    wrong = {"a": 0, "b": 4, "c": 10, "d": 18, "e": 0}
    hits = {name: np.arange(100)[None] >= count for name, count in wrong.items()}
    crossed = cross(hits, Design(fixed=set(hits)))
    strategy, head = effects(dict(zip("abcde", (a, b, c, d, e), strict=True)), crossed)
    assert (strategy["axis"], strategy["pairs"]) == ("strategy", 2)
    assert strategy["contrasts"][0]["value"] == "top-blocks"
    assert strategy["contrasts"][0]["against"] == "cached-features"
    assert strategy["contrasts"][0]["difference"] == pytest.approx((0.04 + 0.08) / 2)
    assert (head["axis"], head["pairs"]) == ("head", 2)
    assert head["contrasts"][0]["difference"] == pytest.approx((0.10 + 0.14) / 2)
    assert head["contrasts"][0]["scope"] == "recipes"


def test_settings_are_read_in_words(out):
    run = out / add_cell(out, "a")["run"]
    recipe = yaml.safe_load((run / "recipe.yaml").read_text())
    recipe["head"] |= {"hidden": 256}
    (run / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    assert read_settings(run)["head"] == "gap, hidden 256"


def test_the_epochs_best_values_are_means_over_seeds_and_stand_in_report_and_table(tmp_path):
    cells = [add_cell(tmp_path, "tail", seed) for seed in (0, 1)]
    cells.append(add_cell(tmp_path, "lbfgs", strategy="cached-features", epochs=0))
    histories = [pd.read_csv(tmp_path / cell["run"] / "history.csv") for cell in cells[:2]]
    (section,) = sections(tmp_path, cells)
    entries = {entry.name: entry for entry in section.entries}
    assert entries["lbfgs"].extremes is None
    best = entries["tail"].extremes
    assert best["accuracy"] == np.mean([rows["accuracy"].max() for rows in histories])
    assert best["val_loss"] == np.mean([rows["val_loss"].min() for rows in histories])
    write(tmp_path, cells)
    text = (tmp_path / "results.md").read_text()
    row = next(line for line in text.splitlines() if line.startswith("| tail | "))
    wanted = [f"{100 * best['accuracy']:.1f}", f"{best['loss']:.4f}"]
    wanted += [f"{100 * best['val_accuracy']:.1f}", f"{best['val_loss']:.4f}"]
    assert row.split(" | ")[1:5] == wanted
    page = (tmp_path / "report.html").read_text()
    assert "highest training accuracy" in page
    assert page.count("Accuracy by epoch of tail") == 1
    assert page.startswith("<!doctype html>")
