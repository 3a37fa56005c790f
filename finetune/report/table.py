"""results.csv: one row per trial of a comparison."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from finetune.evaluation.metrics import (
    apply_temperature,
    expected_calibration_error,
    fit_temperature,
)
from finetune.report.sections import Cell, read_predictions

_NAMED = ("name", "recipe", "seed", "status", "reason", "split")
_SETTINGS = ("backbone", "strategy", "head", "augment", "views", "cut")
_SIZES = ("parameters", "trainable", "stored_bytes", "multiply_adds")


def results_table(
    out: Path, cells: Sequence[Cell], rows: Sequence[Mapping[str, Any]]
) -> pd.DataFrame:
    """One row per trial, by recipe and seed.

    What differs from one execution to the next is in the last columns, from ``peak_memory`` on:
    measured costs, and the tie group and the recommendation, which depend on them. Everything
    before is the same whenever the same trials gave the same results.

    Args:
        out, cells: as ``report.write_report`` takes them.
        rows: the ranking: split, recipe, entry, group, recommended.
    """
    ranked = {(row["split"], row["recipe"]): row for row in rows}
    stable = []
    changing = []
    for cell in sorted(cells, key=lambda cell: (cell["recipe"], cell["seed"], cell["name"])):
        row = ranked.get((cell.get("split"), cell["recipe"]))
        stable.append(_results(out, cell, row))
        changing.append(_costs(cell, row))
    table = pd.concat([pd.DataFrame(stable), pd.DataFrame(changing)], axis=1)
    return table.convert_dtypes()  # whole numbers stay whole beside empty cells


def _results(out: Path, cell: Cell, row: Mapping[str, Any] | None) -> dict[str, Any]:
    """What the trial is, how large it is and what it measured."""
    columns = {key: cell.get(key) for key in (*_NAMED, *_SETTINGS)}
    columns |= {key: value for key, value in cell["settings"].items() if key not in columns}
    cost = cell.get("cost") or {}
    columns |= {key: cost.get(key) for key in _SIZES}
    columns["representative"] = row is not None and cell["name"] == row["entry"].shown["name"]
    return columns | (_measured(out, cell) if cell["status"] == "done" else {})


def _measured(out: Path, cell: Cell) -> dict[str, Any]:
    """The trial's metrics as columns, and its calibration after temperature scaling."""
    predictions = read_predictions(out / cell["run"])[1]
    validation, test = (predictions[name] for name in ("validation", "test"))
    temperature = fit_temperature(validation.probabilities, validation.labels)
    scaled = apply_temperature(test.probabilities, temperature)
    columns = {
        f"{split}_{key}": value
        for split in ("test", "validation")
        for key, value in cell[split].items()
        if isinstance(value, int | float | None)
    }
    low, high = cell["test"]["accuracy_interval"]
    ece = expected_calibration_error(scaled, test.labels)
    calibration = {"temperature": temperature, "test_ece_scaled": ece}
    return {**columns, "test_low": low, "test_high": high, **calibration}


def _costs(cell: Cell, row: Mapping[str, Any] | None) -> dict[str, Any]:
    cost = cell.get("cost") or {}
    seconds = cell.get("seconds") or {}
    return {
        "peak_memory": cost.get("peak_memory"),
        **{f"seconds_{key}": seconds.get(key) for key in ("extract", "train", "total")},
        "cost_seconds": cost.get("seconds"),
        "cost_seconds_alone": cost.get("seconds_alone"),
        "tie_group": row["group"] if row else None,
        "recommended": row["recommended"] if row else None,
    }
