"""`--on ray`: parts of extractions and trials as tasks of a Ray cluster (Moritz et al., OSDI 2018).

Ray places the tasks, runs those of a dead worker or node again elsewhere, and gives work to a node
that is added. What is computed lies in folders that all nodes share, and nothing that is stored
is computed again: an interrupted comparison goes on from there.
"""

import os
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import finetune
from finetune.data.dataset import Dataset
from finetune.errors import BusyError, FinetuneError, UsageError
from finetune.execution import node, parts
from finetune.execution.board import Board
from finetune.execution.cluster import connected, cores, resources, sentence, slots
from finetune.execution.sharing import cuts_together, needs, settled
from finetune.execution.worker import CALLS, Job, Outcome, Run
from finetune.files import cache_dir, commit_text, expanded
from finetune.progress import Reporter, count
from finetune.recipe.matrix import Trial
from finetune.recipe.recipe import Recipe

if TYPE_CHECKING:
    from finetune.execution.attempt import Tried, Tries

_TRIES = 3  # of a task again, whose worker or node has died
_POLL_SECONDS = 0.5
# What tells a process where things are: a node looks where the driver does.
_PLACES = ("FINETUNE_CACHE", "FINETUNE_DATA_DIR", "FINETUNE_WEIGHTS_DIR", "KERAS_HOME")


@contextmanager
def opened(on: str) -> Iterator[Run]:
    """Runs the trials of a comparison on the cluster that ``on`` names, see ``places.opened``."""
    with connected(on) as ray:

        def run(jobs: Sequence[Job], board: Board) -> Iterator[tuple[Job, Outcome | None]]:
            jobs = [job._replace(folder=job.folder.absolute()) for job in jobs]
            if not jobs:
                return
            with _shared(ray, jobs) as common:
                tasks = _Tasks(ray, common, board, node.run_job)
                for job, ref in tasks.run(jobs):
                    yield job, _outcome(ray, ref, job)

        yield run


@contextmanager
def opened_for_tuning(on: str, out: Path, reporter: Reporter) -> Iterator[tuple["Tries", int]]:
    """Makes the trials of a study there, and says how many at once."""
    with connected(on) as ray:

        def tries(recipes: Sequence[Recipe], dataset: Dataset, finished: Sequence) -> list["Tried"]:
            names = [f"trial {n + 1} of {len(recipes)} at once" for n in range(len(recipes))]
            named = zip(names, recipes, strict=True)
            trials = [Trial(name, "tune", settled(recipe), {}) for name, recipe in named]
            together = cuts_together(trials)
            jobs = [Job(trial, out.absolute(), dataset, together[trial.name]) for trial in trials]
            found: dict[str, Tried] = {}
            if not jobs:
                return []
            board = Board(trials, reporter)
            with _shared(ray, jobs) as common:
                tasks = _Tasks(ray, common, board, node.run_attempt, finished)
                for job, ref in tasks.run(jobs):
                    found[job.trial.name] = _tried(ray, ref)
                    board.set(job.trial, "done")
            return [found[name] for name in names]

        yield tries, slots(ray)


@contextmanager
def _shared(ray: Any, jobs: Sequence[Job]) -> Iterator[node.Common]:
    """What all tasks are told, when every node has shown that it can work along.

    Raises:
        UsageError: one cannot.
    """
    given = {name: _absolute(os.environ[name]) for name in _PLACES if os.environ.get(name)}
    threads = str(cores(ray)[0])  # else every task takes all of its node's processors
    given |= {"OMP_NUM_THREADS": threads, "TF_NUM_INTRAOP_THREADS": threads}
    given |= {"TF_CPP_MIN_LOG_LEVEL": "3"}
    roots = {job.dataset.root for job in jobs if job.dataset}
    seen = {jobs[0].folder, *roots}
    mark = cache_dir().absolute() / f".nodes-{uuid.uuid4().hex}"
    if "://" not in given.get("FINETUNE_CACHE", ""):
        given["FINETUNE_CACHE"] = str(mark.parent)
        commit_text(mark, "removed when the command ends\n")
        seen.add(mark)
    common = node.Common(finetune.__version__, given, tuple(sorted(map(Path.absolute, seen))))
    try:
        _probe(ray, common)
        yield common
    finally:
        mark.unlink(missing_ok=True)


def _absolute(place: str) -> str:
    """A folder as every node finds it, whatever its working directory is; a URL as it is."""
    return place if "://" in place else str(expanded(place).absolute())


