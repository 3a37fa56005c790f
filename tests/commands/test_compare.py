"""Comparisons: one extraction for many recipes, results that do not depend on what ran before, a
journal.
"""

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import keras
import pandas as pd
import pytest
from conftest import finetune, finetune_here, paint

from finetune.commands.compare import compare, compare_trials
from finetune.errors import BusyError, UsageError
from finetune.execution.local import Worker
from finetune.execution.sharing import entries, extractions, in_order
from finetune.execution.worker import Job
from finetune.files import locked
from finetune.progress import Reporter
from finetune.recipe.matrix import collect, expand

QUIET = Reporter(quiet=True)
BASE = "weights: random\nimage_size: 32\nbatch_size: 8\nepochs: 1\n"


def recipe(folder, photos, text: str, name: str = "r"):
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.yaml"
    path.write_text(f"data: {photos}\n{BASE}{text}\n")
    return path


def results(out) -> pd.DataFrame:
    return pd.read_csv(out / "results.csv")


def test_a_matrix_expands_in_a_fixed_order_with_names_and_exclusions(tmp_path):
    path = recipe(
        tmp_path,
        "sketches",
        "matrix: {strategy: [cached-features, top-blocks], head: [gap, flatten], seed: [0, 1],"
        " exclude: [{strategy: top-blocks, head: flatten}]}",
    )
    cells = expand(path)
    assert [cell.name for cell in cells][:3] == [
        f"r-cached-features-{c}" for c in ("gap-s0", "gap-s1", "flatten-s0")
    ]
    assert len(cells) == 2 * 2 * 2 - 2
    assert {cell.group for cell in cells} == {
        "r-cached-features-gap",
        "r-cached-features-flatten",
        "r-top-blocks-gap",
    }
    assert cells[-1].recipe.seed == 1
    dotted = expand(
        recipe(
            tmp_path,
            "sketches",
            "matrix: {head.dropout: [0.0, 0.5], learning_rate: [1e-3, 1e-4]}",
            "d",
        )
    )
    assert [cell.recipe.head.dropout for cell in dotted] == [0.0, 0.0, 0.5, 0.5]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("matrix: {head: gap}", "r.yaml:6: head is 'gap'; expected a list"),
        ("matrix: [a]", "expected swept settings"),
        ("matrix: {hed: [gap]}", "did you mean 'head'?"),
        ("matrix: {seed: [0], exclude: [{hed: gap}]}", "exclude names hed"),
        ("matrix: {seed: [0], exclude: gap}", "expected a list of combinations"),
        ("matrix: {head: [gab]}", "'gap', 'gmp' or 'flatten'"),
    ],
)
def test_a_wrong_matrix_is_refused_with_its_place(tmp_path, text, reason):
    with pytest.raises(UsageError) as caught:
        expand(recipe(tmp_path, "sketches", text))
    assert reason in str(caught.value)


def test_all_files_are_checked_before_anything_runs(tmp_path):
    recipe(tmp_path, "sketches", "epoch: 1", "a")
    recipe(tmp_path, "sketches", "hed: gap", "b")
    with pytest.raises(UsageError) as caught:
        collect([tmp_path])
    assert "a.yaml" in str(caught.value)
    assert "b.yaml" in str(caught.value)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="No recipe in"):
        collect([tmp_path / "empty"])


