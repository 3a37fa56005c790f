"""`tune`: a study that goes on where it was killed, chooses on validation, and opens the test once."""

import json
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
from conftest import finetune
from PIL import Image

from finetune.commands.tune import tune
from finetune.errors import SomeCellsFailed, UsageError
from finetune.files import digest_of
from finetune.recipe.recipe import load

TAIL = "strategy: top-blocks\nepochs: 2\nbatch_size: 4\n"
SEARCH = "search: {learning_rate: {log: [1e-5, 1e-2]}, blocks: [1, 2]}\n"


@pytest.fixture
def recipe(tmp_path, photos):
    path = tmp_path / "r.yaml"
    path.write_text(f"data: {photos}\nweights: random\nimage_size: 32\n{TAIL}{SEARCH}")
    return path


def draws(out) -> list[list]:
    table = pd.read_csv(out / "trials.csv")
    return table[["state", "learning_rate", "blocks", "validation_loss"]].to_numpy().tolist()


def test_the_best_on_validation_is_written_and_tested_once(recipe, tmp_path, monkeypatch):
    from finetune.execution import trial, tuning
    from finetune.runs import record

    opened = []
    kept = trial._Trial.probabilities
    monkeypatch.setattr(
        trial._Trial, "probabilities", lambda self, split: opened.append(split) or kept(self, split)
    )
    assert tuning.run_trial is trial.run_trial
    out = tmp_path / "tuned"
    found = tune(recipe, trials=4, out=out)
    assert opened == ["validation"] * 4 + ["validation", "test"]
    assert (found["trials"], found["pruned"], found["failed"]) == (4, 0, 0)
    table = pd.read_csv(out / "trials.csv")
    best = table.loc[table["validation_loss"].idxmin()]
    assert found["best"] == {"learning_rate": best["learning_rate"], "blocks": best["blocks"]}
    chosen = load(out / "best.yaml", {})
    assert (chosen.learning_rate, chosen.blocks) == (best["learning_rate"], best["blocks"])
    assert chosen == load(out / "best" / "recipe.yaml", {})
    result = json.loads((out / "best" / "metrics.json").read_text())
    assert result["validation"]["loss"] == pytest.approx(best["validation_loss"], abs=1e-6)
    assert found["test"]["accuracy"] == result["test"]["accuracy"]
    assert json.loads((out / "tuned.json").read_text()) == found
    assert set(found["expected"]) == {"loss", "accuracy", "accuracy_optimism"}
    assert sum(found["importance"].values()) == pytest.approx(1, abs=1e-3)
    assert Image.open(out / "importance.png").format == "PNG"
    again = tune(recipe, trials=4, out=out)
    assert again == found
    assert len(opened) == 6, "a finished search is only read"
    with pytest.raises(UsageError, match="would open it again"):
        tune(recipe, trials=5, out=out)
    assert record.same_recipe(out / "best.yaml", chosen)


def test_an_interrupted_search_goes_on_as_if_it_had_not_been(recipe, tmp_path, monkeypatch):
    from finetune.execution import tuning

    tune(recipe, trials=4, out=tmp_path / "whole")
    real, calls = tuning.try_trial, []

    def killed(*arguments):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(tuning, "try_trial", killed)
    with pytest.raises(KeyboardInterrupt):
        tune(recipe, trials=4, out=tmp_path / "halves")
    found = tune(recipe, trials=4, out=tmp_path / "halves")
    assert len(calls) == 5
    assert found["trials"] == 4
    assert draws(tmp_path / "halves") == draws(tmp_path / "whole")


def test_a_trial_that_ends_its_process_is_given_up(recipe, tmp_path, monkeypatch):
    from finetune.execution import tuning

    real, calls = tuning.try_trial, []

    def dies(*arguments):
        calls.append(1)
        if len(calls) <= 3:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(tuning, "try_trial", dies)
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            tune(recipe, trials=2, out=tmp_path / "tuned")
    found = tune(recipe, trials=2, out=tmp_path / "tuned")
    assert (found["trials"], found["failed"]) == (2, 1)
    assert "3 times" in pd.read_csv(tmp_path / "tuned/trials.csv")["reason"][0]


