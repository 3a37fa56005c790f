"""Whole runs on a few small photos with random weights: the run folder, the store, resuming, the
plan.
"""

import csv
import io
import json

import keras
import numpy as np
import pytest
from conftest import paint

from finetune.activations import trunk
from finetune.activations.engine import resolve_precision
from finetune.commands.run import plan_run, run
from finetune.data.photos import decode
from finetune.errors import BusyError, DataError, IntegrityError, UsageError
from finetune.execution import learning
from finetune.execution import trial as runs
from finetune.execution.plan import plan_trial
from finetune.files import locked
from finetune.progress import Reporter
from finetune.recipe.reading import load
from finetune.runs.folder import checked, finished_run, read_result, read_run
from finetune.training.fit import Diverged

QUIET = Reporter(quiet=True)


def recipe(photos, *settings, **values):
    values = {
        "data": str(photos),
        "weights": "random",
        "image_size": 32,
        "batch_size": 8,
        "epochs": 2,
        "precision": "float32",
    } | values
    return load(None, values, list(settings))


def predictions(out) -> list[dict]:
    with (out / "predictions.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(
    ("backbone", "values"),
    [
        ("vgg16", {"strategy": "cached-features"}),
        ("vgg16", {"strategy": "cached-features", "augment": "light", "views": 2, "head": "gmp"}),
        (
            "vgg16",
            {
                "strategy": "cached-features",
                "head": {"pool": "flatten", "hidden": 4, "dropout": 0.2},
            },
        ),
        ("vgg16", {"strategy": "frozen-base", "head": "flatten"}),
        pytest.param("densenet121", {"strategy": "top-blocks"}, marks=pytest.mark.slow),
        ("resnet50", {"strategy": "top-blocks"}),
        pytest.param(
            "vgg16",
            {"strategy": "top-blocks", "augment": "light", "head": {"pool": "gap", "hidden": 4}},
            marks=pytest.mark.slow,
        ),
        (
            "vgg16",
            {
                "strategy": "full",
                "class_weight": "balanced",
                "schedule": "cosine",
                "layer_decay": 0.5,  # the saved model must not need the optimizer that it takes
            },
        ),
    ],
    ids=lambda value: (
        value
        if isinstance(value, str)
        else "-".join(f"{v}" for v in value.values() if isinstance(v, str | int))
    ),
)
def test_a_run_from_photos_to_folder(backbone, values, photos, tmp_path):
    out = tmp_path / "run"
    resolved = recipe(photos, backbone=backbone, **values)
    result = runs.run_trial(resolved, out, QUIET, for_use=True)
    assert {path.name for path in out.iterdir() if not path.name.startswith(".")} == {
        *(
            "model.keras",
            "recipe.yaml",
            "classes.json",
            "history.csv",
            "metrics.json",
            "predictions.csv",
            "photos.csv",
            "openvino",
        ),
        *("confusion.png", "curves.png", "explanations.png", "environment.json", "README.md"),
    }
    assert (result.validation["n"], result.test["n"], result.cut) == (7, 7, resolved.cut)
    assert "openvino/float32/manifest.json" in result.files
    assert result.audit["moved"] == 0 < result.audit["frozen"]
    assert json.loads((out / "classes.json").read_text()) == ["apples", "plums"]
    assert load(out / "recipe.yaml", {}) == resolved
    rows = predictions(out)
    assert [row["split"] for row in rows] == ["validation"] * 7 + ["test"] * 7
    # the saved model, fed with raw photos, says what predictions.csv says: labels, order and
    # preprocessing agree
    model = keras.saving.load_model(out / "model.keras")
    pixels = np.stack([decode((photos / row["file"]).read_bytes(), 32) for row in rows])
    found = model.predict(pixels, verbose=0)
    np.testing.assert_allclose(
        found, [[float(row["apples"]), float(row["plums"])] for row in rows], atol=2e-3
    )
    assert all(row["class"] == row["file"].split("/")[1] for row in rows)
    correct = [
        row["class"] == max(("apples", "plums"), key=lambda name: float(row[name]))
        for row in rows[7:]
    ]
    assert result.test["accuracy"] == pytest.approx(np.mean(correct))


