"""Why does validation loss rise in the first epoch after the converged head? One cause at a time.

python -m benchmarks.first_epoch [--data clothing-small] [--size 64] [--seeds 2] [--out FILE]

The top block of a network learns for two epochs, from the head that L-BFGS has converged. Each row
changes one thing of the plain recipe, and tells validation loss before, after the first epoch and
after the second, as means over the seeds, with the training loss of the first epoch.
"""

import tempfile
from pathlib import Path
from typing import Any

import pandas as pd
import typer
import yaml

import finetune as ft
from benchmarks.paired import report

PLAIN = {"strategy": "top-blocks", "epochs": 2, "patience": 2}
SGD = {"name": "sgd", "momentum": 0.9}
CAUSES: dict[str, dict[str, Any]] = {
    "plain: Adam, 1e-5": {},
    "steps a third as large": {"learning_rate": 3.3e-6},
    "steps a tenth as large": {"learning_rate": 1e-6},
    "warm-up over the first epoch": {"warmup": 0.5},
    "SGD, 1e-4": {"optimizer": SGD, "learning_rate": 1e-4},
    "fewer steps: batches of 128": {"batch_size": 128},
    "averaged weights": {"average": "ema"},
    "labels smoothed by 0.1": {"label_smoothing": 0.1},
    "pulled to the start": {"anchor": 0.01},
    "head with dropout 0.5": {"head": {"dropout": 0.5}},
}


def main(
    data: str = "clothing-small",
    backbone: str = "vgg16",
    size: int = 64,
    seeds: int = 2,
    out: Path | None = None,
) -> None:
    """Train all rows as one comparison: they share the stored activations."""
    shared = {"data": data, "backbone": backbone, "image_size": size}
    with tempfile.TemporaryDirectory() as folder:
        recipes = Path(folder, "recipes")
        recipes.mkdir()
        for number, changed in enumerate(CAUSES.values()):
            recipe = {**shared, **PLAIN, **changed, "matrix": {"seed": list(range(seeds))}}
            Path(recipes, f"row{number}.yaml").write_text(yaml.safe_dump(recipe))
        ft.compare(recipes, out=Path(folder, "compared"), photos=False)
        rows = [_losses(Path(folder, "compared/cells"), number) for number in range(len(CAUSES))]
    table = pd.DataFrame(rows, index=pd.Index(CAUSES, name="changed")).round(4).reset_index()
    report("first_epoch", table, table, out, data=data, backbone=backbone, size=size, seeds=seeds)


def _losses(cells: Path, number: int) -> dict[str, float]:
    histories = [pd.read_csv(file) for file in cells.glob(f"row{number}-s*/history.csv")]
    tails = pd.concat(rows[rows["phase"] == "tail"] for rows in histories)
    means = tails.groupby("epoch")[["val_loss", "val_accuracy", "loss"]].mean()
    return {
        "before": means["val_loss"][0],
        "after 1": means["val_loss"][1],
        "after 2": means["val_loss"][2],
        "training loss in 1": means["loss"][1],
        "accuracy before": means["val_accuracy"][0],
        "accuracy after 1": means["val_accuracy"][1],
    }


if __name__ == "__main__":
    typer.run(main)
