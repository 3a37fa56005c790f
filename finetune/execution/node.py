"""What a node of a Ray cluster does for the driver of a comparison: parts and trials."""

import os
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import finetune
from finetune.errors import FinetuneError, UsageError
from finetune.execution.parts import Part
from finetune.execution.worker import Job, Outcome, bench, work
from finetune.progress import SILENT

if TYPE_CHECKING:
    from finetune.execution.attempt import Tried

_POLL_SECONDS = 0.5
_BUSY_SECONDS = 60.0  # a trial's folder may still be held by the dying process of a first try


class Common(NamedTuple):
    """What every task is told.

    Attributes:
        version: of this package.
        environment: variables to set.
        seen: files that every node must see.
    """

    version: str
    environment: dict[str, str]
    seen: tuple[Path, ...]


class Begun:
    """Names of trials that have begun, for the driver's table."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def add(self, name: str) -> None:
        self.names.append(name)

    def take(self) -> list[str]:
        names, self.names = self.names, []
        return names


def missing(common: Common) -> str:
    """What keeps this node from working along; "" if nothing does."""
    node = socket.gethostname()
    if finetune.__version__ != common.version:
        return f"{node} has finetune {finetune.__version__}; the driver has {common.version}."
    unseen = [str(path) for path in common.seen if not path.exists()]
    if unseen:
        return (
            f"{node} does not see {unseen[0]}. The photos, FINETUNE_CACHE and --out must lie in "
            "folders that all nodes of the Ray cluster share under the same names."
        )
    return ""


def _settle(common: Common) -> None:
    """Make this process one that works for the driver.

    Raises:
        UsageError: see ``missing``.
    """
    if problem := missing(common):
        raise UsageError(problem)
    os.environ.update(common.environment)
    bench()


def extract_part(common: Common, part: Part, _: Any) -> int | str:
    """Store the rows of a part; how many were computed, or why they are for its trials to compute,
    who will meet the same error.
    """
    from finetune.activations.rows import close_shards

    try:
        _settle(common)
        _, cache = bench().prepare(part.recipe, part.classes, SILENT)
        cache.trunk.calibration = part.calibration
        bench().shared.together = {min(part.view, 1): part.cuts}
        for cut in part.cuts:
            cache.rows(part.photos, cut, part.view, in_parts=True)
        computed = cache.computed
    except FinetuneError as error:
        return str(error)
    finally:
        close_shards()
    return computed


def run_job(common: Common, job: Job, dataset: Any, begun: Any, _: Any) -> Outcome | None:
    """Run a trial of a comparison, see ``worker.work``."""
    try:
        _settle(common)
    except UsageError as error:
        return "failed", str(error)
    begun.add.remote(job.trial.name)
    deadline = time.monotonic() + _BUSY_SECONDS
    while True:
        outcome = work(job._replace(dataset=dataset))
        is_busy = outcome is not None and outcome[0] == "busy"
        if not is_busy or time.monotonic() > deadline:
            return outcome
        time.sleep(_POLL_SECONDS)


def run_attempt(common: Common, job: Job, dataset: Any, begun: Any, finished: Any) -> "Tried":
    """Make a trial of a study, see ``attempt``."""
    _settle(common)
    from finetune.execution.attempt import attempt

    begun.add.remote(job.trial.name)
    bench().shared.together = job.together or {}
    return attempt(job.trial.recipe, dataset, finished, bench())
