"""`tune`: a study that goes on where it was killed, and opens the test split once."""

import json
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from conftest import finetune, finetune_here
from PIL import Image

from finetune.cli.train import _draws_failed, _tune
from finetune.commands.tune import tune
from finetune.errors import BusyError, SomeCellsFailed, Terminated, UsageError
from finetune.progress import Reporter
from finetune.recipe.reading import load

TAIL = "strategy: cached-features\nhead: {solver: keras}\nepochs: 2\nbatch_size: 4\n"
SEARCH = "search: {learning_rate: {log: [1e-5, 1e-2]}, weight_decay: [0.0, 0.01]}\n"


@pytest.fixture
def recipe(tmp_path, photos):
    path = tmp_path / "r.yaml"
    path.write_text(f"data: {photos}\nweights: random\nimage_size: 32\n{TAIL}{SEARCH}")
    return path


def draws(out) -> list[list]:
    table = pd.read_csv(out / "trials.csv")
    return table[["state", "learning_rate", "weight_decay", "validation_loss"]].to_numpy().tolist()


@pytest.fixture
def learned(monkeypatch):
    """Trials that take no time: losses by learning rate; 4 epochs, unless they are pruned.

    Yields the number of epochs of each, and takes what is to be raised instead.
    """
    import keras

    from finetune.execution import attempt, tuning

    labels = np.array([0, 1] * 4)
    made = _Made([], [])

    def learn(recipe, dataset, bench, watch, reporter):
        made.epochs.append(0)
        if made.errors:
            raise made.errors.pop(0)
        level = made.level(recipe)
        watch.set_model(keras.Sequential())
        watch.model.stop_training = False
        for epoch in range(4):
            made.epochs[-1] += 1
            watch.on_epoch_end(epoch, {"val_loss": level - epoch / 10})
            if watch.model.stop_training:
                break
        right = np.exp(-level)
        return np.where(np.eye(2)[labels] > 0, right, 1 - right), labels

    def measured(recipe, folder, *_, for_use):
        assert for_use
        return SimpleNamespace(test={"accuracy": 0.5, "per_class": []})

    monkeypatch.setattr(attempt, "try_trial", learn)
    monkeypatch.setattr(tuning, "run_trial", measured)
    return made


@dataclass
class _Made:
    epochs: list[int]
    errors: list[BaseException]

    def level(self, recipe) -> float:
        return 1 + abs(np.log10(recipe.learning_rate) + 3)


def test_the_best_on_validation_is_written_and_tested_once(recipe, tmp_path, monkeypatch):
    from finetune.execution import learning, trial, tuning
    from finetune.runs import record

    opened = []
    kept = learning.Learner.probabilities
    monkeypatch.setattr(
        learning.Learner,
        "probabilities",
        lambda self, split: opened.append(split) or kept(self, split),
    )
    assert tuning.run_trial is trial.run_trial
    out = tmp_path / "tuned"
    found = tune(recipe, trials=3, out=out)
    assert opened == ["validation"] * 3 + ["validation", "test"]
    assert (found["trials"], found["pruned"], found["failed"]) == (3, 0, 0)
    table = pd.read_csv(out / "trials.csv")
    best = table.loc[table["validation_loss"].idxmin()]
    settings = ("learning_rate", "weight_decay")
    assert found["best"] == {key: best[key] for key in settings}
    chosen = load(out / "best.yaml", {})
    assert (chosen.learning_rate, chosen.weight_decay) == tuple(best[key] for key in settings)
    assert chosen == load(out / "best" / "recipe.yaml", {})
    result = json.loads((out / "best" / "metrics.json").read_text())
    assert result["validation"]["loss"] == pytest.approx(best["validation_loss"], abs=1e-6)
    assert found["test"]["accuracy"] == result["test"]["accuracy"]
    assert json.loads((out / "tuned.json").read_text()) == found
    assert set(found["expected"]) == {"loss", "accuracy", "accuracy_optimism"}
    assert sum(found["importance"].values()) == pytest.approx(1, abs=1e-3)
    assert Image.open(out / "importance.png").format == "PNG"
    again = tune(recipe, trials=3, out=out)
    assert again == found
    assert len(opened) == 5, "a finished search is only read"
    with pytest.raises(UsageError, match="would open it again"):
        tune(recipe, trials=4, out=out)
    assert record.same_recipe(out / "best.yaml", chosen)


def test_an_interrupted_search_goes_on_as_if_it_had_not_been(recipe, tmp_path, learned):
    tune(recipe, trials=14, out=tmp_path / "whole")
    for done in (2, 11):
        learned.level = partial(_stop, learned, len(learned.epochs) + done)
        with pytest.raises(KeyboardInterrupt):
            tune(recipe, trials=14, out=tmp_path / "parts")
    del learned.level
    found = tune(recipe, trials=14, out=tmp_path / "parts")
    assert found["trials"] == 14
    assert len(learned.epochs) == 14 + 14 + 2
    assert draws(tmp_path / "parts") == draws(tmp_path / "whole")


def _stop(learned, at: int, recipe) -> float:
    if len(learned.epochs) == at:
        raise KeyboardInterrupt
    return _Made.level(learned, recipe)


