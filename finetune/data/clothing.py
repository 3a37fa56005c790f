"""Clothing small: 3,781 photos of ten kinds of clothes (CC0), put together from a local copy."""

import shutil
from pathlib import Path

from finetune.data.dataset import read_folder
from finetune.data.download import Report
from finetune.errors import DataError

CLASSES = (
    "dress", "hat", "longsleeve", "outwear", "pants", "shirt", "shoes", "shorts", "skirt", "t-shirt"
)  # fmt: skip
_ORIGIN = "https://github.com/alexeygrigorev/clothing-dataset-small"
_COPY = (
    f"Needed: a copy of {_ORIGIN}, a folder with train/, validation/ and test/, each with the "
    f"class folders {', '.join(CLASSES)}."
)


def write_clothing(folder: Path, source: Path | None, progress: Report | None) -> dict:
    """Copy the photos into split and class folders.

    Args:
        folder: where the split folders go.
        source: a copy of the public set; it is never downloaded.
        progress: unused.

    Returns:
        What is recorded of the source.

    Raises:
        DataError: no source, or it is no such copy.
    """
    if source is None:
        raise DataError(
            "clothing-small is neither in FINETUNE_DATA_DIR (as clothing_small/) nor in the "
            "cache, and it is not downloaded. `finetune data clothing-small --from PATH` takes it "
            f"from a copy. {_COPY}"
        )
    if not source.is_dir():
        raise DataError(f"--from {source}: no such folder. {_COPY}")
    dataset = read_folder(source)
    if dataset.hashed or dataset.classes != CLASSES:
        found = "no split folders" if dataset.hashed else f"classes {', '.join(dataset.classes)}"
        raise DataError(f"--from {source}: {found}. {_COPY}")
    for photo in dataset.photos:
        inside = photo.path.relative_to(source).parts[2:]  # below the split and the class
        target = folder.joinpath(photo.split, dataset.classes[photo.label], *inside)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(photo.path, target)
    return {
        "source": str(source.resolve()),
        "origin": _ORIGIN,
        "licence": "CC0-1.0",
        "photos": len(dataset.photos),
        "split": dataset.digest,
    }