def test_a_second_run_computes_nothing_and_another_head_neither(photos, tmp_path, monkeypatch):
    chosen = {"strategy": "cached-features", "precision": "float32"}
    first = runs.run_trial(recipe(photos, **chosen), tmp_path / "a", QUIET)
    monkeypatch.setattr(trunk, "open_trunk", lambda *_: pytest.fail("a trunk was run"))
    second = runs.run_trial(recipe(photos, **chosen), tmp_path / "b", QUIET)
    flat = recipe(photos, **chosen, head="flatten", seed=4)
    third = runs.run_trial(flat, tmp_path / "c", QUIET)
    assert (first.extracted, second.extracted, third.extracted) == (26, 0, 0)
    assert predictions(tmp_path / "a") == predictions(tmp_path / "b")
    assert first.split == third.split


def test_equal_recipes_give_equal_results(photos, tmp_path):
    results = []
    for name in "ab":
        runs.run_trial(
            recipe(photos, "head.dropout=0.3", strategy="top-blocks", augment="light"),
            tmp_path / name,
            QUIET,
        )
        results.append(predictions(tmp_path / name))
    assert results[0] == results[1]


def test_an_interrupted_run_goes_on_to_the_same_result(photos, tmp_path, monkeypatch):
    resolved = recipe(photos, "head.dropout=0.3", strategy="top-blocks", epochs=3)
    runs.run_trial(resolved, tmp_path / "whole", QUIET)
    told = []

    def interrupt(self, row):
        told.append(row["epoch"])
        if row["epoch"] == 3:  # epochs 1 and 2 are committed, 3 is not yet
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Reporter, "epoch", interrupt)
        with pytest.raises(KeyboardInterrupt):
            runs.run_trial(resolved, tmp_path / "cut", QUIET)
    assert (tmp_path / "cut" / "checkpoint.npz").exists()
    assert read_result(tmp_path / "cut") is None, "an unfinished run has no metrics"
    with monkeypatch.context() as patch:
        patch.setattr(Reporter, "epoch", lambda self, row: told.append(row["epoch"]))
        runs.run_trial(resolved, tmp_path / "cut", QUIET)
    assert told == [0, 1, 2, 3, 3], "only the epoch that was lost is trained again"
    assert predictions(tmp_path / "cut") == predictions(tmp_path / "whole")
    assert not (tmp_path / "cut" / "checkpoint.npz").exists()


