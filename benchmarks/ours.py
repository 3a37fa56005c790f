"""The same jobs by finetune, on random weights and an empty store; prints what ``plain`` prints."""

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from finetune.backend import load_keras

load_keras()

from finetune.backend import peak_bytes  # noqa: E402
from finetune.commands.extract_features import extract_features  # noqa: E402
from finetune.commands.run import run  # noqa: E402
from finetune.execution.bench import Bench, read_dataset  # noqa: E402
from finetune.execution.sharing import settled  # noqa: E402
from finetune.progress import SILENT, Reporter  # noqa: E402
from finetune.recipe.reading import load  # noqa: E402

STRATEGIES = {
    "top_block": {"strategy": "top-blocks"},
    "frozen_augmented": {"strategy": "frozen-base", "augment": "light"},
    "cached": {"strategy": "cached-features"},
}


class Clock(Reporter):
    """Notes when rows arrive."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.arrivals: list[tuple[float, int]] = []

    @contextmanager
    def stage(self, name: str, total: int, noun: str = "photo") -> Iterator[Callable[[int], None]]:
        """Shows nothing."""
        yield lambda rows: self.arrivals.append((time.perf_counter(), rows))

    def streaming(self) -> float:
        """Seconds of all rows at the pace of those behind the first: without conversion,
        compilation and warming up.
        """
        (first, warm), rows = self.arrivals[0], sum(rows for _, rows in self.arrivals)
        return (self.arrivals[-1][0] - first) * rows / (rows - warm)


def extraction(settings: dict[str, Any], out: Path) -> dict[str, Any]:
    """Features of all splits to disk."""
    clock = Clock()
    extract_features(**settings, pooling="none", out=out, reporter=clock)
    return {"epochs": [], "streaming": clock.streaming()}


def training(job: str, settings: dict[str, Any], epochs: int, out: Path) -> dict[str, Any]:
    """A whole run: extraction, a converged head, so many epochs, test photos, a saved model."""
    chosen = settings | STRATEGIES[job] | ({"epochs": epochs, "patience": epochs} if epochs else {})
    result = run(chosen, out=out, reporter=Reporter(quiet=True))
    history = (out / "history.csv").read_text().splitlines()
    seconds = [float(line.split(",")[-1]) for line in history[1:] if line.split(",")[1] != "0"]
    return {"epochs": seconds, "parts": result.seconds}


def make_int8(settings: dict[str, Any]) -> float:
    """Seconds that it takes to quantize a trunk, which is done once for all data sets."""
    start = time.perf_counter()
    recipe = settled(load(None, settings | {"strategy": "cached-features"}))
    dataset = read_dataset(recipe)
    network, cache = Bench().prepare(recipe, len(dataset.classes), SILENT)
    cache.trunk.calibration = dataset.split("train")
    cache.entry(network.top)
    return time.perf_counter() - start


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("job", choices=["extraction", *STRATEGIES])
    parser.add_argument("data", type=Path)
    parser.add_argument("--backbone", default="vgg16")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--epochs", type=int, default=0)
    parser.add_argument("--precision", help="as the recipe has it; its default if not given")
    given = parser.parse_args()
    settings = {
        "data": str(given.data),
        "backbone": given.backbone,
        "weights": "random",
        "image_size": given.size,
    }
    settings |= {"precision": given.precision} if given.precision else {}
    made = make_int8(settings) if given.precision == "int8" else None
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        if given.job == "extraction":
            found = extraction(settings, Path(folder))
        else:
            found = training(given.job, settings, given.epochs, Path(folder))
    seconds = {"seconds": time.perf_counter() - start, "int8_made": made}
    print(json.dumps({**seconds, **found, "peak_bytes": peak_bytes()}))
