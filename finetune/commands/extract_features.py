"""`finetune extract-features`: the activations of every photo as one array and its index."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from finetune.backend import load_keras
from finetune.progress import SILENT, Reporter
from finetune.recipe.recipe import Recipe, load


def extract_features(
    data: str | None = None,
    *,
    backbone: str | None = None,
    weights: str | None = None,
    image_size: int | None = None,
    cut: str | None = None,
    pooling: str = "gap",
    settings: Sequence[str] = (),
    skip_bad: bool = False,
    out: Path = Path("features"),
    reporter: Reporter = SILENT,
) -> dict[str, Any]:
    """Run the photos through the backbone once; write features.npy and index.csv."""
    given = {"data": data, "backbone": backbone, "weights": weights, "image_size": image_size}
    given |= {"strategy": "cached-features", "skip_bad": skip_bad or None}
    recipe = load(None, given, settings)
    load_keras()
    return write_features(recipe, cut, pooling, out, reporter)


def write_features(
    recipe: Recipe, cut: str | None, pooling: str, out: Path, reporter: Reporter
) -> dict[str, Any]:
    """Write ``features.npy`` (row-aligned) and ``index.csv`` (row, file, class, label, split).

    Args:
        recipe: data, backbone, weights, image size; the rest plays no part.
        cut: name of the cut; None is the one above the last block.
        pooling: ``none`` writes the activations as they cross the cut (n, h, w, channels) in the store's dtype; ``gap``
            and ``gmp`` write float32 (n, channels).
        out: the folder.
        reporter: told of progress.

    Returns:
        What ``extract-features --json`` prints; ``cached`` says that no photo was run through the trunk.

    Raises:
        UsageError: no such cut; DataError, IntegrityError: see ``run``.
    """
    import numpy as np

    from finetune.activations.cache import Work
    from finetune.data.dataset import SPLITS
    from finetune.files import commit
    from finetune.model.cut import find_cut
    from finetune.model.heads import pool_maps

    work = Work.prepare(recipe, reporter)
    cut = cut or work.network.top
    maps = find_cut(work.network.whole, cut).shape[1:]
    start = time.perf_counter()
    work.complete(cut, [(name, 0) for name in SPLITS])
    rows = [work.stored(cut, name) for name in SPLITS]
    seconds = time.perf_counter() - start
    pooled = pooling != "none" and len(maps) == 3
    shape = (len(work.dataset.photos), *(maps[-1:] if pooled else maps))
    dtype = np.float32 if pooled else rows[0].dtype
    out.mkdir(parents=True, exist_ok=True)

    def write(file) -> None:
        np.lib.format.write_array_header_2_0(
            file, {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": shape}
        )
        for batch in (batch for part in rows for batch in part.batches(recipe.batch_size)):
            file.write(np.ascontiguousarray(pool_maps(batch, pooling) if pooled else batch))

    commit(out / "features.npy", write)
    commit(out / "index.csv", lambda file: index(work).to_csv(file, index=False))
    return {
        "out": str(out),
        "n": shape[0],
        "shape": list(shape),
        "images_per_second": round(work.extracted / seconds, 3),
        "cached": work.extracted == 0,
        "cut": cut,
        "split": work.dataset.digest,
    }


def index(work):
    """One line per row of the array, in its order."""
    import pandas as pd

    photos = work.dataset.photos
    return pd.DataFrame(
        {
            "row": range(len(photos)),
            "file": [photo.file for photo in photos],
            "class": [work.dataset.classes[photo.label] for photo in photos],
            "label": [photo.label for photo in photos],
            "split": [photo.split for photo in photos],
        }
    )
