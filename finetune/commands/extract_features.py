"""`finetune extract-features`: the activations of every photo as one array and its index."""

import time
from collections.abc import Iterator, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from finetune.activations.remote import check_remote
from finetune.activations.rows import closing_shards
from finetune.backend import load_keras
from finetune.data.dataset import SPLITS, Dataset
from finetune.disk import need_space
from finetune.execution.sharing import Need, settled
from finetune.files import commit, commit_csv, locked
from finetune.progress import SILENT, Reporter
from finetune.recipe.reading import load
from finetune.recipe.recipe import Recipe

Place = str | PathLike[str]


def extract_features(
    *,
    data: Place | None = None,
    backbone: str | None = None,
    weights: Place | None = None,
    image_size: int | None = None,
    cut: str | None = None,
    pooling: str = "gap",
    precision: str | None = None,
    min_per_class: int | None = None,
    settings: Sequence[str] = (),
    skip_bad: bool = False,
    out: Place = "features",
    reporter: Reporter = SILENT,
) -> dict[str, Any]:
    """Run the photos through the backbone once; write features.npy and index.csv.

    Args:
        data, backbone, weights, image_size, precision, min_per_class: as for ``run``.
        cut: name of the cut; None is the one above the last block.
        pooling: ``none`` writes the activations as they cross the cut (n, h, w, channels) in the
            store's dtype; ``gap`` and ``gmp`` write float32 (n, channels).
        settings: texts ``KEY=VALUE`` for any other key of a recipe.
        skip_bad: leave out photos that cannot be decoded.
        out: folder of ``features.npy`` and ``index.csv`` (row, file, class, label, split).
        reporter: of progress.

    Returns:
        What ``extract-features --json`` prints; ``cached``: no photo was run through the trunk.

    Raises:
        UsageError: no such cut, or ``out`` cannot be written. DataError, IntegrityError: see
            ``run``. BusyError: another process works in ``out``.
    """
    chosen: dict[str, Any] = {
        "data": None if data is None else str(data),
        "backbone": backbone,
        "weights": None if weights is None else str(weights),
        "image_size": image_size,
        "precision": precision,
        "min_per_class": min_per_class,
        "strategy": "cached-features",
        "skip_bad": skip_bad or None,
    }
    recipe = settled(load(None, chosen, list(settings)))
    check_remote()
    load_keras()
    # what cannot be written is said before the work
    with locked(Path(out)), closing_shards():
        return _extracted(recipe, cut, pooling, Path(out), reporter)


def _extracted(
    recipe: Recipe, cut: str | None, pooling: str, out: Path, reporter: Reporter
) -> dict[str, Any]:
    from finetune.execution.bench import Bench, gather, read_dataset
    from finetune.model.cut import find_cut
    from finetune.model.heads import pool_maps

    dataset = read_dataset(recipe)
    network, cache = Bench().prepare(recipe, len(dataset.classes), reporter)
    cut = cut or network.top
    maps = find_cut(network.whole, cut).shape[1:]
    start = time.perf_counter()
    wanted = [Need(cut, split, 0) for split in SPLITS]
    dataset, rows = gather(recipe, dataset, cache, wanted)
    seconds = time.perf_counter() - start
    is_pooled = pooling != "none" and len(maps) == 3
    shape = (len(dataset.photos), *(maps[-1:] if is_pooled else maps))
    dtype = np.dtype(np.float32) if is_pooled else rows[wanted[0]].dtype

    def batches() -> Iterator[np.ndarray]:
        for need in wanted:
            for batch in rows[need].batches(recipe.batch_size):
                yield pool_maps(batch, pooling) if is_pooled else batch

    _write(out, batches(), shape, dtype, dataset)
    return {
        "out": str(out),
        "n": shape[0],
        "shape": list(shape),
        "images_per_second": round(cache.computed / seconds, 3),
        "cached": cache.computed == 0,
        "cut": cut,
        "split": dataset.digest,
    }


def _write(
    out: Path, batches: Iterator[np.ndarray], shape: tuple, dtype: np.dtype, dataset: Dataset
) -> None:
    size = int(np.prod(shape)) * dtype.itemsize
    need_space(out, size)

    def write(file: BinaryIO) -> None:
        header = {"descr": dtype.str, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_2_0(file, header)
        for batch in batches:
            file.write(np.ascontiguousarray(batch).data)

    commit(out / "features.npy", write, size)
    commit_csv(out / "index.csv", index(dataset))


def index(dataset: Dataset):
    """One line per row of the array, in its order: a pandas DataFrame."""
    import pandas as pd

    photos = dataset.photos
    return pd.DataFrame(
        {
            "row": range(len(photos)),
            "file": [photo.file for photo in photos],
            "class": [dataset.classes[photo.label] for photo in photos],
            "label": [photo.label for photo in photos],
            "split": [photo.split for photo in photos],
        }
    )
