"""A warm worker on this machine: a process that runs one trial after another."""

import multiprocessing
import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager

from finetune.errors import BusyError
from finetune.execution.board import Board
from finetune.execution.worker import CALLS, Job, Outcome, Run, bench, work


class Worker:
    """A process in which TensorFlow is imported once; replaced when it dies and after ``CALLS``
    trials, ended with its parent.
    """

    def __init__(self) -> None:
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool:
            for process in list(self._pool._processes.values()):  # Ctrl-C must not wait for a trial
                process.terminate()
            self._pool.shutdown(wait=True, cancel_futures=True)

    def run(self, job: Job) -> Outcome | None:
        """Run a trial; None if it is done, else status and reason.

        Raises:
            BusyError: another process works in the folder, or the disk is full.
        """
        if self._pool is None:
            # spawn: TensorFlow's threads do not survive a fork
            context = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(
                1, context, initializer=_begin, max_tasks_per_child=CALLS
            )
        try:
            outcome = self._pool.submit(work, job).result()
        except BrokenProcessPool:
            self._pool = None
            reason = "the worker process died (out of memory, or killed); see"
            return "failed", f"{reason} {job.folder / 'log.txt'}"
        if outcome and outcome[0] == "busy":
            raise BusyError(outcome[1])
        return outcome


@contextmanager
def opened() -> Iterator[Run]:
    """Runs jobs one after another in one worker."""
    with Worker() as worker:

        def run(jobs: Sequence[Job], board: Board) -> Iterator[tuple[Job, Outcome | None]]:
            for job in jobs:
                board.set(job.trial, "running")
                yield job, worker.run(job)

        yield run


def _begin() -> None:
    """In the worker, first of all."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    bench()


def _end_with_parent() -> None:
    """A parent that is killed cannot end its worker; its end of a pipe, or its handle, tells."""
    parent = multiprocessing.parent_process()
    if parent:
        parent.join()
        os._exit(1)  # nothing half-made is left: what is written is committed, and locks are freed