def _probe(ray: Any, common: node.Common) -> None:
    """Ask every node whether it has this package and sees the folders."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy as OnNode

    task = ray.remote(num_cpus=0)(node.missing)
    nodes = [found["NodeID"] for found in ray.nodes() if found["Alive"]]
    asked = [task.options(scheduling_strategy=OnNode(each, True)).remote(common) for each in nodes]
    try:
        problems = [problem for problem in ray.get(asked) if problem]
    except ray.exceptions.RayError as error:
        raise UsageError(
            f"The nodes of the Ray cluster cannot run this: {sentence(error)} Install "
            f"finetune-cut {common.version} on all of them."
        ) from error
    if problems:
        raise UsageError(problems[0])


class _Tasks:
    """The tasks of trials: one is submitted when the parts of activations that it needs are there.

    Args:
        ray: connected.
        common: what every task is told.
        board: shows the trials.
        function: what runs a trial on a node.
        given: its last argument.
    """

    def __init__(
        self,
        ray: Any,
        common: node.Common,
        board: Board,
        function: Callable[..., Any],
        given: Any = None,
    ) -> None:
        self.ray = ray
        self.common = common
        self.board = board
        self.function = function
        self.given = ray.put(given)
        self.cores, self.has_gpu = cores(ray)
        self.parts: dict[Any, parts.PassKey] = {}  # by reference, what is computed
        self.trials: dict[Any, Job] = {}
        self.rows = 0
        lasting = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)
        self.begun = lasting(node.Begun).remote()

    def run(self, jobs: Sequence[Job]) -> Iterator[tuple[Job, Any]]:
        """Yield each job with the reference of its result as it ends."""
        self._submit_parts(jobs)
        n = len(self.parts)
        left = Counter(self.parts.values())
        waiting = list(jobs)
        datasets = {id(job.dataset): job.dataset for job in jobs}
        stored = {key: self.ray.put(dataset) for key, dataset in datasets.items()}
        start = time.perf_counter()
        while waiting or self.trials:
            ready = [job for job in waiting if not any(left[key] for key in _keys(job))]
            for job in ready:
                waiting.remove(job)
                self._submit_trial(job, stored[id(job.dataset)])
            for ref in self._ended():
                if ref in self.parts:
                    left[self.parts.pop(ref)] -= 1
                    self._take(ref, n, start)
                else:
                    yield self.trials.pop(ref), ref

    def _options(self, recipe: Recipe) -> dict[str, Any]:
        taken = resources(recipe, self.cores, self.has_gpu)
        return {**taken, "max_retries": _TRIES, "max_calls": CALLS}

    def _submit_parts(self, jobs: Sequence[Job]) -> None:
        for key, pieces in parts.parts(jobs, parts.PHOTOS).items():
            task = self.ray.remote(**self._options(pieces[0].recipe))(node.extract_part)
            first = None
            for part in pieces:
                ref = task.remote(self.common, part, first)
                self.parts[ref] = key
                if part.calibration and first is None:
                    first = ref  # makes the int8 trunk that the others run

    def _submit_trial(self, job: Job, dataset: Any) -> None:
        task = self.ray.remote(**self._options(job.trial.recipe))(self.function)
        told = job._replace(dataset=None)
        ref = task.remote(self.common, told, dataset, self.begun, self.given)
        self.trials[ref] = job

    def _ended(self) -> list[Any]:
        """References that have a result; trials that have begun are noted."""
        ended, _ = self.ray.wait([*self.parts, *self.trials], timeout=_POLL_SECONDS)
        names = set(self.ray.get(self.begun.take.remote()))
        for job in self.trials.values():
            if job.trial.name in names:
                self.board.set(job.trial, "running")
        return ended

    def _take(self, ref: Any, n: int, start: float) -> None:
        """Count a part that has ended; one without rows is left to its trials."""
        try:
            rows = self.ray.get(ref)
        except self.ray.exceptions.RayError as error:
            rows = _lost(self.ray, error)
        if isinstance(rows, str):
            self.board.reporter.warn(f"a part of the activations was not computed: {rows}")
        else:
            self.rows += rows
        done = n - len(self.parts)
        self.board.note = f"activations: {done} of {count(n, 'part')}"
        if done == n and self.rows:
            seconds = time.perf_counter() - start
            self.board.reporter.say(
                f"activations: {count(n, 'part')}, {count(self.rows, 'row')} computed in "
                f"{seconds:.1f} s"
            )


def _keys(job: Job) -> set[parts.PassKey]:
    recipe = job.trial.recipe
    return {parts.pass_key(recipe, wanted) for wanted in needs(recipe)}


def _lost(ray: Any, error: Exception) -> str:
    """Why a task has no result: an error of its own, or of each worker that was given it."""
    if isinstance(error, ray.exceptions.RayTaskError):
        return f"{type(error.cause).__name__}: {sentence(error.cause)}"
    return f"its worker failed or was lost {_TRIES + 1} times: {sentence(error)}"


def _outcome(ray: Any, ref: Any, job: Job) -> Outcome | None:
    try:
        outcome = ray.get(ref)
    except ray.exceptions.RayError as error:
        return "failed", f"{_lost(ray, error)} See {job.folder / 'log.txt'}"
    if outcome and outcome[0] == "busy":
        raise BusyError(outcome[1])
    return outcome


def _tried(ray: Any, ref: Any) -> "Tried":
    from finetune.execution.attempt import Tried

    try:
        return ray.get(ref)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, FinetuneError):
            raise error.cause from error
        raise
    except ray.exceptions.RayError as error:
        return Tried(problem=_lost(ray, error))