@pytest.mark.parametrize("strategy", ["top-blocks", "frozen-base"])
def test_bad_photos_stop_the_run_before_training_and_what_is_extracted_is_kept(
    photos, tmp_path, monkeypatch, strategy
):
    (photos / "train" / "apples" / "0.png").write_bytes(b"no picture")
    (photos / "test" / "plums" / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    monkeypatch.setattr(learning, "fit", lambda *_: pytest.fail("something was trained"))
    chosen = recipe(photos, strategy=strategy)
    with pytest.raises(DataError) as caught:
        runs.run_trial(chosen, tmp_path / "run", QUIET)
    message = str(caught.value)
    assert "2 of 27 photos" in message
    assert "0.png: " in message
    assert "broken.jpg: " in message
    assert "--skip-bad, in a recipe skip_bad: true" in message
    plan = plan_trial(chosen.model_copy(update={"skip_bad": True}), QUIET)
    assert plan["to_extract"] == 2, "only the bad photos have no row"


def test_skip_bad_lists_what_was_left_out(photos, tmp_path):
    (photos / "train" / "apples" / "bad.png").write_bytes(b"no picture")
    result = runs.run_trial(
        recipe(photos, strategy="cached-features", skip_bad=True), tmp_path / "run", QUIET
    )
    assert result.excluded == 1
    rows = list(csv.DictReader((tmp_path / "run" / "excluded.csv").open()))
    assert rows[0]["file"] == "train/apples/bad.png"
    assert "UnidentifiedImageError" in rows[0]["reason"]


def test_a_run_folder_is_claimed_by_one_recipe_and_one_process(photos, tmp_path):
    runs.run_trial(recipe(photos, strategy="cached-features"), tmp_path / "run", QUIET)
    with pytest.raises(UsageError, match="already holds a finished run"):
        runs.run_trial(recipe(photos, strategy="cached-features"), tmp_path / "run", QUIET)
    (tmp_path / "run" / "metrics.json").unlink()
    with pytest.raises(UsageError, match="unfinished run of another recipe"):
        runs.run_trial(recipe(photos, strategy="cached-features", seed=1), tmp_path / "run", QUIET)
    with locked(tmp_path / "run"), pytest.raises(BusyError, match="Another process"):
        runs.run_trial(recipe(photos, strategy="cached-features"), tmp_path / "run", QUIET)


def test_divergence_is_an_error_and_leaves_no_result(photos, tmp_path):
    with pytest.raises(Diverged, match="learning rate"):
        runs.run_trial(
            recipe(photos, strategy="top-blocks", learning_rate=1e30), tmp_path / "run", QUIET
        )
    assert read_result(tmp_path / "run") is None


def test_the_plan_counts_what_a_run_would_do(photos):
    plan = plan_trial(recipe(photos, strategy="top-blocks", augment="light", views=2), QUIET)
    assert plan["stored_rows"] == plan["to_extract"] == 26 + 2 * 12
    assert plan["shape"] == [2, 2, 512]
    assert plan["bytes_to_store"] == 50 * 2 * 2 * 512 * 2
    assert plan["parameters"]["trunk"] + plan["parameters"]["tail"] == plan["parameters"]["total"]
    streamed = plan_trial(recipe(photos, strategy="frozen-base"), QUIET)
    assert (streamed["stored_rows"], streamed["streamed_per_epoch"]) == (26, 12)


def test_photos_added_later_are_the_only_ones_computed(photos, tmp_path):
    runs.run_trial(recipe(photos, strategy="cached-features"), tmp_path / "a", QUIET)
    paint(photos / "train" / "plums" / "new.png", (80, 70, 170), 99)
    assert (
        runs.run_trial(recipe(photos, strategy="cached-features"), tmp_path / "b", QUIET).extracted
        == 1
    )


def test_float16_stores_move_no_probability_by_more_than_2e_3(photos, tmp_path):
    found = []
    for store in ("float16", "float32"):
        runs.run_trial(
            recipe(photos, strategy="cached-features", store=store), tmp_path / store, QUIET
        )
        found.append([float(row["apples"]) for row in predictions(tmp_path / store)])
    np.testing.assert_allclose(*found, atol=2e-3)


# Defects that were mended


@pytest.mark.parametrize(
    "strategy",
    [
        "top-blocks",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("full", "frozen-base")),
    ],
)
def test_the_plan_of_fresh_views_counts_what_the_run_computes(photos, tmp_path, strategy):
    chosen = recipe(photos, strategy=strategy, augment="light", epochs=0)
    plan = plan_trial(chosen, QUIET)
    result = runs.run_trial(chosen, tmp_path / "run", QUIET)
    assert plan["to_extract"] == result.extracted
    assert sum(entry["seconds"] for entry in result.entries.values()) == pytest.approx(
        result.cost["extraction_seconds"], abs=0.01
    )
    assert {entry["cut"] for entry in result.entries.values()} >= {chosen.cut, "block5_pool"}, (
        "the rows that the head starts from have their cost"
    )
    assert plan_trial(chosen, QUIET)["to_extract"] == 0


def test_bfloat16_and_float32_do_not_share_rows(photos, tmp_path):
    keys = []
    for name in ("bfloat16", "float32"):
        chosen = recipe(photos, strategy="cached-features", precision=name)
        result = runs.run_trial(chosen, tmp_path / name, QUIET)
        assert result.extracted == 26
        keys += list(result.entries)
        assert (result.precision, result.fidelity is None) == (name, name == "float32")
    assert len(set(keys)) == 2
    assert runs.run_trial(chosen, tmp_path / "again", QUIET).extracted == 0


@pytest.mark.skipif(resolve_precision() == "float32", reason="no native bfloat16")
def test_blocks_learn_in_bfloat16_and_are_saved_in_float32(photos, tmp_path):
    found = []
    for name in "ab":
        chosen = recipe(photos, "head.dropout=0.3", strategy="top-blocks", precision="auto")
        result = runs.run_trial(chosen, tmp_path / name, QUIET)
        assert (result.precision, result.fidelity["n"]) == ("bfloat16", 7)
        assert result.fidelity["max"] < 0.05
        found.append(predictions(tmp_path / name))
    assert found[0] == found[1]
    model = keras.saving.load_model(tmp_path / "a" / "model.keras")
    assert {layer.compute_dtype for layer in model.layers} <= {"float32", "uint8"}
    assert "precision: bfloat16" in (tmp_path / "a" / "recipe.yaml").read_text()


def test_a_finished_run_can_be_planned_and_is_not_run_again(photos, tmp_path):
    out = tmp_path / "run"
    run(data=photos, weights="random", image_size=32, strategy="cached-features", out=out)
    assert plan_run(resume=out)["to_extract"] == 0
    assert run(resume=out) == read_run(out)
    with pytest.raises(UsageError, match="--resume takes the recipe"):
        run(resume=out, seed=1)


