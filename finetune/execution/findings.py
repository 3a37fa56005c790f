"""What a trial found out about its trained network, and the run's result that says so."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL.Image import Image

from finetune.backend import peak_bytes
from finetune.data.dataset import Dataset
from finetune.evaluation.caveats import caveats, unseen
from finetune.execution.bench import cache_entries
from finetune.execution.learning import Learner
from finetune.model.describe import multiply_adds
from finetune.model.network import Network
from finetune.runs import record
from finetune.runs.folder import RunResult


@dataclass(frozen=True)
class Findings:
    """What was found out about a trained network.

    Attributes:
        shared: photos in more than one split, see ``data.overlap``.
        audit: of the frozen variables.
        probabilities: split -> float32 (n, classes).
        fidelity: of the saved model, see ``check_fidelity``.
        explanations: a contact sheet, see ``evaluation.explained``.
        folds: summary of the cross-validation, if the recipe asks for one.
    """

    shared: dict[str, Any]
    audit: dict[str, int]
    probabilities: dict[str, np.ndarray]
    fidelity: dict[str, Any] | None
    explanations: Image | None
    folds: dict[str, Any] | None


def result_of(
    learner: Learner,
    out: Path,
    listed: str,
    seconds: Mapping[str, float],
    head: Mapping[str, Any],
    findings: Findings,
) -> RunResult:
    """All that the run reports; ``listed`` is the digest of the photos before any were excluded."""
    recipe = learner.recipe
    dataset = learner.dataset
    network = learner.network
    probabilities = findings.probabilities
    used = cache_entries(learner.cache, learner.rows)
    test = record.measured(dataset, "test", probabilities["test"])
    for caveat in caveats(test):
        learner.warnings.add(caveat)
    return RunResult(
        run=str(out),
        backbone=recipe.backbone,
        strategy=recipe.strategy,
        cut=recipe.cut,
        precision=network.precision,
        parameters=network.parameters(),
        split=dataset.digest,
        listed=listed,
        seconds={name: round(value, 3) for name, value in seconds.items()},
        extracted=learner.cache.computed,
        entries=used,
        cost=_cost(network, used),
        weights=dict(vars(network.loaded)),
        head={"solver": recipe.head.solver, **head},
        audit=findings.audit,
        validation=record.measured(dataset, "validation", probabilities["validation"]),
        test=test,
        leaks=findings.shared["leaks"],
        near_duplicates=findings.shared["near_duplicates"],
        unseen=_unseen(dataset, findings),
        warnings=learner.warnings.texts,
        ignored=dataset.ignored,
        excluded=len(dataset.excluded),
        fidelity=findings.fidelity,
        folds=findings.folds,
    )


def _cost(network: Network, used: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """In seconds, bytes and multiply-adds; ``used`` is as ``cache_entries`` returns it."""
    return {
        "extraction_seconds": round(sum(entry["seconds"] for entry in used.values()), 3),
        "stored_bytes": sum(entry["bytes"] for entry in used.values()),
        "peak_memory": peak_bytes(),
        "multiply_adds": multiply_adds(network.whole) * (2 if network.is_mirrored else 1),
    }


def _unseen(dataset: Dataset, findings: Findings) -> dict[str, Any]:
    """The accuracy on test photos that have no copy or look-alike elsewhere."""
    shared = findings.shared
    files = [photo.file for photo in dataset.split("test")]
    found = unseen(
        files, findings.probabilities["test"], dataset.labels("test"), shared["test_photos"]
    )
    return {**found, "look_alikes": shared["near_duplicates"] is not None}
