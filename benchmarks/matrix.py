"""36 cells that share one trunk pass, against 36 separate plain scripts of which a few are
measured.

python -m benchmarks.matrix [--photos 400] [--scripts 2] [--out FILE]

Every plain script computes its features anew and trains one head, as copies of a notebook do. All
36 take the same time but for their learning rate; the ratio multiplies the mean of the measured
ones by 36. Imports are counted on both sides.
"""

import json
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

MATRIX = {
    "head": ["gap", "gmp", "flatten"],
    "learning_rate": [1e-4, 3e-4, 1e-3, 3e-3],
    "seed": [0, 1, 2],
}
EPOCHS = 10
# 36 heads fitted by L-BFGS, of two passes: photos and their views
LBFGS = {
    "head": ["gap", "gmp", "flatten"],
    "views": [1, 2, 3],
    "class_weight": ["none", "balanced"],
    "seed": [0, 1],
}


def main(
    photos: int = 400,
    size: int = 224,
    backbone: str = "vgg16",
    scripts: int = 2,
    out: Path | None = None,
) -> None:
    """Both sides train their heads for 10 epochs."""
    with tempfile.TemporaryDirectory() as folder:
        data = make_folder(Path(folder, "photos"), photos // 2, photos // 4, photos // 4)
        recipe = Path(folder, "matrix.yaml")
        settings = {
            "data": str(data),
            "backbone": backbone,
            "weights": "random",
            "image_size": size,
        }
        settings |= {"strategy": "cached-features", "epochs": EPOCHS, "patience": EPOCHS}
        heads = [{"pool": pool, "solver": "keras"} for pool in MATRIX["head"]]
        # JSON is YAML
        recipe.write_text(json.dumps({**settings, "matrix": {**MATRIX, "head": heads}}))
        environment = {
            **os.environ,
            "FINETUNE_CACHE": str(Path(folder, "cache")),
            "TF_CPP_MIN_LOG_LEVEL": "3",
        }
        job = (
            "benchmarks.plain",
            "cached_head",
            data,
            "--backbone",
            backbone,
            "--size",
            size,
            "--epochs",
            EPOCHS,
        )
        plain = [_timed(environment, *job) for _ in range(scripts)]
        compared = (
            "finetune",
            "-q",
            "compare",
            recipe,
            "--out",
            Path(folder, "compared"),
            "--no-photos",
            "--json",
        )
        ours = _timed(environment, *compared)
        result = json.loads(Path(folder, "compared", "compare.json").read_text())
    done = sum(cell["status"] == "done" for cell in result["cells"])
    rows = pd.DataFrame({"contender": ["plain"] * scripts + ["ours"], "seconds": [*plain, ours]})
    row = {"cells": done, "extractions": result["extractions"], "ours s": round(ours, 1)}
    row |= {
        "one plain script s": round(sum(plain) / scripts, 1),
        "36 plain / ours": round(36 * sum(plain) / scripts / ours, 1),
    }
    report("matrix", pd.DataFrame([row]), rows, out, photos=photos, size=size, backbone=backbone)


def lbfgs(photos: int, size: int, backbone: str, out: Path | None = None) -> None:
    """36 trials without epochs: seconds beyond the first one, which extracts."""
    with tempfile.TemporaryDirectory() as folder:
        data = make_folder(Path(folder, "photos"), photos // 2, photos // 4, photos // 4)
        base = {"data": str(data), "backbone": backbone, "weights": "random", "image_size": size}
        base |= {"strategy": "cached-features", "augment": "light", "matrix": LBFGS}
        recipe = Path(folder, "matrix.yaml")
        recipe.write_text(json.dumps(base))
        compared = Path(folder, "compared")
        environment = {**os.environ, "FINETUNE_CACHE": str(Path(folder, "cache"))}
        environment["TF_CPP_MIN_LOG_LEVEL"] = "3"
        whole = _timed(environment, "finetune", "-q", "compare", recipe, "--out", compared)
        result = json.loads((compared / "compare.json").read_text())
    cells = pd.DataFrame(
        [{"cell": cell["name"], **cell["seconds"]} for cell in result["cells"]]
    ).sort_values("extract")
    later = cells[cells.extract < 1]
    row = {
        "cells": len(cells),
        "extractions": result["extractions"],
        "whole s": round(whole, 1),
        "extracting s": round(cells.extract.sum(), 1),
        "a further cell, median s": round(later.command.median(), 2),
        "beyond the extraction s": round(cells.command.sum() - cells.extract.sum(), 1),
    }
    report("matrix_lbfgs", pd.DataFrame([row]), cells, out, photos=photos, size=size)


def _timed(environment: dict[str, str], *arguments: object) -> float:
    start = time.perf_counter()
    command = [sys.executable, "-m", *map(str, arguments)]
    subprocess.run(
        command,
        cwd=ROOT,
        env=environment,
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    print(f"  {arguments[0]}: {time.perf_counter() - start:.1f} s", file=sys.stderr, flush=True)
    return time.perf_counter() - start


if __name__ == "__main__":
    typer.run(main)
