"""`tune`: an Optuna study over the search of a recipe, its trials judged on validation alone.

The study lies in ``study.db`` (SQLite, whose commits survive a killed process). Every draw is a
function of the seed and of what is finished, so that an interrupted study goes on as if it had not
been.
"""

import time
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd

from finetune.data import catalog
from finetune.data.dataset import Dataset
from finetune.errors import SomeCellsFailed, UsageError, need
from finetune.evaluation import plots
from finetune.evaluation.metrics import per_photo
from finetune.evaluation.optimism import corrected_choice
from finetune.execution.bench import Bench
from finetune.execution.sharing import settled
from finetune.execution.trial import run_trial, try_trial
from finetune.files import commit, commit_csv, commit_json, commit_text, digest_of, locked
from finetune.progress import Reporter, count
from finetune.recipe.search import Domain, Search
from finetune.runs.folder import read_run
from finetune.training.fit import Diverged

STUDY = "study.db"
_CHOSEN = "chosen"  # attribute of the study, the number of a trial; from then on no more are made
_REASON = "reason"  # attribute of a trial without result
_TRIES = 3  # of a trial that ends with the process
# A trial is stopped where its best validation loss so far is above the median of the others'; not
# in the first 5 trials, nor before its second epoch (steps count from 1).
_PRUNER = {"n_startup_trials": 5, "n_warmup_steps": 2, "n_min_trials": 2}


def tune_recipe(
    search: Search, trials: int, minutes: float | None, out: Path, reporter: Reporter
) -> dict[str, Any]:
    """Make the trials that are missing, choose, and open the test split for the chosen one.

    Args:
        search: the recipe and its domains.
        trials: how many are to be finished, earlier ones in ``out`` included.
        minutes: none is begun after so many.
        out: the folder.
        reporter: of progress.

    Returns:
        What ``tune --json`` prints.

    Raises:
        UsageError: ``out`` holds another search, or one that has chosen.
        SomeCellsFailed: no trial has a result.
    """
    first = search.recipe({key: domain.ends[0] for key, domain in search.domains.items()})
    with locked(out):
        dataset = catalog.read_dataset(first.data, first.min_per_class, first.groups)
        tuning = _Tuning(search, first.seed, dataset, out, reporter)
        tuning.make(trials, minutes)
        return tuning.finish()