def test_a_trial_that_ends_its_process_is_given_up(recipe, tmp_path, learned):
    learned.errors += [SystemExit()] * 3  # nobody tells the study of it, as of a kill
    for _ in range(3):
        with pytest.raises(SystemExit):
            tune(recipe, trials=2, out=tmp_path / "tuned")
    found = tune(recipe, trials=2, out=tmp_path / "tuned")
    assert (found["trials"], found["failed"]) == (2, 1)
    assert "3 times" in pd.read_csv(tmp_path / "tuned/trials.csv")["reason"][0]
    failure = _draws_failed(found)
    assert failure.exit_code == 5
    assert "1 of 2 trials has no result" in str(failure)
    assert _draws_failed({**found, "failed": 0}) is None


@pytest.mark.parametrize("error", [KeyboardInterrupt, Terminated, BusyError])
def test_a_trial_that_is_interrupted_is_not_to_blame(recipe, tmp_path, learned, error):
    learned.errors += [error("the disk is full")] * 3
    for _ in range(3):
        with pytest.raises(error):
            tune(recipe, trials=2, out=tmp_path / "tuned")
    found = tune(recipe, trials=2, out=tmp_path / "tuned")
    assert (found["trials"], found["failed"]) == (2, 0)
    assert draws(tmp_path / "tuned")[0][0] == "complete"


def test_a_trial_that_lags_behind_is_pruned(recipe, tmp_path, learned):
    learned.level = lambda recipe: 5.0 if len(learned.epochs) > 6 else 2 - len(learned.epochs) / 10
    found = tune(recipe, trials=8, out=tmp_path / "tuned")
    assert found["pruned"] == 2
    assert learned.epochs == [4] * 6 + [2] * 2
    states = pd.read_csv(tmp_path / "tuned/trials.csv")["state"].tolist()
    assert states == ["complete"] * 6 + ["pruned"] * 2


def test_the_search_learns_where_to_look(recipe, tmp_path, learned):
    """Validation loss is lowest at a learning rate of 1e-3, and weight decay does not matter."""
    found = tune(recipe, trials=40, out=tmp_path / "tuned")
    assert abs(np.log10(found["best"]["learning_rate"]) + 3) < 0.1
    assert found["importance"]["learning_rate"] > 0.9
    assert found["validation"]["loss"] < 1.1


def test_the_same_settings_are_not_tried_twice(recipe, tmp_path, learned):
    recipe.write_text(recipe.read_text().replace(SEARCH, "search: {head.dropout: [0.1, 0.2]}\n"))
    found = tune(recipe, trials=7, out=tmp_path / "tuned")
    assert found["trials"] == 7
    assert len(learned.epochs) == 2


def test_nor_are_those_that_are_drawn_at_once(recipe, tmp_path, learned, monkeypatch):
    """Eight trials of two settings are no trials whose process ended."""
    from finetune.execution import tuning

    @contextmanager
    def eight(*given):
        with trying(*given) as (tries, _):
            yield tries, 8

    trying = tuning.trying
    monkeypatch.setattr(tuning, "trying", eight)
    recipe.write_text(recipe.read_text().replace(SEARCH, "search: {head.dropout: [0.1, 0.2]}\n"))
    found = tune(recipe, trials=8, out=tmp_path / "tuned")
    assert (found["trials"], found["failed"]) == (8, 0)
    assert len(learned.epochs) == 2


def test_a_trial_that_diverges_has_no_result_and_all_that_do_are_an_error(
    recipe, tmp_path, learned
):
    from finetune.training.fit import Diverged

    learned.errors += [Diverged("It diverged.")] * 2
    with pytest.raises(SomeCellsFailed, match=r"None of 2 trials has a result. It diverged."):
        tune(recipe, trials=2, out=tmp_path / "tuned")
    found = tune(recipe, trials=3, out=tmp_path / "tuned")
    assert (found["trials"], found["failed"]) == (3, 2)


def test_another_search_does_not_go_on_with_a_folder(recipe, tmp_path):
    with pytest.raises(SomeCellsFailed, match="higher --timeout"):
        tune(recipe, trials=2, timeout=0, out=tmp_path / "tuned")
    recipe.write_text(recipe.read_text().replace("1e-5", "1e-6"))
    with pytest.raises(UsageError, match="holds another search"):
        tune(recipe, trials=2, out=tmp_path / "tuned")


def test_data_and_precision_override_the_recipe(recipe, tmp_path, learned, photos):
    recipe.write_text(recipe.read_text().replace(str(photos), "nowhere"))
    tune(recipe, data=photos, precision="float32", trials=1, out=tmp_path / "tuned")
    best = load(tmp_path / "tuned/best.yaml", {})
    assert (best.data, best.precision) == (str(photos), "float32")
    recipe.write_text(recipe.read_text().replace(SEARCH, "search: {precision: [float32]}\n"))
    with pytest.raises(UsageError, match="precision is searched and given as --precision"):
        tune(recipe, data=photos, precision="float32", out=tmp_path / "other")


def test_folds_beside_a_search_are_warned_of(recipe, tmp_path, learned, capsys):
    recipe.write_text(recipe.read_text() + "folds: 3\n")
    tune(recipe, trials=1, out=tmp_path / "tuned", reporter=Reporter())
    assert "the accuracy over folds flatters a little" in capsys.readouterr().err


def test_a_search_without_trials_is_refused(recipe):
    with pytest.raises(UsageError, match="allowed are 1 and more"):
        tune(recipe, trials=0)


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
    done = finetune_here(*words, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert {"best", "trials", "pruned", "recipe"} <= set(found)
    assert "best of 2 trials (0 pruned, 0 failed)" in _tune(found)
