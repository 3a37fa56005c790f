"""All tables of docs/performance.md in one go, small enough for a quarter of an hour.

python -m benchmarks.quick [--minutes 12] [--out docs/performance]

What does not fit into the time is left out and named at the end; the longest benchmark takes two
minutes. The single benchmarks take more photos and repeats, and are less noisy.
"""

import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import typer

from benchmarks import extraction, matrix, startup, training

PHOTOS = {"vgg16": 96, "resnet50": 256, "densenet121": 256}


def jobs(out: Path) -> dict[str, Callable[[], None]]:
    """Name -> benchmark; the most telling ones first."""
    found: dict[str, Callable[[], None]] = {}
    for name, photos in PHOTOS.items():
        given = {"backbone": [name], "photos": photos, "repeats": 1}
        found[f"extraction_{name}"] = partial(
            extraction.main, **given, precision=["auto", "int8"], size=224, torch=False
        )
    for job in ("top_block", "frozen_augmented"):
        for name in PHOTOS:
            given = {"backbone": [name], "photos": 64, "repeats": 1, "epochs": 2, "size": 224}
            kinds = ["auto"] if job == "top_block" else ["auto", "int8"]
            found[f"{job}_{name}"] = partial(training.main, job, **given, precision=kinds)
    found["startup"] = partial(startup.main, data="sketches", weights="random", size=224, repeats=2)
    found["matrix"] = partial(matrix.main, photos=160, size=224, backbone="vgg16", scripts=1)
    found["matrix_lbfgs"] = partial(matrix.lbfgs, photos=160, size=96, backbone="vgg16")
    first = ("extraction_vgg16", "matrix_lbfgs", "top_block_vgg16", "startup")
    order = [*first, *(name for name in found if name not in first)]
    return {name: partial(found[name], out=out / f"{name}.json") for name in order}


def main(minutes: float = 12.0, out: Path = Path("docs/performance")) -> None:
    """Run one benchmark after another until the time is up."""
    end = time.monotonic() + 60 * minutes
    left = []
    for name, job in jobs(out).items():
        if time.monotonic() > end:
            left.append(name)
            continue
        start = time.monotonic()
        try:
            job()
        except RuntimeError as error:
            print(f"{name}: {error}", file=sys.stderr)
        print(f"{name}: {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)
    if left:
        print(f"no time for {', '.join(left)}", file=sys.stderr)


if __name__ == "__main__":
    typer.run(main)
