"""One trial of `tune`, wherever it runs: drawn, trained, judged on validation photos, perhaps
pruned.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np

from finetune.data.dataset import Dataset
from finetune.errors import UsageError, need
from finetune.evaluation.metrics import per_photo
from finetune.execution.bench import Bench
from finetune.execution.trial import try_trial
from finetune.progress import SILENT, Reporter
from finetune.recipe.recipe import Recipe
from finetune.recipe.search import Domain
from finetune.training.fit import Diverged
from finetune.training.losses import of_photos

# A trial is stopped where its best validation loss so far is above the median of the others'; not
# in the first 5 trials, nor before its second epoch (steps count from 1).
_PRUNER = {"n_startup_trials": 5, "n_warmup_steps": 2, "n_min_trials": 2}


class Tried(NamedTuple):
    """What became of a trial.

    Attributes:
        losses: validation loss of each epoch of the tail.
        scores: loss and correctness of each validation photo, float64 (2, n); None if it was
            pruned, or has no result.
        problem: why it has none.
    """

    losses: tuple[float, ...] = ()
    scores: np.ndarray | None = None
    problem: str = ""


def draw(trial: Any, key: str, domain: Domain) -> Any:
    """What Optuna's trial takes of a domain."""
    if domain.choices:
        return trial.suggest_categorical(key, list(domain.choices))
    if domain.whole:
        return trial.suggest_int(key, int(domain.low), int(domain.high), log=domain.log)
    return trial.suggest_float(key, domain.low, domain.high, log=domain.log)


def listed(settings: dict[str, Any]) -> str:
    """What was drawn, for people."""
    values = {
        key: f"{value:.3g}" if isinstance(value, float) else value
        for key, value in settings.items()
    }
    return ", ".join(f"{key} {value}" for key, value in values.items())


def attempt(
    recipe: Recipe,
    dataset: Dataset,
    finished: Sequence[Any],
    bench: Bench,
    reporter: Reporter = SILENT,
) -> Tried:
    """Train one recipe; it is pruned by comparison with earlier trials.

    Args:
        recipe: fully resolved.
        dataset: the photos.
        finished: Optuna's record of each trial that has a result.
        bench: what earlier trials of this process left.
        reporter: of progress.
    """
    optuna = need("optuna", "tune")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(pruner=optuna.pruners.MedianPruner(**_PRUNER))
    # The loss that is watched is the recipe's own: focal loss is several times smaller.
    study.add_trials([t for t in finished if t.params.get("loss", recipe.loss) == recipe.loss])
    watch = _Pruning(study.ask())
    try:
        probabilities, labels = try_trial(recipe, dataset, bench, watch, reporter)
    except (Diverged, UsageError) as error:
        return Tried(tuple(watch.losses), None, str(error))
    if watch.pruned:
        return Tried(tuple(watch.losses))
    table = per_photo(probabilities, labels)
    return Tried(tuple(watch.losses), table[["loss", "correct"]].to_numpy(float).T)


# Trains recipes on a data set, beside the finished trials of the study; in order.
Tries = Callable[[Sequence[Recipe], Dataset, Sequence[Any]], Sequence[Tried]]


@contextmanager
def trying(on: str, bench: Bench, out: Path, reporter: Reporter) -> Iterator[tuple[Tries, int]]:
    """What makes trials where ``on`` says, see ``places.opened``, and how many at once."""
    if on != "local":
        from finetune.execution.ray import opened_for_tuning

        with opened_for_tuning(on, out, reporter) as tries:
            yield tries
        return

    def here(recipes: Sequence[Recipe], dataset: Dataset, finished: Sequence[Any]) -> list[Tried]:
        return [attempt(recipe, dataset, finished, bench, reporter) for recipe in recipes]

    yield here, 1


class _Pruning(keras.callbacks.Callback):
    """Keeps validation loss by epoch, and ends the training of a trial that lags behind."""

    def __init__(self, trial: Any) -> None:
        super().__init__()
        self.pruned = False
        self.losses: list[float] = []
        self._trial = trial

    def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        """Called after the history has taken the epoch in."""
        loss = float(of_photos(logs)["val_loss"])
        self.losses.append(loss)
        self._trial.report(loss, len(self.losses))
        if self._trial.should_prune() and not self.model.stop_training:
            self.pruned = True
            self.model.stop_training = True
