"""Finished runs combined into one model, which is tested against the best of them."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from scipy.stats import binomtest

from finetune.activations.engine import resolve_precision
from finetune.errors import DataError, UsageError
from finetune.evaluation import plots
from finetune.evaluation.intervals import mcnemar
from finetune.evaluation.metrics import confusion, measure, per_photo
from finetune.evaluation.pairs import compare_pairs
from finetune.evaluation.significance import Design
from finetune.execution.bench import read_dataset
from finetune.execution.members import Member, Mixed, changed_files, read_members
from finetune.files import commit, commit_by_name, commit_csv, commit_json, commit_text, locked
from finetune.progress import SILENT, Reporter, count
from finetune.runs.card import render_ensemble
from finetune.runs.folder import PHOTOS, read_result, write_result
from finetune.runs.predictions import Predictions

Blend = Literal["mean", "weighted", "soup"]
_ALPHA = 0.05


def combine(
    runs: Sequence[Path],
    folder: Path,
    blend: Blend = "mean",
    precision: str | None = None,
    reporter: Reporter = SILENT,
) -> dict[str, Any]:
    """Combine runs in a folder; see ``commands.ensemble.ensemble``."""
    members = read_members(runs)
    with locked(folder):
        if read_result(folder):
            raise UsageError(
                f"{folder} already holds a finished run. Choose another --out, or delete the "
                "folder."
            )
        return _combine(members, folder, blend, precision, reporter)


def _combine(
    members: Sequence[Member], folder: Path, blend: Blend, precision: str | None, reporter: Reporter
) -> dict[str, Any]:
    from finetune.execution.souping import greedy_soup
    from finetune.model.describe import multiply_adds

    mixed = greedy_soup(members, reporter) if blend == "soup" else _joined(members, blend, reporter)
    kept = [member for member, weight in zip(members, mixed.weights, strict=True) if weight]
    splits = mixed.splits
    if precision:
        own = _computed_in(members)
        precision = resolve_precision(own if precision == "auto" else precision)
        splits = _scored(mixed.model, members[0], splits, precision, reporter)
    result = {
        "run": str(folder),
        "out": str(folder),
        "members": [member.name for member in members],
        "runs": {member.name: str(member.path) for member in members},
        "blend": blend,
        "precision": precision or "as the members",
        "weights": {m.name: float(w) for m, w in zip(members, mixed.weights, strict=True)},
        "split": members[0].result["split"],
        "parameters": {
            "total": mixed.model.count_params(),
            "trainable": sum(member.result["parameters"]["trainable"] for member in kept),
        },
        "cost": {
            "train_seconds": round(sum(member.result["seconds"]["train"] for member in kept), 3),
            "multiply_adds": multiply_adds(mixed.model),
        },
        "audit": {"largest_difference": mixed.difference},
        **_measured(members, splits),
    }
    commit_by_name(folder / "model.keras", mixed.model.save)
    _write(folder, members, splits, result)
    return result


def _computed_in(members: Sequence[Member]) -> str:
    """``float32`` where one run was: its backbone may need it; else ``auto``."""
    is_float32 = any(member.recipe.precision == "float32" for member in members)
    return "float32" if is_float32 else "auto"


def _joined(members: Sequence[Member], blend: Blend, reporter: Reporter) -> Mixed:
    """One network whose probabilities are the mean of the members'."""
    from finetune.model.ensemble import audit, fit_weights, join
    from finetune.runs.classifier import Classifier

    if members[0].recipe.tta == "flip":
        raise UsageError(
            f"{members[0].name} looks at mirror images (tta: flip), and an ensemble is made of "
            "runs that do not. Run the recipes with tta: none, or choose --blend soup."
        )
    weights = np.full(len(members), 1 / len(members))
    if blend == "weighted":
        weights = fit_weights(_of_label(members))
    models = [Classifier.open(member.path).model for member in members]
    joined = join(models, weights.tolist())
    difference = audit(joined, models, weights.tolist())
    parameters = joined.count_params()
    reporter.say(f"joined into {parameters:,} parameters; off its members by {difference:.1g}")
    return Mixed(joined, weights.tolist(), _mean(members, weights), difference)


def paired_test(
    ensemble: Predictions, member: Predictions, names: tuple[str, str]
) -> dict[str, Any]:
    """An ensemble against one of its members on the same photos.

    Returns:
        difference (accuracy, fraction) with low, high (95 %) and p by ``test``, see ``_exact`` and
        ``_by_groups``; only_ensemble and only_member (photos), loss_difference (nats), better (a
        name, or None).
    """
    own = per_photo(ensemble.probabilities, ensemble.labels)
    other = per_photo(member.probabilities, member.labels)
    gained = int((own["correct"] & ~other["correct"]).sum())
    lost = int((other["correct"] & ~own["correct"]).sum())
    tested = (
        _exact(gained, lost, len(own))
        if ensemble.groups is None
        else _by_groups(own, other, ensemble.groups)
    )
    return {
        "member": names[1],
        "difference": (gained - lost) / len(own),
        **tested,
        "only_ensemble": gained,
        "only_member": lost,
        "loss_difference": float(own["loss"].mean() - other["loss"].mean()),
        "better": names[gained < lost] if tested["p"] < _ALPHA else None,
    }


def _exact(gained: int, lost: int, photos: int) -> dict[str, Any]:
    """McNemar's test, and Clopper and Pearson's interval of the share of photos that the ensemble
    alone gets right among those that one alone does, so that both agree.
    """
    discordant = gained + lost
    share = (0.5, 0.5)
    if discordant:
        interval = binomtest(gained, discordant).proportion_ci(1 - _ALPHA, method="exact")
        share = (interval.low, interval.high)
    low, high = (float((2 * bound - 1) * discordant / photos) for bound in share)
    return {"low": low, "high": high, "p": mcnemar(gained, lost), "test": "McNemar's exact test"}


