"""The cells of a comparison, read from their run folders and judged: one ranked section per split digest."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from finetune.errors import DataError
from finetune.evaluation import significance
from finetune.evaluation.metrics import (
    apply_temperature,
    expected_calibration_error,
    fit_temperature,
    per_photo,
)
from finetune.evaluation.significance import (
    ALPHA,
    minimum_detectable_difference,
    representative,
    seed_summary,
)
from finetune.report.axes import data_name, effects, read_settings

Cell = Mapping[str, Any]


@dataclass(frozen=True)
class Predictions:
    """One model on one split: file names (n,), labels int (n,) and probabilities float64 (n, classes)."""

    files: list[str]
    labels: np.ndarray
    probabilities: np.ndarray

    def ordered(self, files: Sequence[str]) -> "Predictions":
        """The same photos in another order; DataError if they are not the same."""
        place = {file: i for i, file in enumerate(self.files)}
        if set(place) != set(files) or len(self.files) != len(files):
            raise DataError(
                f"Cells with the same split digest name different photos ({len(self.files)} and {len(files)}, "
                f"{len(set(place) ^ set(files))} of them in one only). Rows of a comparison share one data folder: "
                "delete the cells that were run on a copy of it, and compare again."
            )
        rows = [place[file] for file in files]
        return Predictions(list(files), self.labels[rows], self.probabilities[rows])


@dataclass(frozen=True)
class Entry:
    """A recipe on one split: its finished cells by seed, and the predictions of the one that represents it."""

    name: str
    cells: list[Cell]
    shown: Cell
    validation: Predictions
    test: Predictions

    @cached_property
    def photos(self) -> pd.DataFrame:
        """``metrics.per_photo`` on the test split."""
        return per_photo(self.test.probabilities, self.test.labels)

    @cached_property
    def temperature(self) -> float:
        """Fitted on validation."""
        return fit_temperature(self.validation.probabilities, self.validation.labels)

    @cached_property
    def scaled(self) -> np.ndarray:
        """Test probabilities after temperature scaling."""
        return apply_temperature(self.test.probabilities, self.temperature)

    @cached_property
    def scaled_ece(self) -> float:
        return expected_calibration_error(self.scaled, self.test.labels)

    def mean(self, split: str, key: str) -> float:
        """A metric's mean over the seeds."""
        return float(np.mean([cell[split][key] for cell in self.cells]))

    def cost(self, key: str) -> float:
        """A cost's mean over the seeds; infinite where it is not known."""
        values = [(cell.get("cost") or {}).get(key) for cell in self.cells]
        return float("inf") if None in values else float(np.mean(np.array(values, dtype=float)))


@dataclass(frozen=True)
class Section:
    """Everything that was measured on the same photos.

    ``entries`` are in the order of the ranking: by tie group, then cheapest first. ``effects`` is what ``axes.effects``
    found, ``left_out`` holds (recipe, reason), and ``data`` is what the recipes call the photos.
    """

    split: str
    data: str
    classes: list[str]
    entries: list[Entry]
    pairs: pd.DataFrame
    groups: pd.DataFrame
    effects: list[dict[str, Any]]
    left_out: list[tuple[str, str]]

    @property
    def photos(self) -> int:
        """Size of the test split."""
        return len(self.entries[0].test.files)

    @cached_property
    def seeds(self) -> pd.DataFrame:
        """``significance.seed_summary`` of the test accuracies."""
        return seed_summary(
            {
                entry.name: [cell["test"]["accuracy"] for cell in entry.cells]
                for entry in self.entries
            }
        )

    @cached_property
    def recommended(self) -> tuple[Entry, Entry]:
        """The recipe to use, and the best one, both by validation alone.

        The one-standard-error rule (Breiman et al. 1984, Classification and Regression Trees): the cheapest of
        the recipes whose validation accuracy, averaged over seeds, is within one standard error of the best one's.
        """
        best = max(
            self.entries,
            key=lambda entry: (entry.mean("validation", "accuracy"), -entry.cost("seconds")),
        )
        accuracy, n = best.mean("validation", "accuracy"), len(best.validation.files)
        enough = accuracy - np.sqrt(accuracy * (1 - accuracy) / n) - 1e-12
        good = [entry for entry in self.entries if entry.mean("validation", "accuracy") >= enough]
        return min(good, key=lambda entry: (entry.cost("seconds"), entry is not best)), best

    @cached_property
    def detectable(self) -> dict[str, float]:
        """Fractions: median share of photos on which two recipes disagree; what one test, and all tests, can find."""
        share = float((self.pairs["only_a"] + self.pairs["only_b"]).median()) / self.photos
        alone = minimum_detectable_difference(self.photos, share)
        adjusted = minimum_detectable_difference(self.photos, share, ALPHA / len(self.pairs))
        return {"share": share, "alone": alone, "adjusted": adjusted}

    @cached_property
    def verdict(self) -> str:
        """The comparison in one sentence: ``significance.verdict``, and the axes that make no difference."""
        sentence = significance.verdict(self.pairs, self.groups, self.photos)
        silent = [effect["axis"] for effect in self.effects if not effect["apart"]]
        if silent and self.pairs["better"].notna().any():
            sentence += f"; the choice of {_joined(silent)} makes no measurable difference"
        starts_with_name = any(sentence.startswith(entry.name) for entry in self.entries)
        return sentence if starts_with_name else sentence[0].upper() + sentence[1:]


