"""What a comparison would cost, before it is run: needs TensorFlow, but trains nothing."""

import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from finetune.commands.compare import extractions, in_order, shelves
from finetune.errors import FinetuneError
from finetune.matrix import Cell
from finetune.network import multiply_adds
from finetune.progress import Reporter
from finetune.work import Work

_CELL_SECONDS = 5.0  # building, predicting and writing a run folder, whatever the recipe
_BACKWARD = 3  # a training step costs about three forward passes: Kaplan et al. 2020, arXiv:2001.08361, section 2.1
_EPOCHS = 6  # early stopping ends most runs long before their last epoch


def plan(cells: Sequence[Cell], reporter: Reporter) -> dict[str, Any]:
    """Cells, shared extractions, bytes and a rough time.

    Args:
        cells: see ``matrix.collect``.
        reporter: told of progress.

    Returns:
        What ``compare --dry-run --json`` prints. The time is a guess from multiply-adds and from the speed of one batch
        through each trunk, timed on the spot; epochs are taken as 6 where a recipe allows more.
    """
    rows, seen, rate = [], set(), {}
    for cell in in_order(cells):
        row: dict[str, Any] = {
            "name": cell.name,
            "shares": all(shelf in seen for shelf in shelves(cell)),
            "reason": None,
        }
        try:
            row |= _cost(cell, reporter, rate, new=not row["shares"])
            seen |= set(shelves(cell))
        except FinetuneError as error:
            row["reason"] = str(error)
        rows.append(row)
    reachable = [cell for cell, row in zip(in_order(cells), rows, strict=True) if row["reason"] is None]
    alone = sum(len(shelves(cell)) for cell in reachable)
    return {
        "cells": rows,
        "extractions": extractions(reachable),
        "extractions_saved": alone - extractions(reachable),
        "bytes_to_store": sum(row.get("bytes_to_store", 0) for row in rows),
        "seconds": round(sum(row.get("seconds", 0) for row in rows), 1),
    }


def _cost(cell: Cell, reporter: Reporter, rate: dict[tuple, float], new: bool) -> dict[str, Any]:
    work = Work.prepare(cell.recipe, reporter)
    planned, whole = work.plan(), multiply_adds(work.network.whole)
    learning = multiply_adds(work.network.tail)
    key = shelves(cell)[0]
    if key not in rate:
        rate[key] = _photos_per_second(work)
    missing = planned["to_extract"] if new else 0
    epochs = (
        0
        if cell.recipe.head.solver == "lbfgs" and work.recipe.cut == work.network.top
        else min(_EPOCHS, planned["epochs"])
    )
    per_step = _BACKWARD * learning / max(1, whole - learning) / rate[key]
    streamed = planned["streamed_per_epoch"] / rate[key]
    seconds = missing / rate[key] + epochs * (planned["photos"]["train"] * per_step + streamed) + _CELL_SECONDS
    return {
        "to_extract": missing,
        "bytes_to_store": planned["bytes_to_store"] if new else 0,
        "seconds": round(seconds, 1),
    }


def _photos_per_second(work: Work) -> float:
    """Speed of the trunk below the cut, from two batches after one to warm up."""
    from finetune.activations.engine import BATCH
    from finetune.model.backbones import INPUT

    cut = work.network.cut if work.network.cut != INPUT else work.network.top
    engine = work.engine(INPUT, cut)
    photos = np.zeros((2 * BATCH, *work.network.whole.input.shape[1:]), np.uint8)
    list(engine([photos[:BATCH]]))
    start = time.perf_counter()
    list(engine([photos]))
    return 2 * BATCH / (time.perf_counter() - start)


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
            f"{plan['bytes_to_store'] / 2**20:,.0f} MiB to store, about {plan['seconds'] / 60:,.0f} minutes",
        ]
    )
