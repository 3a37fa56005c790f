"""How soon commands answer: whole processes, beside Python's own start and ``import keras``.

python -m benchmarks.startup [--data cats-and-dogs-small --weights imagenet] [--repeats 5] [--out
FILE]

BENCHMARK_CACHE may name a store that holds the activations of the cached run already.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd
import typer

from benchmarks.paired import ROOT, report
from benchmarks.photos import make_folder


def main(
    data: str = "sketches",
    weights: str = "random",
    size: int = 224,
    repeats: int = 5,
    out: Path | None = None,
) -> None:
    """The cached run is a second one, in a new folder, after a first one that filled the store."""
    with tempfile.TemporaryDirectory() as folder:
        few = make_folder(Path(folder, "few"), 20, 10, 10)
        first = Path(folder, "first")
        photo = next(few.glob("*/*/*"))
        run = [
            "-m",
            "finetune",
            "-q",
            "run",
            "--data",
            data,
            "--backbone",
            "vgg16",
            "--weights",
            weights,
        ]
        run += ["--strategy", "cached-features", "--image-size", size, "--out"]
        commands = {
            "python -c pass": ["-c", "pass"],
            "import keras": ["-c", "import keras, tensorflow"],
            "finetune --help": ["-m", "finetune", "--help"],
            "finetune check, 40 photos": ["-m", "finetune", "-q", "check", few],
            "finetune predict, 1 photo": ["-m", "finetune", "-q", "predict", first, photo],
            "cached run": run,
        }
        store = {
            **os.environ,
            "FINETUNE_CACHE": os.environ.get("BENCHMARK_CACHE", str(Path(folder, "cache"))),
        }
        environment = {**store, "TF_CPP_MIN_LOG_LEVEL": "3", "KERAS_BACKEND": "tensorflow"}
        _timed([*run, first], environment)
        rows = []
        for repeat in range(repeats):
            for name, command in commands.items():
                last = [Path(folder, f"run{repeat}")] if command is run else []
                rows.append(
                    {
                        "contender": name,
                        "repeat": repeat,
                        "seconds": _timed([*command, *last], environment),
                    }
                )
    frame = pd.DataFrame(rows)
    table = (
        frame.groupby("contender", sort=False)["seconds"]
        .agg(["median", "min", "max"])
        .round(2)
        .reset_index()
    )
    by = frame.pivot_table(index="repeat", columns="contender", values="seconds")
    beyond = round(float((by["cached run"] - by["import keras"]).median()), 2)
    report(
        "startup", table, frame, out, data=data, size=size, cached_run_beyond_import_keras=beyond
    )
    print(f"cached run beyond import keras: {beyond} s")


def _timed(arguments: list, environment: dict[str, str]) -> float:
    start = time.perf_counter()
    command = [sys.executable, *map(str, arguments)]
    subprocess.run(command, cwd=ROOT, env=environment, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


if __name__ == "__main__":
    typer.run(main)
