"""`finetune data`: a named data set, found or built."""

from pathlib import Path
from typing import Any


def data(name: str, *, source: Path | None = None) -> dict[str, Any]:
    """Find, build or download a named data set, and say where it is.

    Args:
        name: cats-and-dogs-small, cats-and-dogs, clothing-small, sketches, digits or mnist.
        source: a local copy to build it from.

    Returns:
        What ``data --json`` prints: name, folder, classes, photos by split, digest of the split.

    Raises:
        UsageError: no such name. DataError: it cannot be found, built or downloaded.
        BusyError: another process is building it, or the disk is full.
    """
    from finetune.data import catalog
    from finetune.data.dataset import SPLITS, read_folder

    folder = catalog.build(name, source) if source else catalog.locate(name)
    dataset = read_folder(folder, name)
    return {
        "name": name,
        "folder": str(folder),
        "classes": list(dataset.classes),
        "photos": {split: len(dataset.split(split)) for split in SPLITS},
        "split": dataset.digest,
    }