def test_the_advice_to_skip_bad_photos_works_as_printed(photos, tmp_path):
    (photos / "train" / "apples" / "bad.png").write_bytes(b"no picture")
    given = {"data": photos, "weights": "random", "image_size": 32, "strategy": "cached-features"}
    for name, skipped in (("same", given), ("resumed", {"resume": tmp_path / "resumed"})):
        out = {} if "resume" in skipped else {"out": tmp_path / name}
        with pytest.raises(DataError, match="--skip-bad"):
            run(**given, out=tmp_path / name)
        assert run(**skipped, **out, skip_bad=True).excluded == 1


def test_the_recipe_of_a_run_folder_runs_from_inside_it(photos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = {"weights": "random", "image_size": 32, "strategy": "cached-features"}
    first = run(data="photos", **settings, out="run")
    monkeypatch.chdir(tmp_path / "run")
    second = run("recipe.yaml", out=tmp_path / "again")
    assert (second.extracted, second.test) == (0, first.test)


def test_a_run_that_fails_at_once_leaves_no_folder(tmp_path):
    with pytest.raises(DataError):
        run(data=tmp_path / "nowhere", out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["metrics.json", "classes.json", "predictions.csv", "model.keras"])
def test_a_flipped_byte_of_a_finished_run_is_noticed(photos, tmp_path, name):
    out = tmp_path / "run"
    runs.run_trial(recipe(photos, strategy="cached-features"), out, QUIET)
    checked(out)
    data = bytearray((out / name).read_bytes())
    data[len(data) // 2] ^= 1
    (out / name).write_bytes(data)
    with pytest.raises(IntegrityError) as caught:
        checked(out, name)
    assert caught.value.exit_code == 4
    assert (finished_run(out) is None) == (name != "model.keras")


def test_the_result_says_how_the_head_was_found_and_dumps_to_its_file(photos, tmp_path):
    result = runs.run_trial(recipe(photos, strategy="cached-features"), tmp_path / "run", QUIET)
    path = result.head["path"]
    assert [result.head["c"], result.head["validation_loss"]] in path
    assert result.head["validation_loss"] == min(loss for _, loss in path)
    assert read_run(tmp_path / "run") == result
    assert read_result(tmp_path / "run") == result.to_json()


def test_frozen_base_starts_from_the_converged_head(photos, tmp_path):
    heads = [
        runs.run_trial(recipe(photos, strategy=strategy), tmp_path / strategy, QUIET)
        for strategy in ("cached-features", "frozen-base")
    ]
    with (tmp_path / "frozen-base" / "history.csv").open() as file:
        start = next(csv.DictReader(file))
    assert float(start["val_loss"]) == pytest.approx(heads[0].head["validation_loss"], abs=2e-3)


def test_a_run_whose_last_epoch_was_the_best_says_so(photos, tmp_path, monkeypatch):
    row = {"phase": "tail", "learning_rate": 1e-3, "seconds": 0.1, "accuracy": 0.5}
    history = [
        {**row, "epoch": epoch, "loss": loss, "val_loss": loss, "val_accuracy": 0.5}
        for epoch, loss in ((0, 1.0), (1, 0.5))
    ]
    monkeypatch.setattr(learning, "fit", lambda *_: history)
    file = io.StringIO()
    chosen = recipe(photos, "head.solver=keras", strategy="cached-features", epochs=1)
    runs.run_trial(chosen, tmp_path / "run", Reporter(file=file))
    assert "--epochs 2" in file.getvalue()


@pytest.mark.slow  # half a minute
def test_a_bench_changes_no_result(photos, tmp_path):
    """What a worker keeps from trial to trial: networks, traced functions, features, heads."""
    bench = runs.Bench()
    for number, seed in enumerate((0, 1, 0)):
        chosen = recipe(photos, "head.dropout=0.3", strategy="top-blocks", seed=seed)
        runs.run_trial(chosen, tmp_path / f"warm{number}", QUIET, bench=bench)
    runs.run_trial(chosen, tmp_path / "cold", QUIET)
    assert predictions(tmp_path / "warm2") == predictions(tmp_path / "cold")
    assert predictions(tmp_path / "warm0") == predictions(tmp_path / "cold")
    assert predictions(tmp_path / "warm1") != predictions(tmp_path / "cold")
