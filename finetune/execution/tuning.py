"""`tune`: an Optuna study over the search of a recipe, its trials judged on validation alone.

The study lies in ``study.db`` (SQLite, whose commits survive a killed process). Every draw is a
function of the seed and of what is finished, so that an interrupted study goes on as if it had not
been.
"""

import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from finetune.data import catalog
from finetune.data.dataset import Dataset
from finetune.data.overlap import look_alikes
from finetune.errors import FinetuneError, SomeCellsFailed, Terminated, UsageError, need
from finetune.evaluation import plots
from finetune.evaluation.optimism import corrected_choice
from finetune.execution.attempt import Tried, Tries, draw, listed, trying
from finetune.execution.bench import Bench
from finetune.execution.crossing import check_folds
from finetune.execution.sharing import settled
from finetune.execution.trial import run_trial
from finetune.files import commit, commit_csv, commit_json, commit_text, digest_of, locked
from finetune.model.weight_places import content_of
from finetune.progress import Reporter, count
from finetune.recipe.recipe import Recipe
from finetune.recipe.search import Domain, Search
from finetune.runs.folder import read_run

STUDY = "study.db"
_CHOSEN = "chosen"  # attribute of the study, the number of a trial; from then on no more are made
_REASON = "reason"  # attribute of a trial without result
_INTERRUPTED = "interrupted"  # attribute of a trial that is not to blame for its end
_TRIES = 3  # of a trial that ends with the process
_ENDED = f"its process ended {_TRIES} times while it ran (memory?)"


def tune_recipe(
    search: Search,
    trials: int,
    minutes: float | None,
    out: Path,
    reporter: Reporter,
    on: str = "local",
) -> dict[str, Any]:
    """Make the trials that are missing, choose, and open the test split for the chosen one.

    Args:
        search: the recipe and its domains.
        trials: how many are to be finished, earlier ones in ``out`` included.
        minutes: none is begun after so many.
        out: the folder.
        reporter: of progress.
        on: see ``places.opened``. Trials that run at once are drawn at once, so that where there
            is room for several the draws are others than on one machine.

    Returns:
        What ``tune --json`` prints.

    Raises:
        UsageError: ``out`` holds another search, or one that has chosen; or ``on`` cannot be used.
        SomeCellsFailed: no trial has a result.
    """
    first = search.recipe({key: domain.ends[0] for key, domain in search.domains.items()})
    bench = Bench()
    with trying(on, bench, out, reporter) as (tries, at_once), locked(out):
        dataset = catalog.read_dataset(first.data, first.min_per_class, first.groups)
        if first.folds:  # of the chosen run: now, and not after hours of trials
            check_folds(first, dataset, look_alikes(dataset, reporter) or [])
        tuning = _Tuning(search, first.seed, dataset, out, reporter, bench)
        tuning.make(trials, minutes, tries, at_once)
        return tuning.finish()


