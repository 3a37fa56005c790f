"""Photos on disk to features on disk: finetune, plain Keras's predict, and bare OpenVINO as the limit.

python -m benchmarks.extraction [--backbone NAME]... [--photos 256] [--repeats 3] [--out FILE]
"""

import tempfile
from pathlib import Path
from typing import Annotated

import pandas as pd
import typer

from benchmarks.paired import in_turn, ratio, report
from benchmarks.photos import make_folder


def main(
    backbone: Annotated[list[str], typer.Option()] = ["vgg16", "resnet50", "densenet121"],  # noqa: B006
    photos: int = 256,
    size: int = 224,
    repeats: int = 3,
    out: Path | None = None,
) -> None:
    """Ratios end to end, set-up included, and of the stream of photos alone, which is what grows with their number."""
    table, measured = [], []
    with tempfile.TemporaryDirectory() as folder:
        data = make_folder(
            Path(folder), photos - photos // 2, photos // 4, photos // 2 - photos // 4
        )
        for name in backbone:
            job = (data, "--backbone", name, "--size", size)
            rows = in_turn(
                {
                    "plain": ("plain", "extraction", *job),
                    "ours": ("ours", "extraction", *job),
                    "bare": ("bare", name, size, photos),
                },
                repeats,
            )
            measured.append(rows.assign(backbone=name))
            plain, bare = ratio(rows, "plain", "ours"), ratio(rows, "bare", "ours")
            streaming = ratio(rows, "bare", "ours", "streaming")
            seconds = rows.groupby("contender")["seconds"].median()
            table.append(
                {
                    "backbone": name,
                    "plain / ours": f"{plain['median']} ({plain['low']}-{plain['high']})",
                    "share of bare OpenVINO, whole": f"{bare['median']} ({bare['low']}-{bare['high']})",
                    "streaming": f"{streaming['median']} ({streaming['low']}-{streaming['high']})",
                    "set-up s": round(
                        seconds["ours"] - rows[rows.contender == "ours"]["streaming"].median(), 1
                    ),
                    "ours photos/s": round(photos / seconds["ours"], 1),
                }
            )
    report("extraction", pd.DataFrame(table), pd.concat(measured), out, photos=photos, size=size)


if __name__ == "__main__":
    typer.run(main)
