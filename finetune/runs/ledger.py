"""How often a test split was looked at: every model scored on it, and every comparison.

A test split wears out: who keeps adding seeds or recipes until one wins finds a winner. The ledger
lies in the cache by split digest, and the report states its counts.
"""

import hashlib
import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

from finetune.files import READ_ONLY, cache_dir, commit_json, writing


def record(split: str, runs: Collection[Path], comparison: bool = True) -> dict[str, int]:
    """Enter the models of run folders; a model that was entered before counts once.

    Args:
        split: digest of the test split.
        runs: folders whose ``predictions.csv`` holds the test split.
        comparison: whether they were compared with one another; a comparison of the same models
            counts once, too.

    Returns:
        What ``read`` returns now.
    """
    path = _path(split)
    models = sorted(hashlib.sha256(_scores(run)).hexdigest()[:16] for run in runs)
    together = hashlib.sha256(" ".join(models).encode()).hexdigest()[:16]
    try:
        with writing(path.parent):
            entries = _entries(path)
            entries["models"] = sorted({*entries["models"], *models})
            if comparison and len(models) > 1:
                entries["comparisons"] = sorted({*entries["comparisons"], together})
            commit_json(path, entries)
    except OSError as error:
        if error.errno not in READ_ONLY:  # such a cache will do for a run, and counts none
            raise
    return read(split)


def read(split: str) -> dict[str, int]:
    """models and comparisons: how many were scored on a test split on this machine."""
    return {name: len(keys) for name, keys in _entries(_path(split)).items()}


def _entries(path: Path) -> dict[str, Any]:
    empty: dict[str, list[str]] = {"models": [], "comparisons": []}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return {name: [str(key) for key in found[name]] for name in empty}
    except (OSError, ValueError, KeyError, TypeError):  # missing, damaged: counting begins now
        return empty


def _path(split: str) -> Path:
    return cache_dir() / "ledger" / f"{split}.json"


def _scores(run: Path) -> bytes:
    """What makes a model another one: its predictions, and the recipe with its seed."""
    recipe = run / "recipe.yaml"
    parts = [
        (run / "predictions.csv").read_bytes(),
        recipe.read_bytes() if recipe.exists() else b"",
    ]
    return b"\0".join(parts)