class _Tuning:
    """A study, and what its trials stand on."""

    def __init__(
        self, search: Search, seed: int, dataset: Dataset, out: Path, reporter: Reporter
    ) -> None:
        self.optuna = need("optuna", "tune")
        self.search = search
        self.seed = seed
        self.dataset = dataset
        self.out = out
        self.reporter = reporter
        self.bench = Bench()
        self.study = self._open()

    def _open(self) -> Any:
        self.optuna.logging.set_verbosity(self.optuna.logging.WARNING)
        study = self.optuna.create_study(
            storage=f"sqlite:///{(self.out / STUDY).absolute()}",
            study_name="tune",
            pruner=self.optuna.pruners.MedianPruner(**_PRUNER),
            load_if_exists=True,
        )
        identity = digest_of([self.search.fields(), self.dataset.digest])
        if study.user_attrs.get("identity", identity) != identity:
            raise UsageError(
                f"{self.out} holds another search, or the same one on other photos. Choose another "
                "--out, or delete the folder."
            )
        study.set_user_attr("identity", identity)
        for trial in study.get_trials(states=[self.optuna.trial.TrialState.RUNNING]):
            study.tell(trial.number, state=self.optuna.trial.TrialState.FAIL)  # its process ended
        return study

    def finished(self, *states: str) -> list[Any]:
        """Trials with one of these states' names, or any that is not to be made again."""
        ended = [
            trial
            for trial in self.study.trials
            if trial.state.name in ("COMPLETE", "PRUNED") or _REASON in trial.user_attrs
        ]
        return [trial for trial in ended if not states or trial.state.name in states]

    def make(self, trials: int, minutes: float | None) -> None:
        """Finish trials until there are as many, or the time is over."""
        done = len(self.finished())
        if _CHOSEN in self.study.user_attrs:
            if trials > done:
                raise UsageError(
                    f"{self.out} has chosen the best of {count(done, 'trial')} and opened the test "
                    f"split for it: {trials} would open it again. Choose another --out; stored "
                    "activations are used again."
                )
            return
        start = time.monotonic()
        while done < trials and (minutes is None or time.monotonic() - start < 60 * minutes):
            self._make_one(done)
            done += 1

    def _make_one(self, done: int) -> None:
        """One trial, its draws a function of those that are finished."""
        seed = (self.seed * 9_973 + done) % 2**32
        self.study.sampler = self.optuna.samplers.TPESampler(seed=seed)
        trial = self.study.ask()
        settings = {key: _draw(trial, key, domain) for key, domain in self.search.domains.items()}
        self.reporter.say(f"trial {done + 1}: {_listed(settings)}")
        state = self.optuna.trial.TrialState
        alike = [old for old in self.study.trials[:-1] if old.params == trial.params]
        twins = [old for old in self.finished() if old.params == trial.params]
        try:
            if twins:  # the same recipe has the same result
                self._copy(twins[0], trial)
                return
            if len(alike) >= _TRIES:
                raise UsageError(f"its process ended {_TRIES} times while it ran (memory?)")
            loss = self._try(trial, settings)
        except (Diverged, UsageError) as error:
            self.reporter.warn(f"trial {done + 1} has no result: {error}")
            trial.set_user_attr(_REASON, str(error))
            self.study.tell(trial, state=state.FAIL)
            return
        self.study.tell(trial, loss, state=state.PRUNED if loss is None else state.COMPLETE)

    def _copy(self, twin: Any, trial: Any) -> None:
        if _REASON in twin.user_attrs:
            raise UsageError(twin.user_attrs[_REASON])
        value = twin.value if twin.state.name == "COMPLETE" else None
        self.study.tell(trial, value, state=twin.state)

    def _try(self, trial: Any, settings: dict[str, Any]) -> float | None:
        """Validation loss of a trial, its photos' losses stored; None if it was pruned."""
        watch = _Pruning(trial)
        probabilities, labels = try_trial(
            self.search.recipe(settings), self.dataset, self.bench, watch, self.reporter
        )
        if watch.pruned:
            return None
        table = per_photo(probabilities, labels)
        values = table[["loss", "correct"]].to_numpy(np.float32).T
        commit(self._validation(trial.number), lambda file: np.save(file, values))
        trial.set_user_attr("accuracy", float(table["correct"].mean()))
        return float(table["loss"].mean())

    def _validation(self, number: int) -> Path:
        """Where loss and correctness of each validation photo lie: float32 (2, n)."""
        folder = self.out / "validation"
        folder.mkdir(exist_ok=True)
        return folder / f"{number:05}.npy"

    def finish(self) -> dict[str, Any]:
        """Choose the best trial, measure it on the test photos, and write what was found."""
        finished = self.finished()
        complete = self.finished("COMPLETE")
        if not complete:
            reasons = [
                trial.user_attrs[_REASON] for trial in finished if _REASON in trial.user_attrs
            ]
            raise SomeCellsFailed(
                f"None of {count(len(finished), 'trial')} has a result. "
                f"{reasons[-1] if reasons else 'Give them more time: a higher --timeout.'}"
            )
        best = min(complete, key=lambda trial: trial.value)
        if self.search.values.get("folds"):
            self.reporter.warn(
                "The validation photos that chose the settings are among those that the folds "
                "test: the accuracy over folds flatters a little, the test accuracy does not."
            )
        self.study.set_user_attr(_CHOSEN, best.number)
        recipe = settled(self.search.recipe(best.params))
        commit_text(self.out / "best.yaml", recipe.dump())
        importance = self._importance(complete)
        self._write_trials(finished)
        run = self.out / "best"
        measured = read_run(run) or run_trial(
            recipe, run, self.reporter, self.dataset, self.bench, for_use=True
        )
        result = {
            "best": best.params,
            "trials": len(finished),
            "pruned": len(self.finished("PRUNED")),
            "failed": len(self.finished("FAIL")),
            "recipe": str(self.out / "best.yaml"),
            "run": str(run),
            "validation": {"loss": best.value, "accuracy": best.user_attrs["accuracy"]},
            "expected": self._corrected(complete),
            "test": {name: value for name, value in measured.test.items() if name != "per_class"},
            "importance": importance,
        }
        commit_json(self.out / "tuned.json", result)
        return result

    def _corrected(self, complete: list[Any]) -> dict[str, float]:
        files = [self._validation(trial.number) for trial in complete]
        stored = np.stack([np.load(file) for file in files if file.exists()])  # twins have none
        return corrected_choice(stored[:, 0], stored[:, 1] > 0, seed=self.seed)

    def _importance(self, complete: list[Any]) -> dict[str, float]:
        """Setting -> share of the variance of validation loss; empty where there is none."""
        if len({trial.value for trial in complete}) < 2:
            return {}
        forest = self.optuna.importance.FanovaImportanceEvaluator(seed=self.seed)
        found = self.optuna.importance.get_param_importances(self.study, evaluator=forest)
        shares = {key: round(float(share), 4) for key, share in found.items()}
        if shares:
            commit(self.out / "importance.png", lambda file: plots.importance(shares, file))
        return shares

    def _write_trials(self, finished: list[Any]) -> None:
        rows = [
            {
                "trial": number + 1,
                "state": trial.state.name.lower(),
                **trial.params,
                "validation_loss": trial.value,
                "validation_accuracy": trial.user_attrs.get("accuracy"),
                "epochs": len(trial.intermediate_values),
                "seconds": trial.duration.total_seconds(),
                "reason": trial.user_attrs.get(_REASON),
            }
            for number, trial in enumerate(finished)
        ]
        commit_csv(self.out / "trials.csv", pd.DataFrame(rows))


class _Pruning(keras.callbacks.Callback):
    """Reports validation loss by epoch, and ends the training of a trial that lags behind."""

    def __init__(self, trial: Any) -> None:
        super().__init__()
        self.pruned = False
        self._trial = trial

    def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        """Called after the history has taken the epoch in."""
        self._trial.report(logs["val_loss"], epoch + 1)
        if self._trial.should_prune() and not self.model.stop_training:
            self.pruned = True
            self.model.stop_training = True


def _draw(trial: Any, key: str, domain: Domain) -> Any:
    if domain.choices:
        return trial.suggest_categorical(key, list(domain.choices))
    if domain.whole:
        return trial.suggest_int(key, int(domain.low), int(domain.high), log=domain.log)
    return trial.suggest_float(key, domain.low, domain.high, log=domain.log)


def _listed(settings: dict[str, Any]) -> str:
    values = {
        key: f"{value:.3g}" if isinstance(value, float) else value
        for key, value in settings.items()
    }
    return ", ".join(f"{key} {value}" for key, value in values.items())
