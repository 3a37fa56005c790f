"""`finetune compare`: many recipes, each extraction once, run in a warm worker, ranked in a
report.
"""

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any

from finetune.activations.remote import check_remote
from finetune.backend import load_keras
from finetune.data import catalog
from finetune.data.catalog import need_here
from finetune.data.dataset import Dataset
from finetune.errors import FinetuneError, UsageError
from finetune.execution.board import Board
from finetune.execution.places import opened
from finetune.execution.sharing import (
    cuts_together,
    in_order,
    pass_of,
    settled,
    sharing,
    trial_row,
    trial_settings,
)
from finetune.execution.worker import Job, Run
from finetune.files import commit_json, locked, make_folder
from finetune.model.backbones import INPUT
from finetune.model.weight_places import content_of
from finetune.progress import SILENT, Reporter
from finetune.recipe.matrix import Trial, collect
from finetune.recipe.recipe import missing_tracker
from finetune.runs.folder import RESULT, RunResult, finished_run
from finetune.runs.interruption import said_if_interrupted
from finetune.training.trackers import Tracker, tracked

Place = str | PathLike[str]

FAILURE = "failure.json"
_GAPS = (1.0, 2.0, 3.0, 5.0)  # points, of which a plan says what it takes to find them
_FINISHED = "finished trials are kept in"
_AGAIN = "Give the same command again to go on."


def compare(
    *recipes: Place,
    precision: str | None = None,
    track: str | None = None,
    margin: float | None = None,
    on: str = "local",
    out: Place = "compared",
    photos: bool = True,
    reporter: Reporter = SILENT,
) -> dict[str, Any]:
    """Run many recipes, share what they share, and say which differences are real.

    Trials run in a process of their own, which imports the calling script: call this below
    ``if __name__ == "__main__"``.

    Args:
        recipes: YAML files, or folders of them.
        precision, track: in place of what the recipes say. A tracker gets a parent run, whose
            children the trials are.
        margin: points of accuracy; differences within them do not matter, so that an interval
            inside them is told as no difference. The smallest of the recipes' margins if missing.
        on: where trials run: ``local``, a worker process on this machine; ``ray`` or
            ``ray://HOST:PORT``, a Ray cluster, see ``places.opened``.
        out: the comparison's folder, whose ``cells/NAME`` are the run folders of its trials; trials
            that have a result there, of the same recipe and photos, are not run again.
        photos: whether the report's galleries show photos, or only their names.
        reporter: of progress.

    Returns:
        What ``compare --json`` prints.

    Raises:
        UsageError: a mistake in any of the recipes, or ``on`` cannot be used.
        BusyError: another process works in ``out`` or in the folder of a trial, or the disk is
            full.
        A failing trial is no error: its row says why it failed.
    """
    trials = read_trials(recipes, precision, track)
    margin = _margin(trials, margin)
    check_remote()
    with said_if_interrupted(lambda: f"{_FINISHED} {out}. {_AGAIN}", reporter):
        return compare_trials(trials, Path(out), reporter, photos, margin, on)


def plan_compare(
    *recipes: Place,
    precision: str | None = None,
    margin: float | None = None,
    out: Place = "compared",
    reporter: Reporter = SILENT,
) -> dict[str, Any]:
    """What ``compare`` would do and cost, and which differences it could find, without doing it.

    An earlier comparison in ``out`` says how many photos two recipes differ on.
    """
    trials = read_trials(recipes, precision)
    gaps = sorted({*_GAPS, _margin(trials, margin)})
    for data in dict.fromkeys(trial.recipe.data for trial in trials):
        need_here(data)
    load_keras()
    from finetune.execution.foresight import needed
    from finetune.execution.plan import plan_trials

    plan = plan_trials(trials, reporter)
    return plan | {"needed": needed(trials, plan["test_photos"], gaps, Path(out))}


def _margin(trials: Sequence[Trial], margin: float | None) -> float:
    """Points of accuracy."""
    if margin is None:
        return min(trial.recipe.margin for trial in trials)
    if not 0 < margin <= 100:
        raise UsageError(f"--margin is {margin:g}; allowed: points of accuracy, above 0 to 100.")
    return margin


def read_trials(
    recipes: Sequence[Place], precision: str | None = None, track: str | None = None
) -> list[Trial]:
    """The trials of recipe files and folders of them, as they will be run."""
    trials = collect([Path(recipe) for recipe in recipes])
    given = {key: v for key, v in (("precision", precision), ("track", track)) if v}
    if problem := missing_tracker(track or "none"):
        raise UsageError(f"--{problem.replace(': ', ' ', 1)}.")
    return [
        replace(trial, recipe=settled(trial.recipe.model_copy(update=given))) for trial in trials
    ]


