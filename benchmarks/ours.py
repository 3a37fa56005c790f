"""The same jobs by finetune, on random weights and an empty store; prints what ``plain`` prints."""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

from finetune.backend import load_keras

load_keras()

from finetune.activations.store import shelves  # noqa: E402
from finetune.commands import features  # noqa: E402
from finetune.commands import run as runs  # noqa: E402
from finetune.data.catalog import cache_dir  # noqa: E402
from finetune.memory import peak_bytes  # noqa: E402
from finetune.progress import Reporter  # noqa: E402
from finetune.recipe import load  # noqa: E402

STRATEGIES = {
    "top_block": {"strategy": "top-blocks"},
    "frozen_augmented": {"strategy": "frozen-base", "augment": "light"},
    "cached": {"strategy": "cached-features"},
}


def extraction(settings: dict[str, Any], out: Path) -> dict[str, Any]:
    """Features of all splits to disk; ``streaming`` leaves out what does not grow with the photos."""
    features.extract_features(
        load(None, settings | {"strategy": "cached-features"}, []), None, "none", out, Reporter(True)
    )
    streaming = sum(json.loads(path.read_text())["seconds"]
                    for shelf in shelves(cache_dir()) for path in Path(shelf["folder"]).glob("shard-*.json"))  # fmt: skip
    return {"epochs": [], "streaming": streaming}


def training(job: str, settings: dict[str, Any], epochs: int, out: Path) -> dict[str, Any]:
    """A whole run: extraction, a converged head, so many epochs, test photos, a saved model."""
    chosen = settings | STRATEGIES[job] | ({"epochs": epochs, "patience": epochs} if epochs else {})
    result = runs.run(load(None, chosen, []), out, Reporter(True))
    history = (out / "history.csv").read_text().splitlines()
    seconds = [float(line.split(",")[-1]) for line in history[1:] if line.split(",")[1] != "0"]
    return {"epochs": seconds, "parts": result["seconds"]}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("job", choices=["extraction", *STRATEGIES])
    parser.add_argument("data", type=Path)
    parser.add_argument("--backbone", default="vgg16")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--epochs", type=int, default=0)
    given = parser.parse_args()
    settings = {"data": str(given.data), "backbone": given.backbone, "weights": "random", "image_size": given.size}
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        if given.job == "extraction":
            found = extraction(settings, Path(folder))
        else:
            found = training(given.job, settings, given.epochs, Path(folder))
    print(json.dumps({"seconds": time.perf_counter() - start, **found, "peak_bytes": peak_bytes()}))
