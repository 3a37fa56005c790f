"""`--on ray`: parts of extractions and trials as tasks of a Ray cluster (Moritz et al., OSDI 2018).

Ray places the tasks, runs those of a dead worker or node again elsewhere, and gives work to a node
that is added. What is computed lies in folders that all nodes share, and nothing that is stored
is computed again: an interrupted comparison goes on from there.
"""

import os
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import finetune
from finetune.errors import BusyError, UsageError
from finetune.execution import node, parts
from finetune.execution.board import Board
from finetune.execution.cluster import connect, cores, resources, sentence
from finetune.execution.sharing import needs
from finetune.execution.worker import CALLS, Job, Outcome, Run
from finetune.files import cache_dir, commit_text
from finetune.progress import count
from finetune.recipe.recipe import Recipe

_TRIES = 3  # of a task again, whose worker or node has died
_POLL_SECONDS = 0.5
# What tells a process where things are: a node looks where the driver does.
_PLACES = ("FINETUNE_DATA_DIR", "FINETUNE_WEIGHTS_DIR", "KERAS_HOME")


@contextmanager
def opened(on: str) -> Iterator[Run]:
    """Runs jobs on the cluster that ``on`` names, see ``places.opened``."""
    ray = connect(on)
    try:
        yield partial(_run, ray)
    finally:
        ray.shutdown()


def _run(ray: Any, jobs: Sequence[Job], board: Board) -> Iterator[tuple[Job, Outcome | None]]:
    if not jobs:
        return
    jobs = [job._replace(folder=job.folder.absolute()) for job in jobs]
    mark = cache_dir().absolute() / f".nodes-{uuid.uuid4().hex}"
    commit_text(mark, "removed when the comparison ends\n")
    try:
        given = {name: os.environ[name] for name in _PLACES if name in os.environ}
        given |= {"FINETUNE_CACHE": str(mark.parent), "TF_CPP_MIN_LOG_LEVEL": "3"}
        roots = {job.dataset.root.absolute() for job in jobs if job.dataset}
        seen = (mark, jobs[0].folder, *sorted(roots))
        common = node.Common(finetune.__version__, given, seen)
        _probe(ray, common)
        yield from _Tasks(ray, common, board).run(jobs)
    finally:
        mark.unlink(missing_ok=True)


def _probe(ray: Any, common: node.Common) -> None:
    """Ask every node whether it has this package and sees the folders.

    Raises:
        UsageError: one has not, or does not.
    """
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
    """A comparison's tasks: a trial is submitted when the parts that it needs have ended."""

    def __init__(self, ray: Any, common: node.Common, board: Board) -> None:
        self.ray = ray
        self.common = common
        self.board = board
        self.cores, self.has_gpu = cores(ray)
        self.parts: dict[Any, parts.PassKey] = {}  # by reference, what is computed
        self.trials: dict[Any, Job] = {}
        lasting = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)
        self.begun = lasting(node.Begun).remote()

    def run(self, jobs: Sequence[Job]) -> Iterator[tuple[Job, Outcome | None]]:
        """Yield each job with its outcome as it ends."""
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
                    self._report(n, start)
                else:
                    job = self.trials.pop(ref)
                    yield job, self._outcome(ref, job)

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
        task = self.ray.remote(**self._options(job.trial.recipe))(node.run_job)
        ref = task.remote(self.common, job._replace(dataset=None), dataset, self.begun)
        self.trials[ref] = job

    def _ended(self) -> list[Any]:
        """References that have a result; trials that have begun are noted."""
        ended, _ = self.ray.wait([*self.parts, *self.trials], timeout=_POLL_SECONDS)
        names = set(self.ray.get(self.begun.take.remote()))
        for job in self.trials.values():
            if job.trial.name in names:
                self.board.set(job.trial, "running")
        return ended

    def _report(self, n: int, start: float) -> None:
        done = n - len(self.parts)
        self.board.note = f"activations: {done} of {count(n, 'part')}"
        if done == n and not self.board.reporter.live:
            seconds = time.perf_counter() - start
            self.board.reporter.say(f"activations: {count(n, 'part')} in {seconds:.1f} s")

    def _outcome(self, ref: Any, job: Job) -> Outcome | None:
        try:
            outcome = self.ray.get(ref)
        except self.ray.exceptions.RayError as error:
            log = job.folder / "log.txt"
            return "failed", f"its worker was lost {_TRIES + 1} times ({sentence(error)}); {log}"
        if outcome and outcome[0] == "busy":
            raise BusyError(outcome[1])
        return outcome


def _keys(job: Job) -> set[parts.PassKey]:
    recipe = job.trial.recipe
    return {parts.pass_key(recipe, wanted) for wanted in needs(recipe)}