def test_a_trial_that_lags_behind_is_pruned(recipe, tmp_path, monkeypatch):
    """Validation losses are made up, so that the sixth trial is the worst from the start."""
    import keras

    from finetune.execution import tuning

    labels = np.array([0, 1] * 4)
    seen = []

    def learn(recipe, dataset, bench, watch, reporter):
        seen.append(0)
        level = 5.0 if len(seen) > 6 else 1.0 + len(seen) / 10
        watch.set_model(keras.Sequential())
        watch.model.stop_training = False
        for epoch in range(4):
            seen[-1] += 1
            watch.on_epoch_end(epoch, {"val_loss": level - epoch / 10})
            if watch.model.stop_training:
                break
        wrong = np.exp(-level)
        return np.where(np.eye(2)[labels] > 0, wrong, 1 - wrong), labels

    monkeypatch.setattr(tuning, "try_trial", learn)
    monkeypatch.setattr(tuning, "read_run", lambda run: _Measured)
    found = tune(recipe, trials=8, out=tmp_path / "tuned")
    assert found["pruned"] == 2
    assert seen == [4] * 6 + [2] * 2
    states = pd.read_csv(tmp_path / "tuned/trials.csv")["state"].tolist()
    assert states == ["complete"] * 6 + ["pruned"] * 2


class _Measured:
    test = {"accuracy": 0.5, "per_class": []}


def test_the_same_settings_are_not_tried_twice(recipe, tmp_path, monkeypatch):
    from finetune.execution import tuning

    real, calls = tuning.try_trial, []
    monkeypatch.setattr(tuning, "try_trial", lambda *a: calls.append(1) or real(*a))
    recipe.write_text(recipe.read_text().replace(SEARCH, "search: {blocks: [1, 2]}\n"))
    found = tune(recipe, trials=7, out=tmp_path / "tuned")
    assert found["trials"] == 7
    assert len(calls) == 2


def test_a_trial_that_diverges_has_no_result_and_all_that_do_are_an_error(recipe, tmp_path):
    recipe.write_text(recipe.read_text().replace("[1e-5, 1e-2]", "[1e30, 1e35]"))
    with pytest.raises(SomeCellsFailed, match=r"None of 2 trials .*diverged"):
        tune(recipe, trials=2, out=tmp_path / "tuned")


def test_another_search_does_not_go_on_with_a_folder(recipe, tmp_path):
    with pytest.raises(SomeCellsFailed, match="higher --timeout"):
        tune(recipe, trials=2, timeout=0, out=tmp_path / "tuned")
    recipe.write_text(recipe.read_text().replace("1e-5", "1e-6"))
    with pytest.raises(UsageError, match="holds another search"):
        tune(recipe, trials=2, out=tmp_path / "tuned")


def test_a_missing_package_is_said_with_the_line_that_installs_it(recipe, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(UsageError, match=r'pip install "finetune-cut\[tune\]"') as caught:
        tune(recipe, out=tmp_path / "tuned")
    assert caught.value.exit_code == 2
    assert not (tmp_path / "tuned").exists()


@pytest.mark.reliability
def test_a_killed_command_is_gone_on_with(recipe, tmp_path):
    out = tmp_path / "tuned"
    words = ["tune", recipe, "--trials", 4, "--out", out, "--json"]
    process = subprocess.Popen([sys.executable, "-m", "finetune", *map(str, words)])
    while not list(out.glob("validation/*.npy")):
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = finetune(*words)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["trials"], found["failed"]) == (4, 0)
    assert done.stderr.count("trial ") < 12


def test_the_command_line_prints_its_words_and_its_json(recipe, tmp_path):
    words = ("tune", recipe, "--trials", 2, "--out", tmp_path / "tuned")
    done = finetune(*words, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert {"best", "trials", "pruned", "recipe"} <= set(found)
    assert digest_of(found)
    assert "opened" not in done.stdout
    shown = finetune(*words)
    assert "best of 2 trials (0 pruned, 0 failed)" in shown.stdout
    assert finetune("tune", recipe, "--trials", 0).returncode == 2
