"""Seconds and peak memory of an extraction against the number of photos; photos beyond 4,000
repeat, with new hashes.

python -m benchmarks.scaling [--photos 250]... [--backbone densenet121] [--size 128] [--out FILE]
"""

import tempfile
from pathlib import Path
from typing import Annotated

import pandas as pd
import typer

from benchmarks.paired import job, report
from benchmarks.photos import make_folder


def main(
    photos: Annotated[list[int], typer.Option()] = [250, 1000, 4000, 20000],  # noqa: B006
    backbone: str = "densenet121",
    size: int = 128,
    out: Path | None = None,
) -> None:
    """One extraction of each size; a small network at a small size, so that 20,000 photos are
    minutes and not hours.
    """
    rows = []
    for count in photos:
        with tempfile.TemporaryDirectory() as folder:
            data = make_folder(
                Path(folder), count - count // 2, count // 4, count // 2 - count // 4
            )
            measured = job("ours", "extraction", data, "--backbone", backbone, "--size", size)
            rows.append({"photos": count, **measured})
    table = pd.DataFrame(
        {
            "photos": [row["photos"] for row in rows],
            "s": [round(row["seconds"], 1) for row in rows],
            "photos/s": [round(row["photos"] / row["seconds"], 1) for row in rows],
            "peak MiB": [round(row["peak_bytes"] / 2**20) for row in rows],
        }
    )
    report("scaling", table, pd.DataFrame(rows), out, backbone=backbone, size=size)


if __name__ == "__main__":
    typer.run(main)
