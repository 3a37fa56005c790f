"""Training with the trunk frozen: seconds per epoch and whole runs of 1, 5 and 20 epochs,
extraction included.

python -m benchmarks.training top_block|frozen_augmented [--backbone NAME]... [--photos 144]
[--epochs 3] [--out FILE]

A whole run of E epochs is the measured run of ``--epochs`` epochs, lengthened or shortened by its
later epochs: set-up and the first epoch (compilation) are counted once, as they happen once.
"""

import tempfile
from pathlib import Path
from typing import Annotated

import pandas as pd
import typer

from benchmarks.paired import in_turn, ratio, report
from benchmarks.photos import make_folder

LENGTHS = (1, 5, 20)


def main(
    job: str,
    backbone: Annotated[list[str], typer.Option()] = ["vgg16", "resnet50", "densenet121"],  # noqa: B006
    photos: int = 144,
    size: int = 224,
    precision: Annotated[list[str], typer.Option()] = ["float32", "bfloat16"],  # noqa: B006
    epochs: int = 3,
    repeats: int = 2,
    out: Path | None = None,
) -> None:
    """Plain Keras trains the whole model; ours trains the tail from what crosses the cut."""
    table, measured = [], []
    with tempfile.TemporaryDirectory() as folder:
        data = make_folder(Path(folder), photos, photos // 4, photos // 4)
        for name in backbone:
            settings = (job, data, "--backbone", name, "--size", size, "--epochs", epochs)
            ours = {f"ours {kind}": ("ours", *settings, "--precision", kind) for kind in precision}
            rows = in_turn({"plain": ("plain", *settings), **ours}, repeats)
            rows["epoch"] = [min(seconds[1:]) for seconds in rows["epochs"]]
            for length in LENGTHS:
                rows[f"{length} epochs"] = rows["seconds"] + (length - epochs) * rows["epoch"]
            measured.append(rows.assign(backbone=name))
            columns = {
                "per epoch": "epoch",
                **{f"{length} epochs": f"{length} epochs" for length in LENGTHS},
            }
            for contender in ours:
                ratios = {
                    label: ratio(rows, "plain", contender, column)
                    for label, column in columns.items()
                }
                shown = {k: f"{r['median']} ({r['low']}-{r['high']})" for k, r in ratios.items()}
                epoch = rows[rows.contender == contender]["epoch"].median()
                row = {"backbone": name, "precision": contender.removeprefix("ours "), **shown}
                table.append({**row, "ours photos/s": round(photos / epoch, 1)})
    report(
        job, pd.DataFrame(table), pd.concat(measured), out, photos=photos, size=size, epochs=epochs
    )


if __name__ == "__main__":
    typer.run(main)
