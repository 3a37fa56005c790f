"""Comparisons made up for tests: run folders with predictions that are wrong where a test wants it,
and their report.
"""

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

from finetune.data.augment import PRESETS
from finetune.evaluation.metrics import summarize
from finetune.report.report import write_report

SPLIT = "a" * 64


def probabilities(
    rng: np.random.Generator, labels: np.ndarray, classes: int, wrong: list[int]
) -> np.ndarray:
    """Right on all photos but those named."""
    values = rng.dirichlet(np.ones(classes), len(labels)) * 0.4
    top = np.where(np.isin(np.arange(len(labels)), wrong), (labels + 1) % classes, labels)
    values[np.arange(len(labels)), top] += 0.6
    return values


def add_cell(
    out: Path,
    recipe: str,
    seed: int = 0,
    wrong: int | list[int] = 8,
    validation_wrong: int = 4,
    split: str = SPLIT,
    seconds: float = 10.0,
    strategy: str = "top-blocks",
    classes: tuple[str, ...] = ("cats", "dogs"),
    photos: int = 60,
    epochs: int = 3,
    head: str = "gap",
) -> dict:
    """A run folder of a cell that is done: wrong on the first ``wrong`` test photos, or on those
    listed.
    """
    name = f"{recipe}-s{seed}"
    run = out / "cells" / re.sub(r"\W", "_", name)
    run.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    parts, measured = [], {}
    for part, mistakes in (("validation", validation_wrong), ("test", wrong)):
        labels = np.arange(photos) % len(classes)
        values = probabilities(
            rng, labels, len(classes), mistakes if isinstance(mistakes, list) else range(mistakes)
        )
        measured[part] = summarize(values, labels)
        table = pd.DataFrame(
            {"file": [f"{part}/{i}.png" for i in range(photos)], "class": np.take(classes, labels)}
        )
        parts.append(pd.concat([table, pd.DataFrame(values).assign(split=part)], axis=1))
    header = ["file", "class", *classes, "split"]
    pd.concat(parts).to_csv(run / "predictions.csv", index=False, header=header)
    (run / "classes.json").write_text(json.dumps(classes))
    history = {
        "phase": "tail",
        "epoch": range(epochs),
        "loss": [None, 0.4, 0.2][:epochs],
        "accuracy": 0.9,
    }
    history |= {
        "val_loss": [0.6, 0.3, 0.35][:epochs],
        "val_accuracy": 0.9,
        "learning_rate": 1e-5,
        "seconds": 1.0,
    }
    pd.DataFrame(history).to_csv(run / "history.csv", index=False)
    settings = {
        "data": "zoo",
        "backbone": "vgg16",
        "strategy": strategy,
        "epochs": 20,
        "views": 0,
        "seed": seed,
    }
    head = {"pool": head, "hidden": 0, "dropout": 0.0, "solver": "lbfgs"}
    (run / "recipe.yaml").write_text(
        yaml.safe_dump({**settings, "head": head, "augment": PRESETS["none"]})
    )
    cost = {
        "seconds": seconds,
        "seconds_alone": 2 * seconds,
        "parameters": 14_700_000,
        "trainable": 1026,
    }
    cost |= {
        "stored_bytes": 804_000_000,
        "peak_memory": int(2e9 + seconds),
        "multiply_adds": 15_346_630_656,
    }
    cell = {
        "name": name,
        "recipe": recipe,
        "seed": seed,
        "run": run.relative_to(out).as_posix(),
        "split": split,
    }
    cell |= {
        "status": "done",
        "reason": None,
        "backbone": "vgg16",
        "strategy": strategy,
        "head": "gap",
    }
    cell |= {
        "augment": "none",
        "views": 0,
        "cut": "block4_pool",
        "settings": {"strategy": strategy, "seed": seed},
    }
    times = {"extract": seconds, "train": seconds, "total": 2 * seconds}
    return cell | measured | {"seconds": times, "cost": cost}


def failed(recipe: str, reason: str, status: str = "failed", seed: int = 0) -> dict:
    cell = {
        "name": f"{recipe}-s{seed}",
        "recipe": recipe,
        "seed": seed,
        "run": f"cells/{recipe}",
        "status": status,
    }
    cell |= {
        "backbone": "resnet50",
        "strategy": "top-blocks",
        "head": "gap",
        "augment": "none",
        "views": 0,
    }
    return cell | {"cut": "conv4", "settings": {}, "reason": reason}


def write(out: Path, cells: list[dict], root: Path | None = None, **plan: object) -> dict:
    roots = {SPLIT: str(root)} if root else {}
    return write_report(
        out, cells, {"cells": len(cells), "extractions": 2, "data": ["zoo"], "roots": roots, **plan}
    )