def sections(out: Path, cells: Sequence[Cell]) -> list[Section]:
    """Read the finished cells and rank them, those of one split digest together.

    Args:
        out: the folder that the cells' ``run`` is relative to.
        cells: as ``report.write_report`` takes them.

    Raises:
        DataError: cells with the same digest name different photos.
    """
    by_split: dict[str, dict[str, list[Cell]]] = {}
    # A cell that diverged states no split; it counts where its recipe's other seeds were measured.
    split_of = {cell["recipe"]: cell["split"] for cell in cells if cell["status"] == "done"}
    for cell in sorted(cells, key=lambda cell: (cell["recipe"], cell["seed"], cell["name"])):
        if cell["status"] in ("done", "diverged") and cell["recipe"] in split_of:
            split = cell.get("split") or split_of[cell["recipe"]]
            by_split.setdefault(split, {}).setdefault(cell["recipe"], []).append(cell)
    found = [_section(out, split, recipes) for split, recipes in by_split.items()]
    return sorted(
        (section for section in found if section),
        key=lambda section: (-len(section.entries), section.split),
    )


def read_predictions(run: Path) -> tuple[list[str], dict[str, Predictions]]:
    """Class names, and the predictions of each split, of a run folder."""
    classes = json.loads((run / "classes.json").read_text())
    # Columns by position and text as it stands: a class may be called "file", "split" or "NA".
    columns = ["file", "class", *range(len(classes)), "split"]
    text = dict.fromkeys(("file", "class", "split"), str)
    table = pd.read_csv(
        run / "predictions.csv", header=0, names=columns, dtype=text, keep_default_na=False
    )
    label = {name: index for index, name in enumerate(classes)}
    return classes, {
        split: Predictions(
            list(rows["file"]),
            rows["class"].map(label).to_numpy(dtype=np.int64),
            rows[list(range(len(classes)))].to_numpy(dtype=np.float64),
        )
        for split, rows in table.groupby("split")
    }


def _section(out: Path, split: str, recipes: Mapping[str, list[Cell]]) -> Section | None:
    classes, entries, left_out = _entries(out, recipes)
    if not entries:
        return None
    correct = {entry.name: entry.photos["correct"].to_numpy() for entry in entries}
    nats = {entry.name: entry.photos["loss"].to_numpy() for entry in entries}
    accuracies = {
        entry.name: [cell["test"]["accuracy"] for cell in entry.cells] for entry in entries
    }
    pairs = significance.compare_pairs(correct, nats, accuracies)
    groups = significance.tie_groups(
        correct, pairs, {entry.name: entry.cost("seconds") for entry in entries}
    )
    by_name = {entry.name: entry for entry in entries}
    found = effects(
        {entry.name: read_settings(out / entry.shown["run"]) for entry in entries}, pairs
    )
    ranked = [by_name[name] for name in groups["recipe"]]
    return Section(
        split,
        data_name(out / ranked[0].shown["run"]),
        classes,
        ranked,
        pairs,
        groups,
        found,
        left_out,
    )


def _entries(
    out: Path, recipes: Mapping[str, list[Cell]]
) -> tuple[list[str], list[Entry], list[tuple[str, str]]]:
    """Class names, the recipes that have a typical run (all with the photos in the same order), and the others."""
    classes: list[str] = []
    entries: list[Entry] = []
    left_out: list[tuple[str, str]] = []
    for name, cells in recipes.items():
        done = {cell["seed"]: cell for cell in cells if cell["status"] == "done"}
        losses = {
            cell["seed"]: cell["validation"]["loss"] if cell["seed"] in done else np.nan
            for cell in cells
        }
        try:
            shown = done[representative(losses)]
        except ValueError:
            left_out.append((name, f"{len(cells) - len(done)} of {len(cells)} seeds diverged"))
            continue
        classes, parts = read_predictions(out / shown["run"])
        validation, test = parts["validation"], parts["test"]
        if entries:
            validation, test = (
                validation.ordered(entries[0].validation.files),
                test.ordered(entries[0].test.files),
            )
        entries.append(Entry(name, list(done.values()), shown, validation, test))
    return classes, entries, left_out


def _joined(names: Sequence[str]) -> str:
    return " and of ".join([", of ".join(names[:-1]), names[-1]]) if len(names) > 1 else names[0]
