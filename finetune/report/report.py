"""What a comparison leaves behind: report.html, results.csv and results.md."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from finetune import __version__
from finetune.evaluation.folds import with_folds
from finetune.evaluation.metrics import confusion, top_confusions
from finetune.evaluation.planning import MARGIN
from finetune.files import commit_csv, commit_text
from finetune.report import figures
from finetune.report.entries import Cell, Entry
from finetune.report.galleries import explanations, galleries
from finetune.report.page import environment, page
from finetune.report.sections import Section, sections
from finetune.report.sentences import scored
from finetune.report.table import results_table
from finetune.runs import ledger

SHOWN_PANELS = 24
SHOWN_PAIRS = 300
SHOWN_PHOTOS = 48
SHOWN_MISTAKES = 6
_COSTS = (
    "seconds",
    "seconds_alone",
    "trainable",
    "parameters",
    "stored_bytes",
    "peak_memory",
    "multiply_adds",
)


def write_report(out: Path, cells: Sequence[Cell], plan: Mapping[str, Any]) -> dict[str, Any]:
    """Write report.html, results.csv and results.md of a comparison.

    Args:
        out: the comparison's folder.
        cells: one dict per cell: name, recipe, seed, status (done, failed or diverged), reason, run
            (folder, relative to ``out``), backbone, strategy, head, augment, views, cut, split
            (digest), settings (axis -> value); of a done cell also test and validation
            (``metrics.summarize``), seconds (extract, train, total) and cost (seconds,
            seconds_alone, parameters, trainable, stored_bytes, peak_memory, multiply_adds).
        plan: cells, extractions, data (names), roots (split digest -> folder of the photos) and, if
            known, command, margin (fraction) and overlaps (split digest -> leaks and
            near_duplicates).

    Returns:
        report (path); verdict (one sentence per split digest); ranking: per recipe split, group,
        recipe, accuracy (mean over seeds) with accuracy_interval, accuracy_unseen (without test
        photos that another split holds, too), seeds, mean, sd, cost_seconds and recommended, in the
        order of the table; pairs: what ``compare_pairs`` found, with their split; leaks and
        near_duplicates (files, see ``data.overlap``); warnings (sentences); ledger (split digest ->
        models and comparisons); margin (points). If folds are set, its row in the ranking and
        folds (a list by split and recipe) have what ``evaluation.folds.with_folds`` adds.

    Raises:
        DataError: cells with the same split digest name different photos.
    """
    margin = plan.get("margin", MARGIN)
    ranked = sections(out, cells, margin)
    parts = [_context(section, out, plan, len(ranked), cells) for section in ranked]
    rows = [row for part in parts for row in part["rows"]]
    context: dict[str, Any] = {
        "version": __version__,
        "cells": cells,
        "recipes": len({cell["recipe"] for cell in cells}),
        "plan": plan,
        "verdicts": _verdicts(parts) or [_no_verdict(cells)],
        "sections": parts,
        "unfinished": sum(cell["status"] != "done" for cell in cells),
        "dropped": _dropped(cells),
    }
    commit_csv(out / "results.csv", results_table(out, cells, rows))
    commit_text(out / "results.md", environment().get_template("results.md").render(context))
    commit_text(out / "report.html", page("report.html", context))
    ranking = [
        {key: value for key, value in row.items() if not isinstance(value, Entry)} for row in rows
    ]
    verdict = " ".join(f"{sentence}." for sentence in context["verdicts"])
    return {
        "report": str(out / "report.html"),
        "verdict": verdict,
        "ranking": ranking,
        "pairs": [
            {"split": section.split, **pair}
            for section in ranked
            for pair in json.loads(section.pairs.to_json(orient="records", double_precision=15))
        ],
        "leaks": [group for part in parts for group in part["leaks"]],
        "near_duplicates": [pair for part in parts for pair in part["near_duplicates"]],
        "warnings": [text for section in ranked for text in section.warnings],
        "ledger": {part["section"].split: part["ledger"] for part in parts},
        "margin": 100 * margin,
        **_folds(ranking),
    }


def _folds(ranking: Sequence[Mapping[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """What folds found, beside the ranking; nothing where none are set."""
    found = [
        {"split": row["split"], "recipe": row["recipe"], **row["folds"]}
        for row in ranking
        if "folds" in row
    ]
    return {"folds": found} if found else {}


def _verdicts(parts: Sequence[Mapping[str, Any]]) -> list[str]:
    """One per split; with more than one, each says which."""
    if len(parts) == 1:
        return [parts[0]["section"].verdict]
    sections = [part["section"] for part in parts]
    return [f"{section.data} ({section.split[:8]}): {section.verdict}" for section in sections]


def _dropped(cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """What has no result, those of one reason together: status, reason, names."""
    found: dict[tuple[str, str], list[str]] = {}
    for cell in cells:
        if cell["status"] != "done":
            reason = cell["reason"] or "no reason given"
            found.setdefault((cell["status"], reason), []).append(cell["name"])
    return [
        {"status": status, "reason": reason, "names": names}
        for (status, reason), names in found.items()
    ]


def _no_verdict(cells: Sequence[Cell]) -> str:
    finished = sum(cell["status"] == "done" for cell in cells)
    return f"There is nothing to rank: {finished} of {len(cells)} trials finished"


def _rows(section: Section) -> list[dict[str, Any]]:
    """The ranking, as plain values but for the entry itself."""
    groups = section.groups.set_index("recipe")["group"]
    chosen = section.recommended[0]
    return [
        {
            "entry": entry,
            "split": section.split,
            "number": number,
            "group": int(groups[entry.name]),
            "recipe": entry.name,
            "accuracy": float(section.seeds["mean"][entry.name]),
            "accuracy_interval": list(entry.interval),
            "accuracy_unseen": section.unseen[entry.name],
            "seeds": len(entry.cells),
            "mean": float(section.seeds["mean"][entry.name]),
            "sd": _known(section.seeds["sd"][entry.name]),
            "cost_seconds": _known(entry.cost("seconds")),
            "recommended": entry is chosen,
        }
        for number, entry in enumerate(section.entries, start=1)
    ]


def _context(
    section: Section, out: Path, plan: Mapping[str, Any], splits: int, cells: Sequence[Cell]
) -> dict[str, Any]:
    """Everything that the page says about one split."""
    rows = with_folds(_rows(section), cells)
    shown = section.entries[:SHOWN_PANELS]
    root = Path(plan["roots"][section.split]) if section.split in plan.get("roots", {}) else None
    points = [row for row in rows if row["cost_seconds"] is not None]
    low, high = np.array([row["accuracy_interval"] for row in rows]).T
    pairs = section.pairs.sort_values("p", kind="stable")
    counts = ledger.record(section.split, [out / run for run in section.runs])
    histories = {entry.name: _histories(entry, out) for entry in shown}
    held_twice = plan.get("overlaps", {}).get(section.split, {})
    return {
        "section": section,
        "ledger": counts,
        "scored": scored(counts),
        "leaks": held_twice.get("leaks", []),
        "near_duplicates": held_twice.get("near_duplicates") or [],
        "rows": rows,
        "folds": [row for row in rows if "folds" in row],
        "costs": {
            entry.name: {key: _known(entry.cost(key)) for key in _COSTS}
            for entry in section.entries
        },
        "range": (float(low.min()), float(high.max())),
        "digits": 1 if section.photos <= 2000 else 2,
        "beaten_by": _winners_over(section.recommended[0].name, pairs),
        "pareto": [figures.pareto(points, *size) for size in ((900, 420), (358, 340))]
        if points
        else [],
        "curves": figures.curves(histories),
        "accuracies": figures.accuracies(
            histories, {entry.name: entry.shown["test"]["accuracy"] for entry in shown}
        ),
        "reliability": [
            (e, figures.reliability(e.test.probabilities, e.scaled, e.test.labels)) for e in shown
        ],
        "confusion": [
            (entry, counts, top_confusions(counts, section.classes, SHOWN_MISTAKES))
            for entry in shown
            for counts in [confusion(entry.test.probabilities, entry.test.labels)]
        ],
        "unrecognised": {
            entry.name: [section.classes[index] for index in entry.shown["test"]["zero_recall"]]
            for entry in section.entries
            if entry.shown["test"]["zero_recall"]
        },
        "pairs": [_leader_first(pair) for pair in pairs[:SHOWN_PAIRS].to_dict("records")],
        "explained": explanations(out / section.recommended[0].shown["run"], root),
        "galleries": galleries(section, root, max(2, min(12, SHOWN_PHOTOS // (3 * splits)))),
    }


def _winners_over(name: str, pairs: pd.DataFrame) -> list[str]:
    own = pairs[(pairs["a"] == name) | (pairs["b"] == name)]
    return [winner for winner in own["better"].dropna() if winner != name]


def _leader_first(pair: Mapping[str, Any]) -> dict[str, Any]:
    """A row of ``compare_pairs``, turned round where b is the more accurate one."""
    if pair["difference"] >= 0:
        return dict(pair)
    swapped = {"a": "b", "b": "a", "only_a": "only_b", "only_b": "only_a"}
    turned = {
        "difference": "difference",
        "low": "high",
        "high": "low",
        "loss_difference": "loss_difference",
    }
    return {
        **pair,
        **{k: pair[v] for k, v in swapped.items()},
        **{k: -pair[v] for k, v in turned.items()},
    }


def _histories(entry: Entry, out: Path) -> tuple[pd.DataFrame, list[pd.DataFrame]]:
    seeds = {cell["name"]: pd.read_csv(out / cell["run"] / "history.csv") for cell in entry.cells}
    return seeds[entry.shown["name"]], list(seeds.values())


def _known(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
