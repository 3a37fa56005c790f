"""results.csv: one row per cell of a comparison."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from finetune.results.comparison import Cell, read_predictions
from finetune.results.metrics import apply_temperature, expected_calibration_error, fit_temperature

_NAMED = ("name", "recipe", "seed", "status", "reason", "split")
_SETTINGS = ("backbone", "strategy", "head", "augment", "views", "cut")


def results_table(out: Path, cells: Sequence[Cell], rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
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
    stable = [_stable_columns(out, cell, row) for cell, row in zip(cells, row_of, strict=True)]
    changing = [_changing_columns(cell, row) for cell, row in zip(cells, row_of, strict=True)]
    return pd.concat(
        [pd.DataFrame(stable), pd.DataFrame(changing)], axis=1
    ).convert_dtypes()  # whole numbers stay whole


def _stable_columns(out: Path, cell: Cell, row: Mapping[str, Any] | None) -> dict[str, Any]:
    named = {key: cell.get(key) for key in (*_NAMED, *_SETTINGS)}
    axes = {axis: value for axis, value in cell["settings"].items() if axis not in named}
    measured = _measured(out, cell) if cell["status"] == "done" else {}
    cost = cell.get("cost") or {}
    sizes = {key: cost.get(key) for key in ("parameters", "trainable", "stored_bytes", "multiply_adds")}
    stands = row is not None and cell["name"] == row["entry"].shown["name"]
    return {**named, **axes, "representative": stands, **measured, **sizes}


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
    temperature = fit_temperature(predictions["validation"].probabilities, predictions["validation"].labels)
    scaled = apply_temperature(predictions["test"].probabilities, temperature)
    columns: dict[str, Any] = {}
    for split in ("test", "validation"):
        metrics = {key: value for key, value in cell[split].items() if isinstance(value, int | float | None)}
        columns |= {f"{split}_{key}": value for key, value in metrics.items()}
    low, high = cell["test"]["accuracy_interval"]
    ece = expected_calibration_error(scaled, predictions["test"].labels)
    return {**columns, "test_low": low, "test_high": high, "temperature": temperature, "test_ece_scaled": ece}
