"""What a comparison that is still to be run could find: test photos and seeds for a true gap."""

import json
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from finetune.evaluation.planning import photos_needed, seeds_needed
from finetune.evaluation.significance import ASSUMED_SD
from finetune.recipe.matrix import Trial
from finetune.recipe.strategies import is_deterministic

SHARE = 0.05  # of the test photos that one of two models alone gets right, where nothing is known


def needed(
    trials: Sequence[Trial], photos: int, gaps: Sequence[float], out: Path
) -> dict[str, Any]:
    """Test photos and seeds with which true gaps are found in four of five comparisons.

    Args:
        trials: of the comparison.
        photos: in its test split.
        gaps: points of accuracy.
        out: folder of an earlier comparison, if there is one; its pairs say how many photos two
            recipes differ on.

    Returns:
        share (of photos, 0-1, that one of two models alone gets right: the largest of the pairs
        that ``out`` knows), share_of (that pair, or None where the share is assumed), seed_sd
        (fraction; 0 for recipes without randomness), seeds, photos, and gaps: dicts with gap
        (points), photos and seeds (None where no number suffices).
    """
    seeds = Counter(trial.group for trial in trials)
    fewest = min(seeds.values())
    recipes = max(2, len(seeds))
    random = not all(
        is_deterministic(t.recipe.strategy, t.recipe.head.solver, t.recipe.views) for t in trials
    )
    share, pair, measured = _earlier(out, set(seeds))
    sd = (ASSUMED_SD if measured is None else measured) if random else 0.0
    rows = []
    for gap in gaps:
        size = gap / 100
        wanted = photos_needed(size, share, fewest, sd, recipes)
        more = seeds_needed(size, share, photos, sd, recipes) if photos else math.inf
        rows.append({"gap": gap, "photos": _whole(wanted), "seeds": _whole(more)})
    known = {"share": share, "share_of": pair, "seed_sd": sd, "seeds": fewest, "photos": photos}
    return {**known, "recipes": len(seeds), "gaps": rows}


def _earlier(out: Path, names: set[str]) -> tuple[float, list[str] | None, float | None]:
    """Share and pair that differ most, and the sd of seeds, of these recipes in a comparison."""
    try:
        found = json.loads((out / "compare.json").read_text(encoding="utf-8"))
        photos = {cell["split"]: cell["test"]["n"] for cell in found["cells"] if "test" in cell}
        shares = [
            ((pair["only_a"] + pair["only_b"]) / photos[pair["split"]], [pair["a"], pair["b"]])
            for pair in found["pairs"]
            if {pair["a"], pair["b"]} <= names
        ]
        spread = [row["sd"] for row in found["ranking"] if row["sd"] is not None]
    except (OSError, ValueError, KeyError):  # none, or one of another version
        return SHARE, None, None
    if not shares:
        return SHARE, None, None
    share, pair = max(shares)
    sd = float(np.sqrt(np.mean(np.square(spread)))) if spread else None
    return max(share, 1 / max(photos.values())), pair, sd


def _whole(number: float) -> int | None:
    return int(number) if math.isfinite(number) else None
