"""The predictions that a run left behind, read back: ``predictions.csv``."""

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from finetune.errors import DataError
from finetune.files import from_text


@dataclass(frozen=True)
class Predictions:
    """One model on one split.

    Attributes:
        files: (n,) names; labels: int (n,); probabilities: float64 (n, classes).
        groups: str (n,), what each photo shows, or None.
    """

    files: list[str]
    labels: np.ndarray
    probabilities: np.ndarray
    groups: np.ndarray | None = None

    def ordered(self, files: Sequence[str]) -> "Predictions":
        """The same photos in another order; DataError if they are not the same."""
        place = {file: i for i, file in enumerate(self.files)}
        if set(place) != set(files) or len(self.files) != len(files):
            raise DataError(
                f"Trials with the same split digest name different photos ({len(self.files)} and "
                f"{len(files)}, {len(set(place) ^ set(files))} of them in one only). Rows of a "
                "comparison share one data folder: delete the trials that were run on a copy of "
                "it, and compare again."
            )
        rows = [place[file] for file in files]
        groups = None if self.groups is None else self.groups[rows]
        return Predictions(list(files), self.labels[rows], self.probabilities[rows], groups)


def read_predictions(run: Path) -> tuple[list[str], dict[str, Predictions]]:
    """Class names, and the predictions of each split, of a run folder.

    ``predictions.csv`` may end in a column that says what each photo shows (an animal, a patient).
    """
    classes = json.loads((run / "classes.json").read_text(encoding="utf-8"))
    # Columns by position and text as it stands: a class may be called "file", "split" or "NA".
    columns = ["file", "class", *range(len(classes)), "split", "group"]
    text = dict.fromkeys(("file", "class", "split", "group"), str)
    with (run / "predictions.csv").open(newline="", encoding="utf-8") as file:
        width = len(next(csv.reader(file)))
    table = pd.read_csv(
        run / "predictions.csv", header=0, names=columns[:width], dtype=text, keep_default_na=False
    )
    for name in {"file", "class", "group"} & set(table):
        table[name] = table[name].map(from_text)
    label = {name: index for index, name in enumerate(classes)}
    return classes, {
        split: Predictions(
            list(rows["file"]),
            rows["class"].map(label).to_numpy(dtype=np.int64),
            rows[list(range(len(classes)))].to_numpy(dtype=np.float64),
            rows["group"].to_numpy() if "group" in rows else None,
        )
        for split, rows in table.groupby("split")
    }
