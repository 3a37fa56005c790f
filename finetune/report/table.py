"""results.csv: one row per cell of a comparison."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from finetune.evaluation.metrics import (
    apply_temperature,
    expected_calibration_error,
    fit_temperature,
)
from finetune.report.sections import Cell
from finetune.runs.predictions import read_predictions

_NAMED = ("name", "recipe", "seed", "status", "reason", "split")
_SETTINGS = ("backbone", "strategy", "head", "augment", "views", "cut")
_SIZES = ("parameters", "trainable", "stored_bytes", "multiply_adds")


def results_table(
    out: Path, cells: Sequence[Cell], rows: Sequence[Mapping[str, Any]]
) -> pd.DataFrame:
    """One row per cell, by recipe and seed.

    What differs from one execution to the next stands in the last columns, from ``peak_memory`` on: measured costs, and
    the tie group and the recommendation, which depend on them. Everything before is the same whenever the same cells
    gave the same results.

    Args:
        out, cells: as ``report.write_report`` takes them.
        rows: the ranking: split, recipe, entry, group, recommended.
    """
    ranked = {(row["split"], row["recipe"]): row for row in rows}
    cells = sorted(cells, key=lambda cell: (cell["recipe"], cell["seed"], cell["name"]))
    row_of = [ranked.get((cell.get("split"), cell["recipe"])) for cell in cells]
    known = [_stable_columns(out, cell, row) for cell, row in zip(cells, row_of, strict=True)]
    changing = [_changing_columns(cell, row) for cell, row in zip(cells, row_of, strict=True)]
    parts = [
        *(pd.DataFrame([columns[i] for columns in known]) for i in range(3)),
        pd.DataFrame(changing),
    ]
    return pd.concat(parts, axis=1).convert_dtypes()  # whole numbers stay whole beside empty cells


def _stable_columns(
    out: Path, cell: Cell, row: Mapping[str, Any] | None
) -> tuple[dict[str, Any], ...]:
    """What the cell is, what it measured and how large it is: apart, so that no failed cell changes their order."""
    named = {key: cell.get(key) for key in (*_NAMED, *_SETTINGS)}
    named |= {axis: value for axis, value in cell["settings"].items() if axis not in named}
    measured = _measured(out, cell) if cell["status"] == "done" else {}
    stands = row is not None and cell["name"] == row["entry"].shown["name"]
    cost = cell.get("cost") or {}
    return named, measured, {"representative": stands, **{key: cost.get(key) for key in _SIZES}}


def _changing_columns(cell: Cell, row: Mapping[str, Any] | None) -> dict[str, Any]:
    cost, seconds = cell.get("cost") or {}, cell.get("seconds") or {}
    return {
        "peak_memory": cost.get("peak_memory"),
        **{f"seconds_{key}": seconds.get(key) for key in ("extract", "train", "total")},
        "cost_seconds": cost.get("seconds"),
        "cost_seconds_alone": cost.get("seconds_alone"),
        "tie_group": row["group"] if row else None,
        "recommended": row["recommended"] if row else None,
    }


def _measured(out: Path, cell: Cell) -> dict[str, Any]:
    """The cell's metrics as columns, and its calibration after temperature scaling."""
    predictions = read_predictions(out / cell["run"])[1]
    temperature = fit_temperature(
        predictions["validation"].probabilities, predictions["validation"].labels
    )
    scaled = apply_temperature(predictions["test"].probabilities, temperature)
    columns: dict[str, Any] = {}
    for split in ("test", "validation"):
        metrics = {
            key: value
            for key, value in cell[split].items()
            if isinstance(value, int | float | None)
        }
        columns |= {f"{split}_{key}": value for key, value in metrics.items()}
    low, high = cell["test"]["accuracy_interval"]
    ece = expected_calibration_error(scaled, predictions["test"].labels)
    return {
        **columns,
        "test_low": low,
        "test_high": high,
        "temperature": temperature,
        "test_ece_scaled": ece,
    }
