"""`finetune tune`: the best settings of a recipe, sought on validation photos."""

from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

from finetune.activations.remote import check_remote
from finetune.backend import load_keras
from finetune.errors import UsageError, need
from finetune.execution.places import check_place
from finetune.progress import SILENT, Reporter
from finetune.recipe.search import read_search
from finetune.runs.interruption import said_if_interrupted

Place = str | PathLike[str]


def tune(
    recipe: Place | Mapping[str, Any],
    *,
    data: Place | None = None,
    precision: str | None = None,
    trials: int = 20,
    timeout: float | None = None,
    on: str = "local",
    out: Place = "tuned",
    reporter: Reporter = SILENT,
) -> dict[str, Any]:
    """Search the settings of a recipe on stored activations; test the best of them, once.

    Args:
        recipe: a YAML file with a ``search``, or a mapping of its keys.
        data, precision: override its keys.
        trials: how many to make.
        timeout: minutes after which no more are begun.
        on: where trials run: ``local``, this process; ``ray`` or ``ray://HOST:PORT``, as many at
            once as a Ray cluster has room for, see ``places.opened``.
        out: the folder; the same command again goes on with it.
        reporter: of progress.

    Returns:
        What ``tune --json`` prints: best (settings), trials, pruned, failed (draws that contradict
        each other among them), recipe (a file), run (the best one's folder), validation (of the
        chosen trial: loss, accuracy), expected (the same, corrected for having chosen the best),
        test, importance (setting -> share).

    Raises:
        UsageError: a mistake in the recipe, Optuna is not installed, or ``out`` holds another
            search.
        SomeCellsFailed: no trial has a result.
        BusyError: another process works in ``out``, or the disk is full.
    """
    given = {"data": None if data is None else str(data), "precision": precision}
    search = read_search(recipe, {key: value for key, value in given.items() if value is not None})
    if trials < 1:
        raise UsageError(f"trials is {trials}; allowed are 1 and more.")
    need("optuna", "tune")
    check_place(on)
    check_remote()
    saved = f"finished trials are kept in {out}. Give the same command again to go on."
    with said_if_interrupted(lambda: saved, reporter):
        load_keras()
        from finetune.execution.tuning import tune_recipe

        return tune_recipe(search, trials, timeout, Path(out), reporter, on)
