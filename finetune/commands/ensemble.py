"""Finished runs combined into one model, and compared with it. Needs TensorFlow from the first call on, not for its import."""

import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import yaml

from finetune.errors import UsageError
from finetune.evaluation import plots
from finetune.evaluation.blend import BLENDS, Blend, paired_tests, verdict
from finetune.evaluation.metrics import confusion, per_class, summarize
from finetune.execution.sharing import entries, extractions, sharing, trial_row
from finetune.files import commit, commit_by_name, commit_json, commit_text, locked
from finetune.progress import Reporter
from finetune.recipe.matrix import Cell
from finetune.report.report import write_report
from finetune.report.sections import Predictions
from finetune.runs import ensemble_card
from finetune.runs.folder import read_result, write_result
from finetune.runs.members import Member, probabilities

if TYPE_CHECKING:
    import keras

ROWS = {blend: f"blend-{blend}" for blend in BLENDS}  # what the report calls them


@dataclass(frozen=True)
class Blended:
    """One blend of the members: its predictions by split, and what its ``metrics.json`` holds."""

    splits: Mapping[str, Predictions]
    result: dict[str, Any]


def ensemble(
    members: Sequence[Member], out: Path, reporter: Reporter, chosen: str = "mean"
) -> dict[str, Any]:
    """Combine runs: a folder that opens like that of a run, with a report on the members and all blends.

    Args:
        members: from ``read_members``.
        out: the folder; ``out/blends`` holds the predictions of the blends that were not chosen.
        reporter: told of progress.
        chosen: the blend that becomes the model, a key of ``BLENDS``.

    Returns:
        What ``ensemble --json`` prints; also ``metrics.json``.

    Raises:
        UsageError: ``out`` holds a finished run. BusyError: another process works in it.
        IntegrityError: a member's model is damaged, or the joined model differs from its members.
    """
    from finetune.model.ensemble import audit, join
    from finetune.runs.classifier import Classifier

    with locked(out):
        if read_result(out):
            raise UsageError(
                f"{out} already holds a finished run. Choose another --out, or delete the folder."
            )
        start = time.perf_counter()
        labels = members[0].splits["validation"].labels
        fitted = {
            name: fit(probabilities(members, "validation"), labels) for name, fit in BLENDS.items()
        }
        models = [Classifier.open(member.path).model for member in members]
        joined = {name: join(models, blend) for name, blend in fitted.items()}
        difference = audit(joined[chosen], models, fitted[chosen])
        reporter.say(
            f"joined into {joined[chosen].count_params():,} parameters; off its members by {difference:.1g}"
        )
        blends = {name: _blended(members, name, fitted[name], joined[name]) for name in BLENDS}
        for name, blended in blends.items():
            _write_predictions(
                out if name == chosen else out / "blends" / name, members[0].classes, blended
            )
        result = {
            "run": str(out),
            "out": str(out),
            **blends[chosen].result,
            **_judged(members, blends, chosen),
        }
        result |= {
            "audit": {"largest_difference": difference},
            "report": _report(members, blends, out),
        }
        commit_by_name(out / "model.keras", joined[chosen].save)
        result["seconds"] = {"total": round(time.perf_counter() - start, 3)}
        _write_rest(out, members, blends, chosen, result)
        return result


def _blended(members: Sequence[Member], name: str, blend: Blend, model: "keras.Model") -> Blended:
    first = members[0]
    splits = {
        split: Predictions(
            own.files, own.labels, blend.apply(probabilities(members, split)).astype(np.float32)
        )
        for split, own in first.splits.items()
    }
    trainable = sum(member.result["parameters"]["trainable"] for member in members)
    result: dict[str, Any] = {
        "members": [member.name for member in members],
        "runs": {member.name: str(member.path) for member in members},
        "blend": name,
        "weights": dict(zip((member.name for member in members), blend.weights, strict=True)),
        "temperatures": dict(
            zip((member.name for member in members), blend.temperatures, strict=True)
        ),
        "split": first.result["split"],
        "listed": first.result["listed"],
        "parameters": {"total": model.count_params(), "trainable": trainable},
        "cost": _cost(members, model),
    }
    for split, own in splits.items():
        table = per_class(own.probabilities, own.labels, first.classes)
        result[split] = {
            **summarize(own.probabilities, own.labels),
            "per_class": table.to_dict("records"),
        }
    return Blended(splits, result)


def _cost(members: Sequence[Member], model: "keras.Model") -> dict[str, float]:
    """What the members cost together; an extraction that several of them used counts once."""
    from finetune.model.network import multiply_adds

    cells, results = _cells(members), [member.result for member in members]
    shared = Counter(entry for cell in cells for entry in entries(cell.recipe))
    shares = [float(np.mean([1 / shared[entry] for entry in entries(cell.recipe)])) for cell in cells]
    costs = list(zip((result["cost"] for result in results), shares, strict=True))
    seconds = sum(cost["extraction_seconds"] * share for cost, share in costs)
    seconds = round(seconds + sum(result["seconds"]["train"] for result in results), 3)
    return {
        "seconds": seconds,
        "seconds_alone": seconds,
        "parameters": model.count_params(),
        "trainable": sum(result["parameters"]["trainable"] for result in results),
        "stored_bytes": round(sum(cost["stored_bytes"] * share for cost, share in costs)),
        "peak_memory": max(cost["peak_memory"] for cost, _ in costs),
        "multiply_adds": multiply_adds(model),
    }


