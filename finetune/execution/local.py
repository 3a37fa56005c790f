"""A warm worker on this machine: a process that runs one trial after another."""

import multiprocessing
import os
import threading
import traceback
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

from rich.live import Live
from rich.table import Table

from finetune.data.dataset import Dataset
from finetune.errors import BusyError, FinetuneError
from finetune.progress import Reporter
from finetune.recipe.matrix import Trial

if TYPE_CHECKING:
    from finetune.execution.bench import Bench

Outcome = tuple[str, str]  # status and reason
Together = Mapping[int, tuple[str, ...]]

_bench: "Bench | None" = None  # of the worker process


class Worker:
    """A process in which TensorFlow is imported once; replaced when it dies, ended with its
    parent.
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

    def run(
        self,
        trial: Trial,
        folder: Path,
        dataset: Dataset | None = None,
        together: Together | None = None,
        parent: str = "",
    ) -> Outcome | None:
        """Run a trial; None if it is done, else status and reason.

        ``together``: cuts that other trials need of the same photos, see ``cuts_together``;
        ``parent`` is as for ``run_trial``.

        Raises:
            BusyError: another process works in the folder, or the disk is full.
        """
        if self._pool is None:
            # spawn: TensorFlow's threads do not survive a fork
            context = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(1, context, initializer=_begin)
        try:
            future: Future = self._pool.submit(
                _work, trial, folder, dataset, together or {}, parent
            )
            outcome = future.result()
        except BrokenProcessPool:
            self._pool = None
            reason = "the worker process died (out of memory, or killed); see"
            return "failed", f"{reason} {folder / 'log.txt'}"
        if outcome and outcome[0] == "busy":
            raise BusyError(outcome[1])
        return outcome


def _begin() -> None:
    """In the worker, first of all."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    from finetune.backend import load_keras

    load_keras()  # before all that imports Keras: it keeps TensorFlow quiet
    import tensorflow as tf

    from finetune.execution.bench import Bench

    tf.get_logger().setLevel("ERROR")  # that many models are traced in one process is the point
    global _bench
    _bench = Bench()


def _end_with_parent() -> None:
    """A parent that is killed cannot end its worker; its end of a pipe, or its handle, tells."""
    parent = multiprocessing.parent_process()
    if parent:
        parent.join()
        os._exit(1)  # nothing half-made is left: what is written is committed, and locks are freed


def _work(
    trial: Trial, folder: Path, dataset: Dataset | None, together: Together, parent: str = ""
) -> Outcome | None:
    """In the worker: one trial; everything that goes wrong becomes its outcome."""
    from finetune.execution.trial import run_trial
    from finetune.training.fit import Diverged

    assert _bench
    _bench.shared.together = together
    with (folder / "log.txt").open("a", encoding="utf-8") as log:
        try:
            run_trial(trial.recipe, folder, Reporter(file=log), dataset, _bench, parent=parent)
        except Diverged as error:
            return "diverged", str(error)
        except BusyError as error:
            return "busy", str(error)
        except FinetuneError as error:
            return "failed", str(error)
        except Exception as error:
            traceback.print_exc(file=log)
            return "failed", f"{type(error).__name__}: {error}"
    return None


@dataclass
class Board:
    """The live table of a comparison; plain lines where stderr is no terminal."""

    trials: Sequence[Trial]  # in the order in which they run
    reporter: Reporter
    status: dict[str, str] = field(default_factory=dict)
    since: float = 0.0
    _live: Live | None = None

    def set(self, trial: Trial, status: str) -> None:
        """Note a trial's state."""
        if status == "running":
            self.since = perf_counter()
        elif not self._live:
            self.reporter.say(f"{trial.name}: {status} ({perf_counter() - self.since:.1f} s)")
        self.status[trial.name] = status
        if self._live:
            self._live.update(self.table())

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Show the table while trials run."""
        if not self.reporter.live:
            yield
            return
        console = self.reporter.console
        with Live(console=console, get_renderable=self.table, refresh_per_second=2) as self._live:
            yield
        self._live = None

    def table(self) -> Table:
        """The trials around the running one, and how many are in which state."""
        states = [self.status.get(trial.name, "waiting") for trial in self.trials]
        title = ", ".join(f"{n} {state}" for state, n in Counter(states).items())
        table = Table(title=title, title_justify="left")
        table.add_column("trial", no_wrap=True)
        table.add_column("state")
        now = states.index("running") if "running" in states else len(states) - 1
        first = max(0, now - 8)
        shown = zip(self.trials[first : now + 8], states[first : now + 8], strict=True)
        for trial, state in shown:
            seconds = f" {perf_counter() - self.since:.0f} s" if state == "running" else ""
            table.add_row(trial.name, state + seconds, style=_STYLES.get(state))
        return table


_STYLES: dict[str, str] = {
    "running": "bold",
    "done": "green",
    "failed": "red",
    "diverged": "red",
    "waiting": "dim",
}
