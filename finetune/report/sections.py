"""The trials of a comparison, read from their folders and judged: one section per split digest."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from finetune.evaluation.metrics import (
    apply_temperature,
    expected_calibration_error,
    fit_temperature,
    per_photo,
)
from finetune.evaluation.planning import MARGIN
from finetune.evaluation.ranking import cheapest_first, seed_summary, tie_groups
from finetune.evaluation.significance import Design, compare_pairs, cross
from finetune.recipe.strategies import is_deterministic
from finetune.report import sentences
from finetune.report.axes import data_name, effects, read_settings
from finetune.runs.predictions import Predictions, read_predictions

Cell = Mapping[str, Any]


@dataclass(frozen=True)
class Entry:
    """A recipe on one split.

    Attributes:
        cells: its finished trials by seed, the one that is shown first.
        tests: the predictions of each on the test split.
        validation: of the one that is shown.
        diverged: how many more trials did not finish because their loss was not finite.
        histories: what each trial recorded per epoch.
    """

    name: str
    cells: list[Cell]
    tests: list[Predictions]
    validation: Predictions
    diverged: int
    histories: list[pd.DataFrame]

    @property
    def shown(self) -> Cell:
        """The trial whose validation loss is nearest the mean of all seeds: galleries show it."""
        return self.cells[0]

    @property
    def test(self) -> Predictions:
        """Of the trial that is shown."""
        return self.tests[0]

    @cached_property
    def scores(self) -> list[pd.DataFrame]:
        """``metrics.per_photo`` of each trial on the test split."""
        return [per_photo(one.probabilities, one.labels) for one in self.tests]

    @property
    def photos(self) -> pd.DataFrame:
        """``metrics.per_photo`` of the trial that is shown."""
        return self.scores[0]

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

    @property
    def cut_short(self) -> bool:
        """Whether training ended while it still improved, in every trial."""
        return all(_best_epoch(rows) == len(rows) - 1 > 0 for rows in self.histories)

    @property
    def unchanged(self) -> bool:
        """Whether epochs were trained and the weights of epoch 0 kept, in every trial."""
        return all(_best_epoch(rows) == 0 and len(rows) > 1 for rows in self.histories)

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

    ``entries`` are in the order of the ranking: by tie group, then cheapest first. ``effects`` is
    what ``axes.effects`` found, ``left_out`` holds (recipe, reason), ``data`` is what the recipes
    call the photos, and a difference of accuracy under ``margin`` does not matter.
    """

    split: str
    data: str
    classes: list[str]
    entries: list[Entry]
    pairs: pd.DataFrame
    groups: pd.DataFrame
    effects: list[dict[str, Any]]
    left_out: list[tuple[str, str]]
    margin: float

    @property
    def photos(self) -> int:
        """Size of the test split."""
        return len(self.entries[0].test.files)

    @cached_property
    def seeds(self) -> pd.DataFrame:
        """``ranking.seed_summary`` of the test accuracies."""
        return seed_summary(
            {e.name: [cell["test"]["accuracy"] for cell in e.cells] for e in self.entries}
        )

    @cached_property
    def recommended(self) -> tuple[Entry, Entry]:
        """The recipe to use, and the best one, both by validation alone.

        The one-standard-error rule (Breiman et al. 1984, Classification and Regression Trees): the
        cheapest of the recipes whose validation accuracy, averaged over seeds, is within one
        standard error of the best one's. See ``ranking.cheapest_first`` for what is cheap.
        """
        accuracy = {entry.name: entry.mean("validation", "accuracy") for entry in self.entries}
        cost = {entry.name: entry.cost("seconds") for entry in self.entries}
        size = {entry.name: entry.cost("trainable") for entry in self.entries}
        order = cheapest_first(list(cost), cost, size)
        top = max(accuracy.values())
        error = np.sqrt(top * (1 - top) / len(self.entries[0].validation.files))
        good = [name for name in order if accuracy[name] >= top - error - 1e-12]
        best = next(name for name in order if accuracy[name] == top)
        entries = {entry.name: entry for entry in self.entries}
        return entries[good[0]], entries[best]

    @property
    def advice(self) -> str:
        """What the recommendation rests on, and how far it may be from the best."""
        return sentences.recommendation(self.pairs, self.recommended[0].name)

    @property
    def runs(self) -> list[str]:
        """The folders of all models that were scored, as the trials name them."""
        return [cell["run"] for entry in self.entries for cell in entry.cells]

    @cached_property
    def verdict(self) -> str:
        """The comparison in one sentence: ``sentences.verdict``."""
        cut_short = [entry.name for entry in self.entries if entry.cut_short]
        text = sentences.verdict(self.pairs, self.groups, cut_short, self.margin)
        starts_with_name = any(text.startswith(entry.name) for entry in self.entries)
        return text if starts_with_name else text[0].upper() + text[1:]

    @cached_property
    def findings(self) -> list[str]:
        """More sentences: what each swept setting does, identical recipes, seeds that diverged."""
        found = [
            sentences.effect(effect["axis"], one, self.margin)
            for effect in self.effects
            for one in effect["contrasts"]
        ]
        found += sentences.identical(self.pairs, [e.name for e in self.entries if e.unchanged])
        for entry in self.entries:
            if entry.diverged:
                count = f"{entry.diverged} of {len(entry.cells) + entry.diverged} seeds diverged"
                found.append(f"{entry.name}: {count}; its figures are those of the others")
        return found