def test_extractions_are_counted_by_what_cells_share(tmp_path):
    rates = "[1e-4, 1e-3, 1e-2, 1e-1]"
    axes = f"matrix: {{head: [gap, gmp, flatten], learning_rate: {rates}, seed: [0, 1, 2]}}"
    cells = expand(recipe(tmp_path, "sketches", f"strategy: cached-features\n{axes}"))
    assert (len(cells), extractions(cell.recipe for cell in cells)) == (36, 1)
    more = [
        *cells,
        *expand(
            recipe(
                tmp_path, "sketches", "matrix: {strategy: [top-blocks, full], blocks: [1, 2]}", "s"
            )
        ),
    ]
    assert extractions(cell.recipe for cell in more) == 1, (
        "one pass stores every cut; `full` streams photos and its head starts from shared features"
    )
    views = expand(
        recipe(
            tmp_path,
            "sketches",
            "strategy: cached-features\naugment: light\nmatrix: {views: [2, 4]}",
            "v",
        )
    )
    assert extractions(cell.recipe for cell in views) == 2, (
        "the photos themselves, and their augmented views"
    )
    both = [*more, *views]
    ordered = [entries(cell.recipe)[0].trunk_pass for cell in in_order([*both[::2], *both[1::2]])]
    assert sum(a != b for a, b in itertools.pairwise(ordered)) == len(set(ordered)) - 1


def test_the_recipes_of_vgg16_need_two_passes():
    """Of the photos and of their views, whatever the cuts; each other backbone has one of its
    own.
    """
    trials = collect([Path(__file__).parents[2] / "recipes"])
    vgg16 = [trial.recipe for trial in trials if trial.recipe.backbone == "vgg16"]
    small = [recipe for recipe in vgg16 if recipe.data == "sketches"]
    assert extractions(recipe for recipe in vgg16 if recipe not in small) == 2
    assert extractions(trial.recipe for trial in trials) == 4 + bool(small)


@pytest.mark.slow  # half a minute
def test_results_do_not_depend_on_which_cells_ran_before(photos, tmp_path, no_worker):
    path = recipe(
        tmp_path,
        photos,
        "head: {pool: gap, dropout: 0.3}\nmatrix: {seed: [0, 1], strategy: [frozen-base, "
        "top-blocks]}",
    )
    cells = expand(path)
    forward = compare_trials(cells, tmp_path / "forward", QUIET)
    shutil.rmtree(tmp_path / "forward" / "cells" / cells[-1].name)
    alone = compare_trials(cells[-1:], tmp_path / "alone", QUIET)
    assert forward["cells"][-1]["test"] == alone["cells"][0]["test"]
    assert {cell["status"] for cell in forward["cells"]} == {"done"}
    assert forward["cells"][0]["extracted"] > 0 == forward["cells"][2]["extracted"]


def test_failing_cells_are_rows_with_reasons_and_the_others_go_on(photos, tmp_path):
    folder = tmp_path / "recipes"
    recipe(folder, photos, "strategy: cached-features", "good")
    recipe(folder, photos, "strategy: top-blocks\nlearning_rate: 3e38", "nan")
    recipe(folder, tmp_path / "nowhere", "strategy: cached-features", "nodata")
    (folder / "noweights.yaml").write_text(f"data: {photos}\nbackbone: resnet50\nimage_size: 32\n")
    environment = {
        "FINETUNE_WEIGHTS_DIR": str(tmp_path),
        "KERAS_HOME": str(tmp_path),
        "https_proxy": "http://127.0.0.1:9",
    }
    done = finetune("compare", folder, "--out", tmp_path / "out", "--json", **environment)
    assert done.returncode == 5, done.stderr
    found = {cell["name"]: cell for cell in json.loads(done.stdout)["cells"]}
    assert {name: cell["status"] for name, cell in found.items()} == {
        **dict.fromkeys(("nodata", "noweights"), "failed"),
        "good": "done",
        "nan": "diverged",
    }
    assert "Three ways out" in found["noweights"]["reason"]
    assert (
        "does not exist" in found["nodata"]["reason"]
        or "neither a folder" in found["nodata"]["reason"]
    )
    assert found["good"]["test"]["n"] == 7
    assert "3 of 4" in done.stderr


def test_a_killed_worker_is_replaced(photos, tmp_path):
    cells = expand(
        recipe(tmp_path, photos, "strategy: cached-features\nmatrix: {head: [gap, gmp]}")
    )
    with Worker() as worker:
        jobs = [Job(cell, tmp_path / cell.name) for cell in cells]
        for job in jobs:
            job.folder.mkdir()
        assert worker.run(jobs[0]) is None
        (process,) = worker._pool._processes.values()
        os.kill(process.pid, signal.SIGKILL)
        status, reason = worker.run(jobs[1])
        assert (status, "died" in reason) == ("failed", True)
        assert worker.run(jobs[1]) is None