def _cells(members: Sequence[Member]) -> list[Cell]:
    """The members as cells of a comparison, each a recipe by itself: seeds of one recipe are different members."""
    return [Cell(member.name, member.name, member.recipe, {}) for member in members]


def _judged(
    members: Sequence[Member], blends: Mapping[str, Blended], chosen: str
) -> dict[str, Any]:
    """All rows, the paired tests, and whether the chosen blend beats the member that validation would have chosen."""
    rows = [
        {"name": member.name, **{split: member.result[split] for split in member.splits}}
        for member in members
    ]
    kept = ("weights", "temperatures", "validation", "test")
    rows += [
        {"name": ROWS[name], **{key: blended.result[key] for key in kept}}
        for name, blended in blends.items()
    ]
    test = members[0].splits["test"]
    blended = {ROWS[name]: blend.splits["test"].probabilities for name, blend in blends.items()}
    singles = dict(
        zip((member.name for member in members), probabilities(members, "test"), strict=True)
    )
    pairs = paired_tests(blended, singles, test.labels)
    best = min(members, key=lambda member: member.result["validation"]["loss"])
    asked = next(
        pair for pair in pairs if (pair["blend"], pair["member"]) == (ROWS[chosen], best.name)
    )
    return {
        "rows": rows,
        "pairs": pairs,
        "best_member": best.name,
        "verdict": verdict(asked, len(test.labels)),
    }


def _report(members: Sequence[Member], blends: Mapping[str, Blended], out: Path) -> str:
    """Write the report on members and blends; returns its path."""
    cells = _cells(members)
    shared = sharing(member.result for member in members)
    rows = [
        {**trial_row(cell, member.result, shared), "run": str(member.path)}
        for cell, member in zip(cells, members, strict=True)
    ]
    plan = {
        "cells": len(rows) + len(blends),
        "extractions": extractions(cell.recipe for cell in cells),
        "data": [members[0].recipe.data],
    }
    with tempfile.TemporaryDirectory(dir=out, prefix=".report.") as folder:
        for name, blended in blends.items():
            _stage(Path(folder, name), members[0], blended)
            rows.append(_blend_row(name, rows[: len(members)], blended.result, Path(folder, name)))
        return write_report(out, rows, {**plan, "roots": {}})["report"]


def _blend_row(
    name: str, rows: Sequence[Mapping[str, Any]], result: Mapping[str, Any], run: Path
) -> dict[str, Any]:
    """A row for the report; settings in which the members differ are listed."""
    settings = ("backbone", "augment", "views", "cut")
    row: dict[str, Any] = {
        key: ", ".join(dict.fromkeys(str(row[key]) for row in rows)) for key in settings
    }
    row |= {key: result[key] for key in ("split", "test", "validation", "cost")}
    row |= {"name": ROWS[name], "recipe": ROWS[name], "seed": None, "run": str(run.resolve())}
    row |= {
        "strategy": "ensemble",
        "head": name,
        "settings": {},
        "seconds": {},
        "status": "done",
        "reason": None,
    }
    return row


def _stage(folder: Path, first: Member, blended: Blended) -> None:
    """A run folder of a blend for as long as the report is written, which reads the settings of every row from a recipe.

    A blend has none that could be run. This one differs from every member's in strategy and head at once, and not at all
    from the other blend's, so that the report takes it for evidence on no setting.
    """
    _write_predictions(folder, first.classes, blended)
    recipe = first.recipe.model_dump() | {
        "strategy": "ensemble",
        "head": {"pool": "blend", "solver": "none"},
    }
    commit_text(folder / "recipe.yaml", yaml.safe_dump(recipe))
    commit_text(folder / "history.csv", "epoch,loss,val_loss\n")


def _write_predictions(folder: Path, classes: Sequence[str], blended: Blended) -> None:
    """``predictions.csv`` and ``classes.json`` as a run has them."""
    parts = []
    for name, split in blended.splits.items():
        part = pd.DataFrame({"file": split.files, "class": np.take(classes, split.labels)})
        columns = pd.DataFrame(
            split.probabilities, columns=list(classes)
        )  # a class may be called "file"
        parts.append(
            pd.concat([part, columns, pd.Series(name, index=part.index, name="split")], axis=1)
        )
    commit(folder / "predictions.csv", lambda file: pd.concat(parts).to_csv(file, index=False))
    commit_json(folder / "classes.json", list(classes))


def _write_rest(
    out: Path,
    members: Sequence[Member],
    blends: Mapping[str, Blended],
    chosen: str,
    result: dict[str, Any],
) -> None:
    """What goes with the model; ``metrics.json`` last."""
    first, test = members[0], blends[chosen].splits["test"]
    for name in blends.keys() - {chosen}:
        write_result(out / "blends" / name, blends[name].result)
    commit_json(out / "input.json", {"resize": first.recipe.resize})  # read by Classifier.open
    matrix = confusion(test.probabilities, test.labels)
    commit(out / "confusion.png", lambda file: plots.confusion(matrix, first.classes, file))
    commit_text(out / "README.md", ensemble_card.render(members, result))
    write_result(out, result)
