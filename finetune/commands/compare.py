"""Many recipes: planned so that each extraction happens once, run in a warm worker, ranked in one report."""

import json
import multiprocessing
import shutil
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.live import Live
from rich.table import Table

from finetune.data import catalog
from finetune.data.dataset import Dataset
from finetune.errors import FinetuneError
from finetune.files import commit_json, locked
from finetune.model.backbones import INPUT
from finetune.progress import SILENT, Reporter
from finetune.recipe.matrix import Cell, collect
from finetune.recipe.strategies import STRATEGIES
from finetune.runs.folder import read_result

FAILURE = "failure.json"


def shelves(cell: Cell) -> list[tuple]:
    """What a cell needs from a trunk: one hashable value per shelf of the store. Cells that share one share its pass."""
    r = cell.recipe
    shared = (r.data, r.backbone, r.weights, r.image_size, r.resize, r.store)
    cut = (
        r.cut if r.cut != INPUT else STRATEGIES["cached-features"].cut(r.backbone, 0)
    )  # photos need no trunk; heads do
    augmented = (
        [(*shared, cut, json.dumps(r.augment.model_dump()))] if r.views not in ("fresh", 0) else []
    )
    return [(*shared, cut, None), *augmented]


def extractions(cells: Iterable[Cell]) -> int:
    """Number of trunk passes that these cells share."""
    return len({shelf for cell in cells for shelf in shelves(cell)})


def in_order(cells: Sequence[Cell]) -> list[Cell]:
    """Cells of one extraction one after the other, otherwise as they came."""
    first = {
        shelf: place for place, cell in reversed(list(enumerate(cells))) for shelf in shelves(cell)
    }
    return sorted(cells, key=lambda cell: first[shelves(cell)[0]])


def compare(
    *recipes: Path, out: Path = Path("compared"), photos: bool = True, reporter: Reporter = SILENT
) -> dict[str, Any]:
    """Run many recipes, share what they share, and say which differences are real."""
    return compare_trials(collect(recipes), out, reporter, photos)


def plan_compare(*recipes: Path, reporter: Reporter = SILENT) -> dict[str, Any]:
    """What ``compare --dry-run`` prints."""
    from finetune.backend import load_keras

    load_keras()
    from finetune.execution import plan

    return plan.plan(collect(recipes), reporter)


def compare_trials(
    cells: Sequence[Cell], out: Path, reporter: Reporter, photos: bool = True
) -> dict[str, Any]:
    """Run all cells that have no result yet, and report on all.

    Args:
        cells: see ``matrix.collect``.
        out: the comparison's folder; ``out/cells/NAME`` is the run folder of each cell and the journal at once.
        reporter: told of progress.
        photos: whether the report's galleries show the photos or only their names.

    Returns:
        What ``compare --json`` prints.

    Raises:
        BusyError: another process works in ``out``. A failing cell is no error: its row says why it failed.
    """
    from finetune.report.report import write_report

    with locked(out):
        datasets = _datasets(cells)
        board = Board(cells, reporter)
        with Worker() as worker, board.shown():
            for cell in in_order(cells):
                board.set(cell, "running")
                outcome = _run_cell(cell, out, datasets[cell.recipe.data], worker)
                board.set(cell, outcome["status"])
        rows = _rows(cells, out)
        finished = [cell for cell, row in zip(cells, rows, strict=True) if row["status"] == "done"]
        plan = {"cells": len(cells), "extractions": extractions(finished), "data": sorted(datasets)}
        roots = {
            data.digest: str(data.root)
            for data in datasets.values()
            if photos and isinstance(data, Dataset)
        }
        report = write_report(out, rows, {**plan, "roots": roots})
        result = {"cells": rows, "extractions": plan["extractions"], **report}
        commit_json(out / "compare.json", result)
        return result


def _datasets(cells: Sequence[Cell]) -> dict[str, Dataset | FinetuneError]:
    """Each data set read once; one that cannot be read fails its own cells and no others."""
    found: dict[str, Dataset | FinetuneError] = {}
    for data in dict.fromkeys(cell.recipe.data for cell in cells):
        try:
            found[data] = catalog.resolve(data)
        except FinetuneError as error:
            found[data] = error
    return found


def _run_cell(
    cell: Cell, out: Path, data: Dataset | FinetuneError, worker: "Worker"
) -> dict[str, Any]:
    """The result of a cell: as its folder has it, if recipe and photos are still the same, or computed now."""
    folder = out / "cells" / cell.name
    (folder / FAILURE).unlink(missing_ok=True)
    if isinstance(data, FinetuneError):
        return _fail(folder, "failed", str(data))
    if _is_current(folder, cell, data):
        return {"status": "done"}
    if read_result(folder) or not _same_recipe(
        folder, cell
    ):  # of other photos, or of another recipe
        shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    outcome = worker.run(cell, folder)
    return {"status": "done"} if outcome is None else _fail(folder, *outcome)


def _is_current(folder: Path, cell: Cell, data: Dataset) -> bool:
    result = read_result(folder)
    return result is not None and result["listed"] == data.digest and _same_recipe(folder, cell)


def _same_recipe(folder: Path, cell: Cell) -> bool:
    recipe = folder / "recipe.yaml"
    return recipe.exists() and recipe.read_text() == cell.recipe.dump()


def _fail(folder: Path, status: str, reason: str) -> dict[str, Any]:
    folder.mkdir(parents=True, exist_ok=True)
    failure = {"status": status, "reason": reason}
    commit_json(folder / FAILURE, failure)
    return failure


