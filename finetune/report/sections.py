"""The trials of a comparison, read from their folders and judged: one section per split digest."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from finetune.evaluation.pairs import compare_pairs
from finetune.evaluation.planning import MARGIN
from finetune.evaluation.ranking import cheapest_first, seed_summary, tie_groups
from finetune.evaluation.significance import Design, cross
from finetune.recipe.strategies import is_deterministic
from finetune.report import sentences
from finetune.report.axes import data_name, effects, read_settings
from finetune.report.entries import Cell, Entry, read_entries


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

    @cached_property
    def unseen(self) -> dict[str, float | None]:
        """Recipe -> mean accuracy without the test photos that another split holds, too."""
        found: dict[str, float | None] = {}
        for entry in self.entries:
            values = [(cell.get("unseen") or {}).get("accuracy") for cell in entry.cells]
            known = [value for value in values if value is not None]
            found[entry.name] = float(np.mean(known)) if len(known) == len(values) else None
        return found

    @property
    def known(self) -> int | None:
        """How many test photos have a copy or a look-alike in another split; None: not recorded."""
        left = (self.entries[0].shown.get("unseen") or {}).get("n")
        return None if left is None else self.photos - left

    @property
    def shared(self) -> str:
        """What test photos that another split holds, too, do to the accuracies."""
        accuracy = {entry.name: self.seeds["mean"][entry.name] for entry in self.entries}
        alike = (self.entries[0].shown.get("unseen") or {}).get("look_alikes", True)
        return sentences.shared(accuracy, self.unseen, self.known, alike)

    @cached_property
    def warnings(self) -> list[str]:
        """What the trials warned of; what not all of them did names its recipe."""
        told: dict[str, list[str]] = {}
        for entry in self.entries:
            for text in dict.fromkeys(w for cell in entry.cells for w in cell.get("warnings", ())):
                told.setdefault(text, []).append(entry.name)
        everybody = len(self.entries)
        return [
            text if len(names) == everybody else f"{sentences.listed(names)}: {text}"
            for text, names in told.items()
        ]

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
    classes, entries, left_out = read_entries(out, recipes)
    if not entries:
        return None
    names = [entry.name for entry in entries]
    hits = {e.name: np.stack([photos["correct"] for photos in e.scores]) for e in entries}
    nats = {e.name: np.stack([photos["loss"] for photos in e.scores]) for e in entries}
    settings = {entry.name: read_settings(out / entry.shown["run"]) for entry in entries}
    kinds = {name: settings[name]["strategy"] for name in names}
    fixed = [name for name in names if _is_fixed(settings[name])]
    # All recipes have the same test photos; if one names groups, they are not independent for any.
    known = [entry.test.groups for entry in entries if entry.test.groups is not None]
    design = Design(fixed, kinds, known[0] if known else None)
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
