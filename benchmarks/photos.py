"""Folders of photos for the benchmarks: real ones from FINETUNE_DATA_DIR, else drawn ones, any
number of them.
"""

import itertools
import os
from pathlib import Path


def make_folder(folder: Path, train: int, validation: int = 0, test: int = 0) -> Path:
    """A data set with so many photos in each split, half of them of each class.

    Photos that are needed more than once get a few bytes behind their end, which decoders ignore:
    their content has another hash, so that the store computes them anew.
    """
    sources = {name: _endless(name) for name in ("cats", "dogs")}
    for split, count in {"train": train, "validation": validation, "test": test}.items():
        for number in range(count):
            name = ("cats", "dogs")[number % 2]
            photo, lap = next(sources[name])
            target = folder / split / name / f"{number}{photo.suffix}"
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(photo.read_bytes() + (f"lap {lap}".encode() if lap else b""))
    return folder


def _endless(name: str):
    root = Path(os.environ.get("FINETUNE_DATA_DIR", "."), "cats_and_dogs_small")
    if not root.is_dir():
        from finetune.data import catalog

        root = catalog.locate("sketches")
    photos = sorted(root.glob(f"*/{name}*/*"))
    if not photos:
        raise SystemExit(f"no photos of {name} in {root}")
    return ((photo, lap) for lap in itertools.count() for photo in photos)