class _Tuning:
    """A study, and what its trials stand on."""

    def __init__(
        self,
        search: Search,
        seed: int,
        dataset: Dataset,
        out: Path,
        reporter: Reporter,
        bench: Bench,
    ) -> None:
        self.optuna = need("optuna", "tune")
        self.search = search
        self.seed = seed
        self.dataset = dataset
        self.out = out
        self.reporter = reporter
        self.bench = bench
        self.study = self._open()

    def _open(self) -> Any:
        self.optuna.logging.set_verbosity(self.optuna.logging.WARNING)
        study = self.optuna.create_study(
            storage=f"sqlite:///{(self.out / STUDY).absolute()}",
            study_name="tune",
            load_if_exists=True,
        )
        searched = self.search.domains.get("weights", Domain()).choices
        weights = map(content_of, map(str, searched or [self.search.values.get("weights", "")]))
        identity = digest_of([self.search.fields(), self.dataset.digest, *filter(None, weights)])
        if study.user_attrs.get("identity", identity) != identity:
            raise UsageError(
                f"{self.out} holds another search, or the same one on other photos or weights. "
                "Choose another --out, or delete the folder."
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

    def make(self, trials: int, minutes: float | None, tries: Tries, at_once: int) -> None:
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
            n = min(at_once, trials - done)
            self._make(done, n, tries)
            done += n

    def _make(self, done: int, n: int, tries: Tries) -> None:
        """Some trials, their draws a function of those that are finished before."""
        to_train: list[tuple[Any, Recipe]] = []
        again = []
        for number in range(done, done + n):
            trial, settings = self._ask(number)
            if trial.params in [other.params for other, _ in to_train]:
                again.append(trial)
            elif not self._is_told(trial):
                try:
                    to_train.append((trial, self.search.recipe(settings)))
                except UsageError as error:
                    self._tell(trial, Tried(problem=str(error)))
        complete = self.finished("COMPLETE")
        recipes = [recipe for _, recipe in to_train]
        try:
            found = tries(recipes, self.dataset, complete)
        except (KeyboardInterrupt, Terminated, FinetuneError):
            self._interrupt([*(trial for trial, _ in to_train), *again])
            raise
        for (trial, _), tried in zip(to_train, found, strict=True):
            self._tell(trial, tried)
        for trial in again:
            self._is_told(trial)

    def _interrupt(self, trials: list[Any]) -> None:
        """End trials that a signal or a full disk has stopped, so that they are made again."""
        with suppress(Exception):  # the full disk: what stopped them is to be reported
            for trial in trials:
                trial.set_user_attr(_INTERRUPTED, True)
                self.study.tell(trial, state=self.optuna.trial.TrialState.FAIL)

    def _ask(self, number: int) -> tuple[Any, dict[str, Any]]:
        """A new trial and its settings."""
        seed = (self.seed * 9_973 + number) % 2**32
        self.study.sampler = self.optuna.samplers.TPESampler(seed=seed)
        trial = self.study.ask()
        settings = {key: draw(trial, key, domain) for key, domain in self.search.domains.items()}
        self.reporter.say(f"trial {number + 1}: {listed(settings)}")
        return trial, settings

    def _is_told(self, trial: Any) -> bool:
        """Tell the result of a trial that needs no training, if it is one: the same settings have
        the same result, and what ended its process again and again has none.
        """
        twin = next((old for old in self.finished() if old.params == trial.params), None)
        failed = self.study.get_trials(states=[self.optuna.trial.TrialState.FAIL])
        ended = [old for old in failed if _INTERRUPTED not in old.user_attrs]
        has_ended = sum(old.params == trial.params for old in ended) >= _TRIES
        if twin and _REASON not in twin.user_attrs:
            value = twin.value if twin.state.name == "COMPLETE" else None
            self.study.tell(trial, value, state=twin.state)
        elif twin or has_ended:
            problem = twin.user_attrs[_REASON] if twin else _ENDED
            self._tell(trial, Tried(problem=problem))
        return bool(twin or has_ended)

    def _tell(self, trial: Any, tried: Tried) -> None:
        """Put a trial's result into the study."""
        state = self.optuna.trial.TrialState
        for step, loss in enumerate(tried.losses, start=1):
            trial.report(loss, step)
        if tried.problem:
            self.reporter.warn(f"{listed(trial.params)}: no result: {tried.problem}")
            trial.set_user_attr(_REASON, tried.problem)
            self.study.tell(trial, state=state.FAIL)
        elif tried.scores is None:
            self.study.tell(trial, state=state.PRUNED)
        else:
            scores = tried.scores
            kept = scores.astype(np.float32)
            commit(self._validation(trial.number), lambda file: np.save(file, kept))
            loss, accuracy = map(float, scores.mean(axis=1))
            trial.set_user_attr("accuracy", accuracy)
            self.study.tell(trial, loss)

    def _validation(self, number: int) -> Path:
        """Where loss and correctness of each validation photo lie: float32 (2, n)."""
        return self.out / "validation" / f"{number:05}.npy"

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