def test_running_again_repeats_only_what_changed(photos, tmp_path, no_worker):
    cells = expand(
        recipe(tmp_path, photos, "strategy: cached-features\nmatrix: {head: [gap, gmp]}")
    )
    compare_trials(cells, tmp_path / "out", QUIET)
    metrics = {cell.name: tmp_path / "out" / "cells" / cell.name / "metrics.json" for cell in cells}
    written = {name: path.stat().st_mtime_ns for name, path in metrics.items()}
    compare_trials(cells, tmp_path / "out", QUIET)
    assert {name: path.stat().st_mtime_ns for name, path in metrics.items()} == written
    changed = expand(
        recipe(tmp_path, photos, "strategy: cached-features\nstore: float32\nmatrix: {head: [gmp]}")
    )
    compare_trials([cells[0], *changed], tmp_path / "out", QUIET)
    assert metrics["r-gap"].stat().st_mtime_ns == written["r-gap"]
    assert metrics["r-gmp"].stat().st_mtime_ns != written["r-gmp"]
    paint(photos / "test" / "plums" / "new.png", (70, 60, 160), 1234)
    assert compare_trials(cells, tmp_path / "out", QUIET)["cells"][0]["test"]["n"] == 8, (
        "other photos are another measurement"
    )


def test_a_finished_trial_stays_until_its_successor_begins(
    photos, tmp_path, no_worker, monkeypatch
):
    path = recipe(tmp_path, photos, "strategy: cached-features\nmatrix: {head: [gap, gmp]}")
    compare_trials(expand(path), tmp_path / "out", QUIET)
    changed = recipe(
        tmp_path, photos, "strategy: cached-features\nstore: float32\nmatrix: {head: [gap, gmp]}"
    )

    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Worker, "run", interrupted)
        with pytest.raises(KeyboardInterrupt):
            compare_trials(expand(changed), tmp_path / "out", QUIET)
    cells = [tmp_path / "out" / "cells" / f"r-{head}" / "metrics.json" for head in ("gap", "gmp")]
    assert all(path.exists() for path in cells)
    rows = compare_trials(expand(changed), tmp_path / "out", QUIET)["cells"]
    assert [row["status"] for row in rows] == ["done", "done"]
    assert "store: float32" in (cells[0].parent / "recipe.yaml").read_text()


def test_weights_that_changed_under_their_name_are_another_result(photos, tmp_path, no_worker):
    base = keras.applications.MobileNet((32, 32, 3), 0.25, include_top=False, weights=None)
    base.save_weights(tmp_path / "w.weights.h5")
    path = recipe(tmp_path, photos, "strategy: cached-features\nbackbone: mobilenet\nalpha: 0.25")
    path.write_text(path.read_text().replace("random", str(tmp_path / "w.weights.h5")))
    trials = expand(path)
    compare_trials(trials, tmp_path / "out", QUIET)
    metrics = tmp_path / "out" / "cells" / "r" / "metrics.json"
    first = json.loads(metrics.read_text())["weights"]
    compare_trials(trials, tmp_path / "out", QUIET)
    assert json.loads(metrics.read_text())["weights"] == first
    base.set_weights([1.1 * values for values in base.get_weights()])
    base.save_weights(tmp_path / "w.weights.h5")
    compare_trials(trials, tmp_path / "out", QUIET)
    assert json.loads(metrics.read_text())["weights"]["digest"] != first["digest"]


def test_other_recipes_under_one_name_are_refused(tmp_path):
    first = recipe(tmp_path / "a", "sketches", "strategy: cached-features", "top")
    second = recipe(tmp_path / "b", "sketches", "matrix: {seed: [0, 1]}", "top")
    with pytest.raises(UsageError, match="differ in more than the seed are called top"):
        collect([first, second])


