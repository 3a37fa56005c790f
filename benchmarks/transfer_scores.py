"""Do LogME, the H-score and a linear probe rank the cuts of networks as a test does?

python -m benchmarks.transfer_scores [--size 64] [--out docs/results/transfer_scores.json]

At every cut of every network, the average-pooled features of training and validation photos are
scored as `finetune advise` scores them; then a linear head is fitted on the training photos, its
penalty chosen on the validation photos, and measured on the test photos. Spearman's rank
correlation of each score with that accuracy is stated per data set, with its number of cuts.
"""

import os
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import typer

from benchmarks.paired import report
from finetune.backend import load_keras
from finetune.execution.sharing import Need, settled
from finetune.model.backbones import backbone, block_cut
from finetune.progress import SILENT
from finetune.recipe.reading import load

DATA = ["cats-and-dogs-small", "clothing-small"]
NETWORKS = {"vgg16": 1.0, "mobilenet": 0.25}  # name -> alpha
SCORES = ("log_me", "h_score", "linear_probe")
_SPLITS = ("train", "validation", "test")


def main(
    data: Annotated[list[str], typer.Option()] = DATA,
    network: Annotated[list[str], typer.Option()] = list(NETWORKS),  # noqa: B006
    size: int = 64,
    weights: str = "imagenet",
    out: Path | None = None,
) -> None:
    """Score and measure every cut; the rows that are stored for it are removed again."""
    start = time.perf_counter()
    rows = []
    for name in data:
        for each in network:
            with tempfile.TemporaryDirectory() as cache:
                os.environ["FINETUNE_CACHE"] = cache
                rows += measured(name, each, size, weights)
    found = pd.DataFrame(rows)
    table = pd.DataFrame([correlations(part, name) for name, part in found.groupby("data")])
    report(
        "transfer_scores",
        table,
        found,
        out,
        size=size,
        seconds=round(time.perf_counter() - start, 1),
    )


def correlations(rows: pd.DataFrame, name: str) -> dict[str, Any]:
    """Spearman's correlation of each score with the test accuracy, over the cuts of a data set."""
    own = {
        score: round(float(rows[score].corr(rows["accuracy"], method="spearman")), 2)
        for score in SCORES
    }
    return {"data": name, "cuts": len(rows), **own}


def measured(data: str, name: str, size: int, weights: str) -> list[dict[str, Any]]:
    """A row per cut: its scores, and the accuracy of a linear head on the test photos."""
    load_keras()
    from finetune.execution.bench import Bench, gather, read_dataset

    values = {"data": data, "backbone": name, "image_size": size, "weights": weights}
    values |= {"alpha": NETWORKS.get(name, 1.0), "strategy": "cached-features", "head": "gap"}
    recipe = settled(load(None, values))
    dataset = read_dataset(recipe)
    cuts = [block_cut(name, n) for n in range(len(backbone(name).blocks))]
    bench = Bench()
    bench.shared.together = {False: tuple(cuts)}
    _, cache = bench.prepare(recipe, len(dataset.classes), SILENT)
    wanted = [Need(cut, split, 0) for cut in cuts for split in _SPLITS]
    dataset, stored = gather(recipe, dataset, cache, wanted)
    labels = {split: dataset.labels(split) for split in _SPLITS}
    photos = [photo for split in _SPLITS[:2] for photo in dataset.split(split)]
    groups = np.unique([photo.group or photo.sha256 for photo in photos], return_inverse=True)[1]
    rows = []
    for cut in cuts:
        features = {split: _pooled(stored[Need(cut, split, 0)]) for split in _SPLITS}
        scores = _scores(features, labels, groups)
        rows.append({"data": data, "backbone": name, "cut": cut, **scores})
    return rows


def _pooled(rows: Any) -> np.ndarray:
    from finetune.model.heads import pool_maps

    return np.concatenate([pool_maps(batch, "gap") for batch in rows.batches(64)])


def _scores(
    features: dict[str, np.ndarray], labels: dict[str, np.ndarray], groups: np.ndarray
) -> dict[str, float]:
    from finetune.evaluation import transfer
    from finetune.training.linear_head import fit_linear

    known = np.concatenate([features["train"], features["validation"]])
    own = np.concatenate([labels["train"], labels["validation"]])
    parts = transfer.folds(own, groups)
    probe = transfer.linear_probe(transfer.reduced(known), own, parts)
    head = fit_linear(
        features["train"], labels["train"], features["validation"], labels["validation"]
    )
    right = head.probabilities(features["test"]).argmax(axis=1) == labels["test"]
    return {
        "log_me": round(transfer.log_me(known, own), 4),
        "h_score": round(transfer.h_score(known, own), 4),
        "linear_probe": round(float(probe.correct.mean()), 4),
        "accuracy": round(float(right.mean()), 4),
        "test_photos": len(right),
    }


if __name__ == "__main__":
    typer.run(main)
