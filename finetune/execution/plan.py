"""What a comparison would cost, before it is run: needs TensorFlow, but trains nothing."""

from collections.abc import Sequence
from typing import Any

from finetune.activations.cache import Work
from finetune.commands.compare import extractions, in_order, shelves
from finetune.errors import FinetuneError
from finetune.execution.costs import Calibration, estimate
from finetune.progress import Reporter
from finetune.recipe.matrix import Cell


def plan(cells: Sequence[Cell], reporter: Reporter) -> dict[str, Any]:
    """Cells, shared extractions, bytes and a rough time.

    Args:
        cells: see ``matrix.collect``.
        reporter: told of progress.

    Returns:
        What ``compare --dry-run --json`` prints; ``seconds`` and ``seconds_at_least`` as ``costs.estimate`` has them, without
        starting the worker.
    """
    rows, seen, calibration = [], set(), Calibration()
    for cell in in_order(cells):
        row: dict[str, Any] = {
            "name": cell.name,
            "shares": all(shelf in seen for shelf in shelves(cell)),
            "reason": None,
        }
        try:
            row |= _cost(cell, reporter, calibration, new=not row["shares"])
            seen |= set(shelves(cell))
        except FinetuneError as error:
            row["reason"] = str(error)
        rows.append(row)
    reachable = [
        cell for cell, row in zip(in_order(cells), rows, strict=True) if row["reason"] is None
    ]
    alone = sum(len(shelves(cell)) for cell in reachable)
    return {
        "cells": rows,
        "extractions": extractions(reachable),
        "extractions_saved": alone - extractions(reachable),
        "bytes_to_store": sum(row.get("bytes_to_store", 0) for row in rows),
        **{
            key: round(sum(row.get(key, 0) for row in rows), 1)
            for key in ("seconds", "seconds_at_least")
        },
    }


def _cost(cell: Cell, reporter: Reporter, calibration: Calibration, new: bool) -> dict[str, Any]:
    work = Work.prepare(cell.recipe, reporter)
    planned = work.plan()
    if not new:  # an earlier cell stores what this one needs
        planned |= {"to_extract": 0, "bytes_to_store": 0}
    seconds = estimate(work, planned, calibration)
    return {
        "to_extract": planned["to_extract"],
        "bytes_to_store": planned["bytes_to_store"],
        "seconds": seconds["seconds"],
        "seconds_at_least": seconds["seconds_at_least"],
    }


def text(plan: dict[str, Any]) -> str:
    """The plan for a person."""
    lines = [
        f"{row['name']}: {row['reason'] or ('shares its activations' if row['shares'] else str(row['to_extract']) + ' rows to compute')}"
        for row in plan["cells"]
    ]
    return "\n".join(
        [
            *lines,
            f"{len(plan['cells'])} cells, {plan['extractions']} extractions ({plan['extractions_saved']} saved by sharing), "
            f"{plan['bytes_to_store'] / 2**20:,.0f} MiB to store, "
            f"{plan['seconds_at_least'] / 60:,.0f} to {plan['seconds'] / 60:,.0f} minutes",
        ]
    )