def _by_groups(own: pd.DataFrame, other: pd.DataFrame, groups: np.ndarray) -> dict[str, Any]:
    """The test of a comparison, in which photos of a group count as one draw."""
    tables = {"ensemble": own, "member": other}
    hits = {name: table["correct"].to_numpy() for name, table in tables.items()}
    losses = {name: table["loss"].to_numpy() for name, table in tables.items()}
    (pair,) = compare_pairs(hits, losses, Design(fixed=hits, groups=groups)).to_dict("records")
    found = {key: float(pair[key]) for key in ("low", "high", "p")}
    return {**found, "test": "a test that takes the photos of a group as one"}


def verdict(pair: Mapping[str, Any], photos: int) -> str:
    """Whether combining pays: ``paired_test`` on so many test photos, in one sentence."""
    outcome = "Combining does not measurably pay"
    if pair["better"]:
        outcome = "Combining does harm" if pair["better"] == pair["member"] else "Combining pays"
    size, low, high = (100 * pair[key] for key in ("difference", "low", "high"))
    p = "p < 0.001" if pair["p"] < 0.001 else f"p = {pair['p']:.2g}"
    return (
        f"{outcome}: against {pair['member']}, the member with the lowest validation loss, test "
        f"accuracy differs by {size:+.1f} points ({low:+.1f} to {high:+.1f}, {p}) on {photos:,} "
        f"photos, and log loss by {pair['loss_difference']:+.4f}."
    )


def _of_label(members: Sequence[Member]) -> np.ndarray:
    """(n, members): what each gave the class of each validation photo."""
    held_out = [member.splits["validation"] for member in members]
    return np.column_stack([p.probabilities[np.arange(len(p.labels)), p.labels] for p in held_out])


def _mean(members: Sequence[Member], weights: np.ndarray) -> dict[str, Predictions]:
    found = {}
    for split, own in members[0].splits.items():
        parts = [member.splits[split].probabilities for member in members]
        found[split] = replace(own, probabilities=np.tensordot(weights, parts, axes=1))
    return found


def _scored(
    model: Any,
    member: Member,
    splits: Mapping[str, Predictions],
    precision: str,
    reporter: Reporter,
) -> dict[str, Predictions]:
    """The joined model's own probabilities of the same photos, in one precision."""
    from finetune.runs.classifier import Classifier

    recipe = member.recipe
    wanted = [file for split in splits.values() for file in split.files]
    dataset = read_dataset(recipe)
    changed = changed_files(member, dataset)
    if changed:
        raise DataError(
            f"{len(changed)} of {count(len(wanted), 'photo')} are not in {recipe.data} any more, "
            f"or are other photos now, such as {min(changed)}. Put them back, or leave --precision "
            "out: what the runs predicted is blended then."
        )
    photos = {photo.file: photo for photo in dataset.photos}
    taken = (recipe.image_size, recipe.resize)
    classifier = Classifier(member.path, member.classes, *taken, model=model)
    rows = {}
    with reporter.stage("photos classified", len(wanted)) as advance:
        for photo, row in classifier.score([photos[file] for file in wanted], precision):
            if isinstance(row, str):
                raise DataError(f"{photo.path}: {row}. Mend it, or leave --precision out.")
            rows[photo.file] = row.astype(np.float64)
            advance(1)
    return {
        name: replace(split, probabilities=np.stack([rows[file] for file in split.files]))
        for name, split in splits.items()
    }


def _measured(members: Sequence[Member], splits: Mapping[str, Predictions]) -> dict[str, Any]:
    """The ensemble's measures, and whether it beats the member that validation would choose."""
    classes = members[0].classes
    best = min(members, key=lambda member: member.result["validation"]["loss"])
    pair = paired_test(splits["test"], best.splits["test"], ("ensemble", best.name))
    return {
        **{
            name: measure(p.probabilities, p.labels, classes, p.groups)
            for name, p in splits.items()
        },
        "best_member": best.name,
        "against_best": pair,
        "verdict": verdict(pair, len(splits["test"].labels)),
    }


def _write(
    folder: Path,
    members: Sequence[Member],
    splits: Mapping[str, Predictions],
    result: Mapping[str, Any],
) -> None:
    """What goes with the model, as a run has it; ``metrics.json`` last."""
    classes = members[0].classes
    test = splits["test"]
    matrix = confusion(test.probabilities, test.labels)
    parts = []
    for name, split in splits.items():
        part = pd.DataFrame({"file": split.files, "class": np.take(classes, split.labels)})
        columns = pd.DataFrame(split.probabilities.astype(np.float32))
        group = {} if split.groups is None else {"group": split.groups}
        parts.append(pd.concat([part, columns], axis=1).assign(split=name, **group))
    header = ["file", "class", *classes, "split", *group]  # a class may be called "file"
    commit_csv(folder / "predictions.csv", pd.concat(parts).set_axis(header, axis=1))
    commit_json(folder / "classes.json", classes)
    if (members[0].path / PHOTOS).exists():
        contents = (members[0].path / PHOTOS).read_text(encoding="utf-8")
        commit_text(folder / PHOTOS, contents)
    taken = {"resize": members[0].recipe.resize, "precision": _computed_in(members)}
    commit_json(folder / "input.json", taken)
    commit(folder / "confusion.png", lambda file: plots.confusion(matrix, classes, file))
    commit_text(folder / "README.md", render_ensemble(result, members, folder))
    write_result(folder, dict(result))
