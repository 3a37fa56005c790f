"""Would features of two photo sizes, joined, beat those of one? docs/methods/resolution.md.

python -m benchmarks.two_sizes [--data clothing-small] [--backbone vgg16] [--sizes 224 --sizes 320]

The average-pooled features of the last block are extracted at each size (what is stored is used). A
linear head is fitted on each size and on all of them side by side, its penalties chosen on the
validation photos, and measured on the test photos. "won" and "lost" are test photos against the
size with the lowest validation loss, p is McNemar's, exact.
"""

import tempfile
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import typer
from scipy.stats import binomtest
from sklearn.metrics import log_loss

from benchmarks.paired import report
from finetune.commands.extract_features import extract_features


def main(
    data: str = "clothing-small",
    backbone: str = "vgg16",
    sizes: Annotated[list[int], typer.Option()] = [224, 320],  # noqa: B006
    precision: str = "int8",
    settings: Annotated[list[str], typer.Option("--set")] = [],  # noqa: B006
    out: Path | None = None,
) -> None:
    """A row for each size, and one for all of them."""
    features = {}
    for size in sizes:
        with tempfile.TemporaryDirectory() as folder:
            extract_features(
                data=data,
                backbone=backbone,
                image_size=size,
                precision=precision,
                settings=settings,
                out=folder,
            )
            features[size] = np.load(Path(folder, "features.npy"))
            index = pd.read_csv(Path(folder, "index.csv"))
    rows = [measured(str(size), [each], index) for size, each in features.items()]
    best = min(rows, key=lambda row: row["validation_loss"])
    rows.append(measured(" + ".join(map(str, sizes)), list(features.values()), index))
    table = pd.DataFrame([versus(row, best) for row in rows])
    settled = {"data": data, "backbone": backbone, "precision": precision, "set": settings}
    report("two_sizes", table, table, out, **settled)


def measured(name: str, parts: list[np.ndarray], index: pd.DataFrame) -> dict[str, Any]:
    """A head on the features side by side: its losses, and which test photos it has right."""
    from finetune.training.joined_head import fit_joined

    joined = np.concatenate(parts, axis=1)
    rows = {split: joined[part] for split, part in index.groupby("split").groups.items()}
    labels = {split: part.to_numpy() for split, part in index.groupby("split")["label"]}
    head = fit_joined(
        rows["train"],
        labels["train"],
        rows["validation"],
        labels["validation"],
        [part.shape[1] for part in parts],
    )
    found = head.probabilities(rows["test"])
    return {
        "sizes": name,
        "validation_loss": head.validation_loss,
        "right": found.argmax(axis=1) == labels["test"],
        "log_loss": log_loss(labels["test"], found),
    }


def versus(row: dict[str, Any], best: dict[str, Any]) -> dict[str, Any]:
    """A row of the table: a head against the best one of a single size."""
    right = row["right"]
    won = int((right & ~best["right"]).sum())
    lost = int((best["right"] & ~right).sum())
    return {
        "sizes": row["sizes"],
        "validation_loss": round(row["validation_loss"], 4),
        "accuracy": round(float(right.mean()), 4),
        "log_loss": round(row["log_loss"], 4),
        "won": won,
        "lost": lost,
        "p": round(binomtest(won, won + lost).pvalue, 3) if won + lost else 1.0,
    }


if __name__ == "__main__":
    typer.run(main)