class Worker:
    """A process that runs one cell after another: TensorFlow is imported once. Replaced when it dies."""

    def __init__(self) -> None:
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool:
            for process in list(
                self._pool._processes.values()
            ):  # Ctrl-C must not wait for a cell to end
                process.terminate()
            self._pool.shutdown(wait=True, cancel_futures=True)

    def run(self, cell: Cell, folder: Path) -> tuple[str, str] | None:
        """Run a cell; None if it is done, else status and reason."""
        if self._pool is None:
            # spawn: TensorFlow's threads do not survive a fork
            self._pool = ProcessPoolExecutor(
                1, multiprocessing.get_context("spawn"), initializer=_prepare
            )
        try:
            future: Future = self._pool.submit(_work, cell, folder)
            return future.result()
        except BrokenProcessPool:
            self._pool = None
            return (
                "failed",
                f"the worker process died (out of memory, or killed); see {folder / 'log.txt'}",
            )


def _prepare() -> None:
    from finetune.backend import load_keras

    load_keras()


def _work(cell: Cell, folder: Path) -> tuple[str, str] | None:
    """In the worker: one cell; everything that goes wrong becomes its outcome."""
    import traceback

    from finetune.execution.trial import run_trial
    from finetune.training.fit import Diverged

    with (folder / "log.txt").open("a") as log:
        try:
            run_trial(cell.recipe, folder, Reporter(file=log))
        except Diverged as error:
            return "diverged", str(error)
        except FinetuneError as error:
            return "failed", str(error)
        except Exception as error:
            traceback.print_exc(file=log)
            return "failed", f"{type(error).__name__}: {error}"
    return None


def _rows(cells: Sequence[Cell], out: Path) -> list[dict[str, Any]]:
    """One row per cell for the report, costs shared out among the cells that used the same extraction."""
    folders = {cell.name: out / "cells" / cell.name for cell in cells}
    results = {
        name: None if (path / FAILURE).exists() else read_result(path)
        for name, path in folders.items()
    }
    sharing = Counter(shelf for cell in cells if results[cell.name] for shelf in shelves(cell))
    return [_row(cell, out, results[cell.name], sharing) for cell in cells]


def _row(
    cell: Cell, out: Path, result: Mapping[str, Any] | None, sharing: Counter
) -> dict[str, Any]:
    r, folder = cell.recipe, out / "cells" / cell.name
    row: dict[str, Any] = {
        "name": cell.name,
        "recipe": cell.group,
        "seed": r.seed,
        "run": f"cells/{cell.name}",
    }
    row |= {
        "backbone": r.backbone,
        "strategy": r.strategy,
        "head": r.head.pool,
        "cut": r.cut,
        "views": r.views,
    }
    row |= {
        "augment": "none"
        if not r.views
        else json.dumps(r.augment.model_dump(exclude_defaults=True))
    }
    row |= {"settings": cell.settings, "status": "done", "reason": None}
    if not result:
        return row | json.loads((folder / FAILURE).read_text())
    cost, train = result["cost"], result["seconds"]["train"]
    shared = sum(1 / sharing[shelf] for shelf in shelves(cell)) / len(shelves(cell))
    row["cost"] = {
        "seconds": round(cost["extraction_seconds"] * shared + train, 3),
        "seconds_alone": round(cost["extraction_seconds"] + train, 3),
        **{
            name: result["parameters"][source]
            for name, source in (("parameters", "total"), ("trainable", "trainable"))
        },
        **{name: cost[name] for name in ("stored_bytes", "peak_memory", "multiply_adds")},
    }
    return row | {
        name: result[name] for name in ("split", "test", "validation", "seconds", "extracted")
    }


@dataclass
class Board:
    """The live table of a comparison; plain lines where stderr is no terminal."""

    cells: Sequence[Cell]
    reporter: Reporter
    status: dict[str, str] = field(default_factory=dict)
    since: float = 0.0
    _live: Live | None = None

    def set(self, cell: Cell, status: str) -> None:
        """Note a cell's state."""
        if status == "running":
            self.since = time.perf_counter()
        elif not self._live:
            self.reporter.say(f"{cell.name}: {status} ({time.perf_counter() - self.since:.1f} s)")
        self.status[cell.name] = status
        if self._live:
            self._live.update(self.table())

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Show the table while cells run."""
        if not self.reporter.live:
            yield
            return
        with Live(
            console=self.reporter.console, get_renderable=self.table, refresh_per_second=2
        ) as self._live:
            yield
        self._live = None

    def table(self) -> Table:
        """The cells around the running one, and how many are in which state."""
        counts = Counter(self.status.get(cell.name, "waiting") for cell in self.cells)
        table = Table(
            title=", ".join(f"{count} {status}" for status, count in counts.items()),
            title_justify="left",
        )
        table.add_column("cell", no_wrap=True)
        table.add_column("state")
        ordered = in_order(self.cells)
        now = next(
            (i for i, cell in enumerate(ordered) if self.status.get(cell.name) == "running"),
            len(ordered) - 1,
        )
        for cell in ordered[max(0, now - 8) : now + 8]:
            status = self.status.get(cell.name, "waiting")
            seconds = f" {time.perf_counter() - self.since:.0f} s" if status == "running" else ""
            table.add_row(cell.name, status + seconds, style=_STYLES.get(status))
        return table


_STYLES: dict[str, str] = {
    "running": "bold",
    "done": "green",
    "failed": "red",
    "diverged": "red",
    "waiting": "dim",
}