def compare_trials(
    trials: Sequence[Trial],
    out: Path,
    reporter: Reporter = SILENT,
    photos: bool = True,
    margin: float | None = None,
    on: str = "local",
) -> dict[str, Any]:
    """Run all trials that have no result yet, and report on all; see ``compare``."""
    from finetune.report.report import write_report

    with opened(on) as run, locked(out), _parents(trials, out, reporter) as parents:
        datasets = _datasets(trials)
        _run_trials(trials, out, datasets, parents, run, reporter)
        rows, results = _rows(trials, out)
        used = [entry for result in results if result for entry in result.entries.items()]
        extractions = len({pass_of(*entry) for entry in used if entry[1]["cut"] != INPUT})
        named = sorted({trial.recipe.data for trial in trials})
        roots = {
            data.digest: str(data.root)
            for data in datasets.values()
            if photos and isinstance(data, Dataset)
        }
        plan = {
            "cells": len(trials),
            "extractions": extractions,
            "data": named,
            "roots": roots,
            "margin": _margin(trials, margin) / 100,
            "overlaps": {result.split: vars(result) for result in results if result},
        }
        found = write_report(out, rows, plan)
        result = {"cells": rows, "extractions": extractions, **found}
        commit_json(out / "compare.json", result)
        for tracker in parents.values():
            tracker.finish({"trials": len(trials)}, out)
        return result


def _run_trials(
    trials: Sequence[Trial],
    out: Path,
    datasets: Mapping[tuple, Dataset | FinetuneError],
    parents: Mapping[str, Tracker],
    run: Run,
    reporter: Reporter,
) -> None:
    """Run what has no result yet, and leave a result or a failure in the folder of each trial."""
    board = Board(in_order(trials), reporter)
    together = cuts_together(trials)
    jobs = []
    contents = {name: content_of(name) for name in {settled(t.recipe).weights for t in trials}}
    with board.shown():
        for trial in board.trials:
            data = datasets[_data_key(trial)]
            folder = out / "cells" / trial.name
            if status := _status(trial, folder, data, contents):
                board.set(trial, status)
            elif isinstance(data, Dataset):
                parent = parents[trial.recipe.track].name
                jobs.append(Job(trial, folder, data, together[trial.name], parent))
        for job, outcome in run(jobs, board):
            board.set(job.trial, _fail(job.folder, *outcome) if outcome else "done")


@contextmanager
def _parents(
    trials: Sequence[Trial], out: Path, reporter: Reporter
) -> Iterator[Mapping[str, Tracker]]:
    """The parent run of each tracker that the trials write to."""
    with ExitStack() as stack:
        kinds = {trial.recipe.track for trial in trials}
        yield {kind: stack.enter_context(tracked(kind, out.name, reporter.warn)) for kind in kinds}


def _data_key(trial: Trial) -> tuple:
    return trial.recipe.data, trial.recipe.min_per_class, trial.recipe.groups


def _datasets(trials: Sequence[Trial]) -> dict[tuple, Dataset | FinetuneError]:
    """Each data set read once; one that cannot be read fails its own trials and no others."""
    found: dict[tuple, Dataset | FinetuneError] = {}
    for trial in trials:
        key = _data_key(trial)
        if key not in found:
            try:
                found[key] = catalog.read_dataset(*key)
            except FinetuneError as error:
                found[key] = error
    return found


def _status(
    trial: Trial, folder: Path, data: Dataset | FinetuneError, contents: Mapping[str, str]
) -> str:
    """The status that a trial has already, of the same recipe, photos and weights (``contents``, by
    their name); "" if it is to be run, for which its folder is made ready.
    """
    from finetune.runs.record import drop_checkpoints, same_recipe

    (folder / FAILURE).unlink(missing_ok=True)
    if isinstance(data, FinetuneError):
        return _fail(folder, "failed", str(data))
    recipe = settled(trial.recipe)
    is_same = same_recipe(folder / "recipe.yaml", recipe)
    result = finished_run(folder)
    given = (data.digest, contents[recipe.weights])
    if is_same and result and (result.listed, result.content) == given:
        drop_checkpoints(folder)  # who was killed right after the result left them
        return "done"
    is_damaged = not result and (folder / RESULT).exists()
    if folder.exists() and not result and (is_damaged or not is_same):
        with locked(folder):  # a finished run stays until its trial begins, see ``worker.work``
            shutil.rmtree(folder, ignore_errors=True)
    make_folder(folder)
    return ""


def _fail(folder: Path, status: str, reason: str) -> str:
    commit_json(folder / FAILURE, {"status": status, "reason": reason})
    return status


def _rows(
    trials: Sequence[Trial], out: Path
) -> tuple[list[dict[str, Any]], list[RunResult | None]]:
    """One row per trial for the report; costs are shared by the trials that used an extraction."""
    folders = [out / "cells" / trial.name for trial in trials]
    results = [None if (folder / FAILURE).exists() else finished_run(folder) for folder in folders]
    dumps = [result.to_json() if result else None for result in results]
    shared = sharing(dumps)
    rows = [
        trial_row(trial, dump, shared) if dump else trial_settings(trial) | _failure(folder)
        for trial, dump, folder in zip(trials, dumps, folders, strict=True)
    ]
    return rows, results


def _failure(folder: Path) -> dict[str, str]:
    with suppress(OSError, ValueError):
        return json.loads((folder / FAILURE).read_text(encoding="utf-8"))
    return {"status": "failed", "reason": f"its result in {folder} cannot be read"}
