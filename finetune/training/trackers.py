"""Experiment trackers: every finished epoch, the recipe, final figures and files of a run.

Nothing here is imported, and no socket is opened, unless a recipe says ``track``. MLflow writes to
``mlruns/`` in the working folder, or where ``MLFLOW_TRACKING_URI`` says; Weights & Biases writes to
``wandb/`` and stays offline unless ``WANDB_MODE`` says otherwise.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from finetune.errors import FinetuneError, UsageError, need

PROJECT = "finetune"
_NOT_EPOCHS = ("phase", "epoch")


class Tracker(Protocol):
    """One run as a tracker knows it."""

    @property
    def name(self) -> str:
        """By which other runs can call this one their parent."""

    def log(self, figures: Mapping[str, float], step: int) -> None:
        """Figures of one step."""

    def finish(self, figures: Mapping[str, float], folder: Path | None) -> None:
        """Final figures, and the files of a run folder."""

    def close(self, has_failed: bool) -> None:
        """Nothing more comes."""


class _Nothing:
    name = ""

    def log(self, figures: Mapping[str, float], step: int) -> None: ...

    def finish(self, figures: Mapping[str, float], folder: Path | None) -> None: ...

    def close(self, has_failed: bool) -> None: ...


class _Mlflow:
    def __init__(self, name: str, settings: Mapping[str, Any], parent: str) -> None:
        # Both are read when mlflow is imported; without them it reports its use, and from version
        # 3.7 on it refuses the file store.
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        mlflow = need("mlflow", "mlflow")
        place = os.environ.get("MLFLOW_TRACKING_URI") or Path("mlruns").absolute().as_uri()
        self._client = mlflow.MlflowClient(place)
        project = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        found = self._client.get_experiment_by_name(project)
        experiment = found.experiment_id if found else self._client.create_experiment(project)
        tags = {"mlflow.parentRunId": parent} if parent else {}
        self._run = self._client.create_run(experiment, run_name=name, tags=tags)
        self.name = self._run.info.run_id
        for key, value in settings.items():
            self._client.log_param(self.name, key, value)

    def log(self, figures: Mapping[str, float], step: int) -> None:
        for key, value in figures.items():
            self._client.log_metric(self.name, key, value, step=step)

    def finish(self, figures: Mapping[str, float], folder: Path | None) -> None:
        self.log(figures, 0)
        for file in _files(folder):
            self._client.log_artifact(self.name, str(file))

    def close(self, has_failed: bool) -> None:
        self._client.set_terminated(self.name, "FAILED" if has_failed else "FINISHED")


class _Wandb:
    def __init__(self, name: str, settings: Mapping[str, Any], parent: str) -> None:
        os.environ.setdefault("WANDB_MODE", "offline")
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        os.environ.setdefault("WANDB_SILENT", "true")
        self._wandb = need("wandb", "wandb")
        project = os.environ.get("WANDB_PROJECT", PROJECT)
        self._run = self._wandb.init(
            project=project,
            name=name,
            group=parent or None,
            config=dict(settings),
            reinit="create_new",
        )
        self.name = name  # W&B knows groups of runs, no parents

    def log(self, figures: Mapping[str, float], step: int) -> None:
        self._run.log(dict(figures))

    def finish(self, figures: Mapping[str, float], folder: Path | None) -> None:
        self._run.summary.update(dict(figures))
        if folder is None:
            return
        artifact = self._wandb.Artifact(f"run-{self._run.id}", type="run")
        for file in _files(folder):
            artifact.add_file(str(file))
        self._run.log_artifact(artifact)

    def close(self, has_failed: bool) -> None:
        self._run.finish(exit_code=int(has_failed))


class _Warning:
    """A tracker whose failure is warned of: hours of training do not end with a server's rest."""

    def __init__(self, kind: str, tracker: Tracker, warn: Callable[[str], object]) -> None:
        self.name = tracker.name
        self._kind = kind
        self._tracker: Tracker = tracker
        self._warn = warn

    def log(self, figures: Mapping[str, float], step: int) -> None:
        self._try(lambda: self._tracker.log(figures, step))

    def finish(self, figures: Mapping[str, float], folder: Path | None) -> None:
        self._try(lambda: self._tracker.finish(figures, folder))

    def close(self, has_failed: bool) -> None:
        self._try(lambda: self._tracker.close(has_failed))

    def _try(self, call: Callable[[], object]) -> None:
        try:
            call()
        except Exception as error:
            self._tracker = _Nothing()
            self._warn(f"{self._kind} failed and gets nothing more of this run: {error}")


TRACKERS: Mapping[str, Callable[[str, Mapping[str, Any], str], Tracker]] = {
    "mlflow": _Mlflow,
    "wandb": _Wandb,
}


@contextmanager
def tracked(
    kind: str,
    name: str,
    warn: Callable[[str], object],
    settings: Mapping[str, Any] | None = None,
    parent: str = "",
) -> Iterator[Tracker]:
    """A run of a tracker, ended with the block; it has failed if the block raises.

    Args:
        kind: one of ``TRACKERS``; for any other nothing is tracked.
        name: of the run.
        warn: is told once if the tracker fails later; the run then goes on without it.
        settings: nested, such as a recipe's.
        parent: ``Tracker.name`` of the run that this one is a child of.

    Raises:
        UsageError: the tracker's package is not installed, or it cannot be begun.
    """
    tracker: Tracker = _Nothing()
    if kind in TRACKERS:
        try:
            begun = TRACKERS[kind](name, flat(settings or {}), parent)
        except FinetuneError:
            raise
        except Exception as error:  # of whatever library lies below: requests, protobuf, OS
            raise UsageError(
                f"track: {kind} cannot begin: {error}. Mend it, or leave it out (track: none)."
            ) from error
        tracker = _Warning(kind, begun, warn)
    try:
        yield tracker
    except BaseException:
        tracker.close(True)
        raise
    tracker.close(False)


def log_epoch(tracker: Tracker, row: Mapping[str, Any]) -> None:
    """Log a row of the history: ``tail/val_loss`` and its like, by epoch."""
    figures = {
        f"{row['phase']}/{key}": float(value)
        for key, value in row.items()
        if key not in _NOT_EPOCHS and value is not None
    }
    tracker.log(figures, row["epoch"])


def numbers(result: Mapping[str, Any]) -> dict[str, float]:
    """The final figures of a run: every single number of validation, test, cost and seconds."""
    return {
        f"{part}/{key}": float(value)
        for part in ("validation", "test", "cost", "seconds")
        for key, value in result[part].items()
        if isinstance(value, int | float)
    }


def flat(settings: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Nested settings as dotted keys, as ``--set`` takes them."""
    found: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{above}{key}.")
        else:
            found[f"{above}{key}"] = value
    return found


def _files(folder: Path | None) -> list[Path]:
    """What a finished run folder holds, without locks and half-made files."""
    if folder is None:
        return []
    return sorted(p for p in folder.iterdir() if p.is_file() and not p.name.startswith("."))