def sections(out: Path, cells: Sequence[Cell], margin: float = MARGIN) -> list[Section]:
    """Read the finished trials and rank them, those of one split digest together.

    Args:
        out: the folder that the cells' ``run`` is relative to.
        cells: as ``report.write_report`` takes them.
        margin: a difference of accuracy (fraction) under it does not matter.

    Raises:
        DataError: trials with the same digest name different photos.
    """
    by_split: dict[str, dict[str, list[Cell]]] = {}
    # A trial that diverged states no split; it counts where its recipe's other seeds were measured.
    split_of = {cell["recipe"]: cell["split"] for cell in cells if cell["status"] == "done"}
    for cell in sorted(cells, key=lambda cell: (cell["recipe"], cell["seed"], cell["name"])):
        if cell["status"] in ("done", "diverged") and cell["recipe"] in split_of:
            split = cell.get("split") or split_of[cell["recipe"]]
            by_split.setdefault(split, {}).setdefault(cell["recipe"], []).append(cell)
    found = [_section(out, split, recipes, margin) for split, recipes in by_split.items()]
    return sorted(
        (section for section in found if section),
        key=lambda section: (-len(section.entries), section.split),
    )


def _section(
    out: Path, split: str, recipes: Mapping[str, list[Cell]], margin: float
) -> Section | None:
    classes, entries, left_out = _entries(out, recipes)
    if not entries:
        return None
    names = [entry.name for entry in entries]
    hits = {e.name: np.stack([photos["correct"] for photos in e.scores]) for e in entries}
    nats = {e.name: np.stack([photos["loss"] for photos in e.scores]) for e in entries}
    settings = {entry.name: read_settings(out / entry.shown["run"]) for entry in entries}
    kinds = {name: settings[name]["strategy"] for name in names}
    fixed = [name for name in names if _is_fixed(settings[name])]
    design = Design(fixed, kinds, entries[0].test.groups)
    pairs = compare_pairs(hits, nats, design)
    cost = {entry.name: entry.cost("seconds") for entry in entries}
    size = {entry.name: entry.cost("trainable") for entry in entries}
    groups = tie_groups(hits, pairs, cost, size)
    found = effects(settings, cross(hits, design), margin)
    by_name = {entry.name: entry for entry in entries}
    ranked = [by_name[name] for name in groups["recipe"]]
    data = data_name(out / ranked[0].shown["run"])
    return Section(split, data, classes, ranked, pairs, groups, found, left_out, margin)


def _is_fixed(settings: Mapping[str, str]) -> bool:
    """As the strategy's row declares it; ensembles and other made models are what they are."""
    keys = (settings["strategy"], settings["solver"], settings.get("views", "0"))
    return is_deterministic(*keys)


def _entries(
    out: Path, recipes: Mapping[str, list[Cell]]
) -> tuple[list[str], list[Entry], list[tuple[str, str]]]:
    """Class names, the recipes that mostly finished (all on the same photos), and the others."""
    classes: list[str] = []
    entries: list[Entry] = []
    left_out: list[tuple[str, str]] = []
    for name, cells in recipes.items():
        done = _typical_first([cell for cell in cells if cell["status"] == "done"])
        diverged = len(cells) - len(done)
        if diverged >= len(done):
            left_out.append((name, f"{diverged} of {len(cells)} seeds diverged"))
            continue
        read = [read_predictions(out / cell["run"]) for cell in done]
        classes = read[0][0]
        validation, tests = read[0][1]["validation"], [parts["test"] for _, parts in read]
        first = entries[0] if entries else None
        files = first.test.files if first else tests[0].files
        tests = [one.ordered(files) for one in tests]
        if first:
            validation = validation.ordered(first.validation.files)
        histories = [pd.read_csv(out / cell["run"] / "history.csv") for cell in done]
        entries.append(Entry(name, done, tests, validation, diverged, histories))
    return classes, entries, left_out


def _typical_first(cells: list[Cell]) -> list[Cell]:
    """The trial whose validation loss is nearest the mean first, then by seed."""
    losses = [cell["validation"]["loss"] for cell in cells]
    middle = np.mean(losses) if losses else 0.0
    away = [round(abs(loss - middle), 12) for loss in losses]  # two seeds are equally near
    shown = cells[int(np.argmin(away))] if cells else None
    return sorted(cells, key=lambda cell: (cell is not shown, cell["seed"]))


def _best_epoch(history: pd.DataFrame) -> int:
    """The row of the lowest validation loss, -1 for a head that was fitted without epochs."""
    return int(history["val_loss"].argmin()) if len(history) else -1
