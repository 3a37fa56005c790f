"""How soon commands answer: whole processes, beside Python's own start and ``import keras``.

python -m benchmarks.startup [--photos 4000] [--repeats 5] [--out FILE]
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
    photos: int = 4000, size: int = 224, backbone: str = "vgg16", repeats: int = 5, out: Path | None = None
) -> None:
    """The cached run is a second one, in a new folder, after a first one that filled the store."""
    with tempfile.TemporaryDirectory() as folder:
        data, few = make_folder(Path(folder, "photos"), photos // 2, photos // 4, photos // 4), Path(folder, "few")
        make_folder(few, 20, 10, 10)
        run = ["-m", "finetune", "-q", "run", "--data", data, "--backbone", backbone, "--weights", "random"]
        run += ["--strategy", "cached-features", "--image-size", size, "--out"]
        commands = {
            "python -c pass": ["-c", "pass"],
            "import keras": ["-c", "import keras, tensorflow"],
            "finetune --help": ["-m", "finetune", "--help"],
            "finetune check, 40 photos": ["-m", "finetune", "-q", "check", few],
            "cached run": run,
        }
        store = {**os.environ, "FINETUNE_CACHE": os.environ.get("BENCHMARK_CACHE", str(Path(folder, "cache")))}
        environment = {**store, "TF_CPP_MIN_LOG_LEVEL": "3", "KERAS_BACKEND": "tensorflow"}
        _timed([*run, Path(folder, "first")], environment)
        rows = []
        for repeat in range(repeats):
            for name, command in commands.items():
                last = [Path(folder, f"run{repeat}")] if command is run else []
                rows.append({"contender": name, "repeat": repeat, "seconds": _timed([*command, *last], environment)})
    frame = pd.DataFrame(rows)
    table = frame.groupby("contender", sort=False)["seconds"].agg(["median", "min", "max"]).round(2).reset_index()
    by = frame.pivot_table(index="repeat", columns="contender", values="seconds")
    beyond = (by["cached run"] - by["import keras"]).median()
    report(
        "startup", table, frame, out, photos=photos, size=size, cached_run_beyond_import_keras=round(float(beyond), 2)
    )
    print(f"cached run of {photos:,} photos beyond import keras: {beyond:.2f} s")


def _timed(arguments: list, environment: dict[str, str]) -> float:
    start = time.perf_counter()
    command = [sys.executable, *map(str, arguments)]
    subprocess.run(command, cwd=ROOT, env=environment, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - start


if __name__ == "__main__":
    typer.run(main)
