"""What docs/scale.md reckons with, beside the speed of a trunk: a commit, a photo's digest and its
place in a data set, an empty task.

python -m benchmarks.scale_constants
"""

import itertools
import os
import pickle
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.paired import report
from finetune.activations.store import Store
from finetune.data.photos import Photo
from finetune.execution.parts import PHOTOS
from finetune.files import sha256_of

PLACES = 100_000
TASKS = 1_000


def best(function: Callable[[], object], repeats: int = 5) -> float:
    """Shortest seconds of a call: what disturbs it only lengthens it."""
    found = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        found.append(time.perf_counter() - start)
    return min(found)


def commit(folder: Path) -> float:
    """Seconds that a part of ResNet50's rows holds its entry: written, synced, hashed."""
    store = Store(folder, {"cut": "benchmark"}, "float16")
    rows = np.random.default_rng(0).random((PHOTOS, 7, 7, 2048), np.float32).astype(np.float16)
    names = map(str, itertools.count())
    return best(lambda: store.add(list(itertools.islice(names, PHOTOS)), rows))


def listed() -> tuple[float, float]:
    """Bytes per photo of a data set that is sent, and seconds until a node has read it."""
    photos = tuple(
        Photo(
            Path(f"/data/photos/train/class{i % 100}/{i}.jpg"), f"{i}.jpg", 0, "train", f"{i:064}"
        )
        for i in range(PLACES)
    )
    sent = pickle.dumps(photos)
    return len(sent) / PLACES, best(lambda: pickle.loads(sent), 3) / PLACES


def empty_tasks() -> float:
    """Seconds per task of Ray that does nothing, on two workers."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    import ray

    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    task = ray.remote(num_cpus=1)(lambda: None)
    ray.get([task.remote() for _ in range(20)])
    seconds = best(lambda: ray.get([task.remote() for _ in range(TASKS)]), 3)
    ray.shutdown()
    return seconds / TASKS


def main() -> None:
    """Print the constants."""
    with tempfile.TemporaryDirectory() as folder:
        held = commit(Path(folder))
        file = Path(folder, "photo")
        file.write_bytes(os.urandom(100_000))
        digest = best(lambda: sha256_of(file), 50)
    size, seconds = listed()
    rows = [
        ("a commit of 256 rows of 7 x 7 x 2,048 float16 (51 MB), s", held),
        ("sha256 of a photo of 100 kB, ms", 1e3 * digest),
        ("a photo of a data set, sent to a trial, bytes", size),
        ("a photo of a data set, read by a trial, us", 1e6 * seconds),
        ("a task of Ray that does nothing, ms", 1e3 * empty_tasks()),
    ]
    table = pd.DataFrame(rows, columns=["what", "measured"])
    report("scale_constants", table.round(3), table, None)


if __name__ == "__main__":
    main()
