"""Reading run folders; needs nothing but the standard library, so that commands can answer at once."""

import json
from pathlib import Path
from typing import Any

from finetune.errors import DataError


def read_recipe(out: Path) -> Path:
    """The recipe file of a run folder; DataError if there is none."""
    path = out / "recipe.yaml"
    if not path.is_file():
        raise DataError(
            f"{out} is no run folder: it holds no recipe.yaml. Give the folder that `finetune run --out` wrote."
        )
    return path


def read_result(out: Path) -> dict[str, Any] | None:
    """What a finished run printed, or None."""
    path = out / "metrics.json"
    return json.loads(path.read_text()) if path.exists() else None
