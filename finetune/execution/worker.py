"""What a worker process does, wherever it was started: trials, one after another, with much kept.

A worker is replaced after ``CALLS`` of them, so that what a training leaves in its process cannot
add up; docs/reliability.md has what was measured.
"""

import shutil
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from finetune.data.dataset import Dataset
from finetune.errors import BusyError, FinetuneError
from finetune.execution.board import Board
from finetune.files import locked, make_folder
from finetune.progress import Reporter
from finetune.recipe.matrix import Trial
from finetune.runs.folder import RESULT

if TYPE_CHECKING:
    from finetune.execution.bench import Bench

CALLS = 50

Outcome = tuple[str, str]  # status and reason
Together = Mapping[int, tuple[str, ...]]


class Job(NamedTuple):
    """A trial to be run.

    Attributes:
        trial: with its recipe settled.
        folder: its run folder, which exists.
        dataset: its photos; None reads them.
        together: cuts that other trials need of the same photos, see ``cuts_together``.
        parent: as for ``run_trial``.
    """

    trial: Trial
    folder: Path
    dataset: Dataset | None = None
    together: Together | None = None
    parent: str = ""


# Runs jobs, notes on the board which have begun, and yields each with its outcome as it ends.
Run = Callable[[Sequence[Job], Board], Iterator[tuple[Job, Outcome | None]]]

_bench: "Bench | None" = None


def bench() -> "Bench":
    """What this process keeps from trial to trial; the first call imports TensorFlow."""
    global _bench
    if _bench is None:
        from finetune.backend import load_keras

        load_keras()  # before all that imports Keras: it keeps TensorFlow quiet
        import tensorflow as tf

        from finetune.execution.bench import Bench

        tf.get_logger().setLevel("ERROR")  # many models are traced in one process on purpose
        _bench = Bench()
    return _bench


def _make_way(folder: Path) -> None:
    """A finished run of other settings, photos or weights goes when its trial begins, not before:
    a comparison that is interrupted has lost no more than it began.
    """
    if (folder / RESULT).exists():
        with locked(folder):
            shutil.rmtree(folder, ignore_errors=True)
        make_folder(folder)


def work(job: Job) -> Outcome | None:
    """Run a trial; everything that goes wrong becomes its outcome. None if it is done."""
    own = bench()
    from finetune.execution.trial import run_trial
    from finetune.training.fit import Diverged

    own.shared.together = job.together or {}
    try:
        _make_way(job.folder)
    except BusyError as error:
        return "busy", str(error)
    with (job.folder / "log.txt").open("a", encoding="utf-8") as log:
        reporter = Reporter(file=log)
        try:
            run_trial(job.trial.recipe, job.folder, reporter, job.dataset, own, parent=job.parent)
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
