"""Open a saved ``.keras`` file, after looking at it as data.

Loading a foreign Keras file can make Keras run or read what it should not (CVE-2025-1550, -8747, -9905, -9906, -12058 and
their successors). Whatever this toolkit saves is made of standard layers and whole numbers of bytes in one archive, so
everything else is refused before Keras sees it, and then Keras's own safe mode is on, too.
"""

import json
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import keras

from finetune.errors import DataError, IntegrityError

_MEMBERS = {"metadata.json", "config.json", "model.weights.h5"}
# Where the configuration of a model of standard layers, compiled or not, takes its classes from; None is a tensor's place.
_MODULES = {None, "keras"} | {f"keras.{name}" for name in ("initializers", "layers", "losses", "metrics", "optimizers",
            "optimizers.schedules", "regularizers", "src.models.functional", "src.models.sequential")}  # fmt: skip
_UNSAFE_LAYERS = {
    "Lambda",
    "TFSMLayer",
    "TorchModuleWrapper",
    "FlaxLayer",
    "JaxLayer",
}  # they carry or fetch code
_LARGEST = 2**33  # bytes of weights; a zip archive of a few MB can claim more than a disk holds


def load_model(path: Path) -> keras.Model:
    """Open a model made of Keras's own layers.

    Args:
        path: a ``.keras`` file.

    Raises:
        DataError: there is no such file.
        IntegrityError: it is no Keras model, is damaged, or holds anything but standard layers and their weights.
    """
    if not path.is_file():
        raise DataError(f"{path} does not exist. Give a run folder, or a .keras file.")
    try:
        _check(path)
        return keras.saving.load_model(path, compile=False, safe_mode=True)
    except (OSError, KeyError, TypeError, ValueError, zipfile.BadZipFile, RecursionError) as error:
        reason = " ".join(str(error).split())[:300]
        raise IntegrityError(
            f"{path} is no model that can be opened safely: {reason}. Allowed are .keras files of Keras's own layers, as "
            "`finetune run` writes them. Nothing was loaded."
        ) from error


def _check(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        names = [item.filename for item in archive.infolist()]
        if set(names) - _MEMBERS or len(names) != len(set(names)):
            raise ValueError(
                f"the archive holds {', '.join(sorted(names))[:200]}; allowed are {', '.join(_MEMBERS)}"
            )
        if sum(item.file_size for item in archive.infolist()) > _LARGEST:
            raise ValueError("the archive unpacks to more than 8 GiB")
        for part in _parts(json.loads(archive.read("config.json"))):
            _check_part(part)
        with tempfile.TemporaryDirectory() as folder:
            archive.extract("model.weights.h5", folder)
            with h5py.File(Path(folder, "model.weights.h5"), "r") as file:
                _check_group(file)


def _parts(config: Any) -> Iterator[dict[str, Any]]:
    """Every object of a serialized configuration, at any depth."""
    if isinstance(config, dict):
        if "class_name" in config:
            yield config
        yield from (part for value in config.values() for part in _parts(value))
    elif isinstance(config, list):
        yield from (part for value in config for part in _parts(value))


def _check_part(part: dict[str, Any]) -> None:
    place, name = part.get("module"), part["class_name"]
    if (
        place not in _MODULES
        or name in _UNSAFE_LAYERS
        or part.get("registered_name") not in (None, name)
    ):
        raise ValueError(f"it holds {place}.{name}, which is none of Keras's own layers")


def _check_group(group: h5py.Group) -> None:
    """No links out of the file and no data that lies elsewhere: HDF5 would read other files of this machine."""
    for name in group:
        if isinstance(group.get(name, getlink=True), h5py.ExternalLink):
            raise ValueError(f"its weights link to another file at {group.name}/{name}")
        item = group[name]
        if isinstance(item, h5py.Group):
            _check_group(item)
        elif item.external or item.is_virtual:
            raise ValueError(f"its weights at {item.name} lie in another file")
