"""Whether a model knows photos from its training: by their contents, wherever they lie."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from finetune.evaluation.caveats import unseen
from finetune.progress import count
from finetune.runs.folder import read_contents


def known(
    model: Path, contents: Sequence[str], probabilities: np.ndarray, labels: np.ndarray
) -> dict[str, Any]:
    """Compare photos with those that a run was trained and chosen on.

    Args:
        model: a run folder, or a file, which knows nothing of its photos.
        contents: (n,) sha256 of the photos.
        probabilities: (n, classes).
        labels: int (n,).

    Returns:
        photos (contents of the run that there are to compare with, 0 for none), train and
        validation (how many of the photos are among these), unseen (n and accuracy without them),
        flatters (whether there are any) and text (all that in words).
    """
    split_of = (read_contents(model) if model.is_dir() else None) or {}
    made_with = {key: split for key, split in split_of.items() if split != "test"}
    found = [made_with.get(content, "") for content in contents]
    counts = {split: found.count(split) for split in ("train", "validation")}
    seen = [content for content in contents if content in made_with]
    result = {
        "photos": len(made_with),
        **counts,
        "unseen": unseen(contents, probabilities, labels, seen),
        "flatters": bool(seen),
    }
    return {**result, "text": _text(result, len(contents))}


def _text(found: dict[str, Any], n: int) -> str:
    if not found["photos"]:
        return "Whether the model knows these photos from training cannot be told: it kept no list."
    if not found["flatters"]:
        made_with = count(found["photos"], "photo")
        return (
            f"By content, none of {count(n, 'photo')} is among the {made_with} that the model was "
            "trained and chosen on."
        )
    left = found["unseen"]
    without = "no photo is left without them"
    if left["accuracy"] is not None:
        size = f"{100 * left['accuracy']:.1f} % on {count(left['n'], 'photo')}"
        without = f"accuracy without them is {size}"
    return (
        f"By content, {found['train']:,} of {count(n, 'photo')} are among those that the model was "
        f"trained on and {found['validation']:,} among those that chose its settings: the figures "
        f"do not tell how it does on new photos; {without}."
    )
