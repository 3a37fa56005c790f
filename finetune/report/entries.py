"""The recipes of a comparison as their finished trials left them."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from finetune.evaluation.intervals import interval
from finetune.evaluation.metrics import (
    apply_temperature,
    expected_calibration_error,
    fit_temperature,
    per_photo,
)
from finetune.runs.predictions import Predictions, read_predictions

Cell = Mapping[str, Any]


@dataclass(frozen=True)
class Entry:
    """A recipe on one split.

    Attributes:
        cells: its finished trials by seed, the one that is shown first.
        tests: the predictions of each on the test split.
        validation: of the one that is shown.
        diverged: how many more trials did not finish because their loss was not finite.
        histories: what each trial recorded per epoch.
    """

    name: str
    cells: list[Cell]
    tests: list[Predictions]
    validation: Predictions
    diverged: int
    histories: list[pd.DataFrame]

    @property
    def shown(self) -> Cell:
        """The trial whose validation loss is nearest the mean of all seeds: galleries show it."""
        return self.cells[0]

    @property
    def test(self) -> Predictions:
        """Of the trial that is shown."""
        return self.tests[0]

    @cached_property
    def scores(self) -> list[pd.DataFrame]:
        """``metrics.per_photo`` of each trial on the test split."""
        return [per_photo(one.probabilities, one.labels) for one in self.tests]

    @property
    def photos(self) -> pd.DataFrame:
        """``metrics.per_photo`` of the trial that is shown."""
        return self.scores[0]

    @cached_property
    def temperature(self) -> float:
        """Fitted on validation."""
        return fit_temperature(self.validation.probabilities, self.validation.labels)

    @cached_property
    def scaled(self) -> np.ndarray:
        """Test probabilities after temperature scaling."""
        return apply_temperature(self.test.probabilities, self.temperature)

    @cached_property
    def scaled_ece(self) -> float:
        return expected_calibration_error(self.scaled, self.test.labels)

    @cached_property
    def interval(self) -> tuple[float, float]:
        """Of the mean accuracy over the seeds: another set of photos would give another one."""
        hits = np.mean([photos["correct"] for photos in self.scores], axis=0)
        return interval(hits, self.test.groups)

    @property
    def cut_short(self) -> bool:
        """Whether training ended while it still improved, in every trial."""
        return all(_best_epoch(rows) == len(rows) - 1 > 0 for rows in self.histories)

    @property
    def unchanged(self) -> bool:
        """Whether epochs were trained and the weights of epoch 0 kept, in every trial."""
        return all(_best_epoch(rows) == 0 and len(rows) > 1 for rows in self.histories)

    @property
    def extremes(self) -> dict[str, float] | None:
        """The best values of any epoch, means over the seeds; None for a head without epochs.

        Keys: accuracy, val_accuracy (highest), loss, val_loss (lowest).
        """
        trained = [rows for rows in self.histories if len(rows) > 1]
        if not trained:
            return None
        best = {"accuracy": "max", "loss": "min", "val_accuracy": "max", "val_loss": "min"}
        return {
            key: float(np.mean([getattr(rows[key], which)() for rows in trained]))
            for key, which in best.items()
        }

    def mean(self, split: str, key: str) -> float:
        """A metric's mean over the seeds."""
        return float(np.mean([cell[split][key] for cell in self.cells]))

    def cost(self, key: str) -> float:
        """A cost's mean over the seeds; infinite where it is not known."""
        values = [(cell.get("cost") or {}).get(key) for cell in self.cells]
        return float("inf") if None in values else float(np.mean(np.array(values, dtype=float)))


def read_entries(
    out: Path, recipes: Mapping[str, list[Cell]]
) -> tuple[list[str], list[Entry], list[tuple[str, str]]]:
    """Class names, the recipes that mostly finished (all on the same photos), and the others."""
    classes: list[str] = []
    entries: list[Entry] = []
    left_out: list[tuple[str, str]] = []
    for name, cells in recipes.items():
        done = _typical_first([cell for cell in cells if cell["status"] == "done"])
        diverged = len(cells) - len(done)
        if diverged >= len(done):
            left_out.append((name, f"{diverged} of {len(cells)} seeds diverged"))
            continue
        read = [read_predictions(out / cell["run"]) for cell in done]
        classes = read[0][0]
        validation, tests = read[0][1]["validation"], [parts["test"] for _, parts in read]
        first = entries[0] if entries else None
        files = first.test.files if first else tests[0].files
        tests = [one.ordered(files) for one in tests]
        if first:
            validation = validation.ordered(first.validation.files)
        histories = [pd.read_csv(out / cell["run"] / "history.csv") for cell in done]
        entries.append(Entry(name, done, tests, validation, diverged, histories))
    return classes, entries, left_out


def _typical_first(cells: list[Cell]) -> list[Cell]:
    """The trial whose validation loss is nearest the mean first, then by seed."""
    losses = [cell["validation"]["loss"] for cell in cells]
    middle = np.mean(losses) if losses else 0.0
    away = [round(abs(loss - middle), 12) for loss in losses]  # two seeds are equally near
    shown = cells[int(np.argmin(away))] if cells else None
    return sorted(cells, key=lambda cell: (cell is not shown, cell["seed"]))


def _best_epoch(history: pd.DataFrame) -> int:
    """The row of the lowest validation loss, -1 for a head that was fitted without epochs."""
    return int(history["val_loss"].argmin()) if len(history) else -1
