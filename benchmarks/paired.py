"""Measure jobs in turn, each in a process of its own, and tell ratios with their spread.

A machine that is slow for a minute is slow for all contenders of that minute: only ratios within
one repeat are quoted.
"""

import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

ROOT = Path(__file__).parents[1]


def job(module: str, *arguments: object) -> dict[str, Any]:
    """Run ``python -m benchmarks.<module> ARGUMENTS`` with an empty store and return the JSON
    object of its last line.
    """
    with tempfile.TemporaryDirectory() as cache:
        environment = {**os.environ, "FINETUNE_CACHE": os.environ.get("BENCHMARK_CACHE", cache)}
        environment |= {"TF_CPP_MIN_LOG_LEVEL": "3", "KERAS_BACKEND": "tensorflow"}
        command = [sys.executable, "-m", f"benchmarks.{module}", *map(str, arguments)]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def in_turn(contenders: Mapping[str, Sequence[object]], repeats: int) -> pd.DataFrame:
    """One row per repeat and contender: its name, the repeat, and what its job printed."""
    rows = []
    for repeat in range(repeats):
        for name, (module, *arguments) in contenders.items():
            rows.append({"contender": name, "repeat": repeat, **job(module, *arguments)})
            print(
                f"  {name}, repeat {repeat + 1} of {repeats}: {rows[-1]['seconds']:.1f} s",
                file=sys.stderr,
                flush=True,
            )
    return pd.DataFrame(rows)


def ratio(rows: pd.DataFrame, slow: str, fast: str, column: str = "seconds") -> dict[str, float]:
    """How many times longer ``slow`` takes than ``fast``: median, lowest and highest over the
    repeats.
    """
    by = rows.pivot_table(index="repeat", columns="contender", values=column)
    ratios = by[slow] / by[fast]
    return {
        name: round(float(value), 2)
        for name, value in (
            ("median", ratios.median()),
            ("low", ratios.min()),
            ("high", ratios.max()),
        )
    }


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    model = next(
        (line.split(": ")[1].strip() for line in _cpuinfo() if line.startswith("model name")),
        platform.processor(),
    )
    return {"cpu": model, "cores": os.cpu_count(), "python": platform.python_version()}


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


def report(
    name: str, table: pd.DataFrame, rows: pd.DataFrame, out: Path | None, **more: Any
) -> None:
    """Print the table; write it with every single measurement as JSON."""
    print(f"\n{name}\n{table.to_string(index=False)}")
    if out:
        content = {
            "benchmark": name,
            "machine": machine(),
            **more,
            "table": _records(table),
            "measurements": _records(rows),
        }
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n")


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    return table.astype(object).where(table.notna(), None).to_dict("records")
