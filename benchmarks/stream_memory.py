"""Peak memory while a head is trained from the stored activations of 20,000 photos, 3.7 GiB of
them, for one epoch.

python benchmarks/stream_memory.py [PHOTOS]
"""

import sys
import tempfile
import time
from pathlib import Path

import keras
import numpy as np

from finetune.activations.store import Store
from finetune.backend import peak_bytes, reset_peak
from finetune.training.batches import Batches, read_views
from finetune.training.fit import Settings, fit

SHAPE = (14, 14, 512)  # VGG16's block4_pool at 224 pixels


def main(photos: int) -> None:
    """Fill a store with noise, train from it, print seconds and peak resident memory."""
    names, labels = [f"photo{i}" for i in range(photos)], np.arange(photos, dtype=np.int32) % 2
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder), {}, "float16")
        for start in range(0, photos, 320):
            some = names[start : start + 320]
            store.add(some, rng.random((len(some), *SHAPE), dtype=np.float32).astype(np.float16))
        x = keras.Input(SHAPE)
        head = keras.layers.Dense(2, activation="softmax")(keras.layers.GlobalAveragePooling2D()(x))
        train = Batches(read_views([store.rows(names)]), labels, 32, seed=0)
        held_out = Batches(read_views([store.rows(names[:1000])]), labels[:1000], 32)
        reset_peak()
        start = time.perf_counter()
        fit(keras.Model(x, head), train, held_out, Settings(1, 1, 32, 1e-3), "tail")
        stored = photos * np.prod(SHAPE) * 2 / 2**30
        print(
            f"{photos:,} photos, {stored:.2f} GiB stored: {time.perf_counter() - start:.1f} s, ",
            end="",
        )
        print(f"peak {peak_bytes() / 2**30:.2f} GiB resident")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 20_000)