def test_a_comparison_killed_after_a_trial_goes_on_to_the_same_table(photos, tmp_path, no_worker):
    path = recipe(tmp_path, photos, "head: {pool: gap, dropout: 0.3}\nmatrix: {seed: [0, 1, 2]}")
    compare_trials(expand(path), tmp_path / "whole", QUIET)
    command = [
        sys.executable,
        "-m",
        "finetune",
        "compare",
        str(path),
        "--out",
        str(tmp_path / "cut"),
    ]
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    first = tmp_path / "cut" / "cells" / "r-s0" / "metrics.json"
    deadline = time.monotonic() + 180
    while not first.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    written = first.stat().st_mtime_ns
    compare_trials(expand(path), tmp_path / "cut", QUIET)
    assert first.stat().st_mtime_ns == written, "a finished cell is not run again"
    tables = [results(tmp_path / name) for name in ("whole", "cut")]
    steady = [c for c in tables[0].columns if not any(word in c for word in ("seconds", "memory"))]
    pd.testing.assert_frame_equal(tables[0][steady], tables[1][steady])


def test_the_plan_says_what_is_shared(photos, tmp_path):
    path = recipe(
        tmp_path, photos, "strategy: cached-features\nmatrix: {head: [gap, gmp, flatten]}"
    )
    done = finetune_here("compare", path, "--dry-run", "--json", "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout)
    assert (len(plan["cells"]), plan["extractions"], plan["extractions_saved"]) == (3, 1, 2)
    assert plan["bytes_to_store"] == 26 * 512 * 2
    assert plan["seconds"] > 0
    assert not (tmp_path / "out").exists()


def processes_of(parent: int) -> list[int]:
    listed = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(parent)], capture_output=True, text=True
    )
    return [int(pid) for pid in listed.stdout.split()]


def is_running(pid: int) -> bool:
    status = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True)
    return bool(status.stdout.strip()) and not status.stdout.startswith("Z")


@pytest.mark.skipif(shutil.which("ps") is None, reason="needs ps")
def test_the_worker_ends_with_its_parent(photos, tmp_path):
    path = recipe(tmp_path, photos, "matrix: {seed: [0, 1, 2, 3]}")
    command = [sys.executable, "-m", "finetune", "compare", str(path), "--out", str(tmp_path / "o")]
    driver = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 240
    while not list((tmp_path / "o").glob("cells/*/recipe.yaml")) and time.monotonic() < deadline:
        time.sleep(0.05)
    workers = processes_of(driver.pid)
    assert workers
    driver.kill()
    driver.wait()
    while any(map(is_running, workers)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(map(is_running, workers))
    with locked(tmp_path / "o"):
        pass


def test_a_trial_that_another_process_works_on_is_busy_and_not_failed(photos, tmp_path):
    path = recipe(tmp_path, photos, "strategy: cached-features")
    folder = tmp_path / "out" / "cells" / "r"
    with locked(folder), pytest.raises(BusyError, match="Another process works in") as caught:
        compare(path, out=tmp_path / "out")
    assert caught.value.exit_code == 75
    assert not (folder / "failure.json").exists()


def test_an_unreadable_result_is_not_finished(photos, tmp_path, no_worker):
    path = recipe(tmp_path, photos, "strategy: cached-features\nmatrix: {head: [gap, gmp]}")
    first = compare(path, out=tmp_path / "out")
    for name, harm in (("r-gap/metrics.json", "{"), ("r-gmp/predictions.csv", "file,class\n")):
        (tmp_path / "out" / "cells" / name).write_text(harm)
    again = compare(path, out=tmp_path / "out")
    assert [cell["test"] for cell in again["cells"]] == [cell["test"] for cell in first["cells"]]
    assert [cell["extracted"] for cell in again["cells"]] == [0, 0]
    assert again["extractions"] == first["extractions"] == 1
