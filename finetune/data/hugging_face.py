"""Image data sets of Hugging Face: on the hub (``hf:USER/SET``), or as ``datasets`` saved them.

Their tables hold the photos' bytes. They are unpacked once, into the cache, as a table of files.
"""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from finetune.data.hub import snapshot
from finetune.data.splits import SPLITS
from finetune.data.unpacking import unpacked
from finetune.errors import DataError
from finetune.files import digest_of, expanded, sha256_of

PREFIX = "hf:"
METADATA = "metadata.csv"  # of an image folder: file_name, label
_TABLES = ("*.parquet",)
_CONVERTED = "refs/convert/parquet"  # where the hub keeps its own Parquet of other data sets
_SPLITS = {split: split for split in SPLITS} | {
    "val": "validation",
    "valid": "validation",
    "dev": "validation",
    "training": "train",
}
_LONGEST = 10_000  # characters of a head line


def table_of(data: str) -> Path:
    """The path that was given, or the table of photos that stands for it."""
    path = expanded(data)
    if data.startswith(PREFIX):
        return hub_table(data)
    if is_saved(path):
        return saved_table(path)
    return path / METADATA if _is_listed(path) else path


def _is_listed(folder: Path) -> bool:
    """Whether a table in the folder names its photos, as Hugging Face's image folders have it."""
    table = folder / METADATA
    if not table.is_file():
        return False
    with table.open(encoding="utf-8-sig", errors="replace") as file:
        return {"file_name", "label"} <= set(file.readline(_LONGEST).strip().split(","))


def is_saved(folder: Path) -> bool:
    """Whether ``datasets`` wrote this folder with ``save_to_disk``."""
    whole = all((folder / name).is_file() for name in ("state.json", "dataset_info.json"))
    return whole or (folder / "dataset_dict.json").is_file()


def saved_table(folder: Path) -> Path:
    """The table of photos of a folder of ``save_to_disk``, unpacked into the cache.

    Raises:
        UsageError: the extra ``hf`` is missing.
        DataError: it holds no photos with classes.
    """
    files = list(_saved(folder))
    if missing := [str(path) for _, path in files if not path.is_file()]:
        raise DataError(f"{missing[0]} is missing. Save the data set again.")
    key = digest_of([[split, sha256_of(path)] for split, path in files])
    return unpacked(str(folder), key, files)


def hub_table(data: str) -> Path:
    """The table of photos of ``hf:USER/SET`` or ``hf:USER/SET/CONFIG``, unpacked into the cache.

    Raises:
        UsageError, DataError: see ``hub_files``; or it holds no photos with classes.
    """
    root, files = hub_files(data)
    # A set that was fetched in part is another one: its files count, and not the commit alone.
    held = [[str(path.relative_to(root)), path.stat().st_size] for _, path in files]
    return unpacked(data, digest_of([hub_address(data), root.name, held]), files)


def hub_files(data: str, only_here: bool = False) -> tuple[Path, list[tuple[str, Path]]]:
    """The folder of a commit of ``hf:USER/SET``, fetched if need be, and (split, file) in it.

    Args:
        data: its name with the prefix.
        only_here: fetch nothing; what was not fetched before is a DataError.

    Raises:
        UsageError: the extra ``hf`` is missing.
        DataError: there is no such data set, no route to it, or it has several configurations and
            none was named.
    """
    name, config = hub_address(data)
    root = snapshot(name, _TABLES, kind="dataset", only_here=only_here)
    if not any(root.rglob("*.parquet")):
        root = snapshot(name, _TABLES, kind="dataset", revision=_CONVERTED, only_here=only_here)
    return root, _of_config(name, config, root)


def hub_address(data: str) -> tuple[str, str]:
    """``hf:USER/SET/CONFIG`` -> (``USER/SET``, ``CONFIG``), which is "" where none is named."""
    user, *rest = data.removeprefix(PREFIX).split("/", 2)
    return "/".join([user, *rest[:1]]), "/".join(rest[1:])


def _of_config(name: str, config: str, root: Path) -> list[tuple[str, Path]]:
    """(split, file) of the tables of one configuration; of the only one, or of ``default``, where
    none is named.
    """
    found: dict[str, list[tuple[str, Path]]] = {}
    for path in sorted(root.rglob("*.parquet")):
        folder, split = _place_of(path.relative_to(root))
        found.setdefault(folder, []).append((split, path))
    if len(found) <= 1 and not config:
        return [file for files in found.values() for file in files]
    wanted = config or "default"
    if wanted not in found:
        named = f"and {config!r} is none of them" if config else "which hold different photos"
        raise DataError(
            f"{name} has the configurations {', '.join(sorted(found)) or 'none'}, {named}. "
            f"Name one of them, as in {PREFIX}{name}/{min(found, default='CONFIG')}."
        )
    return found[wanted]


def _saved(folder: Path) -> Iterator[tuple[str, Path]]:
    """(split, file) of the Arrow files of a data set, or of each of its splits."""
    dictionary, state = folder / "dataset_dict.json", folder / "state.json"
    if dictionary.is_file():
        for split in _read(dictionary, lambda value: list(map(str, value["splits"]))):
            if split.lower() not in _SPLITS:  # it would name a folder to write to
                raise DataError(
                    f"{dictionary} names the split {split!r}; allowed are {', '.join(_SPLITS)}. "
                    "Save the data set again with splits of these names."
                )
            for _, path in _saved(folder / split):
                yield _SPLITS[split.lower()], path
        return
    for name in _read(
        state, lambda value: [Path(x["filename"]).name for x in value["_data_files"]]
    ):
        yield "train", folder / name


def _read(path: Path, part: Callable[[Any], list[str]]) -> list[str]:
    """A part of a JSON file; DataError where the file is missing or has none."""
    try:
        return part(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise DataError(
            f"{path} cannot be read ({type(error).__name__}: {error}). Save the data set again."
        ) from error


def _place_of(path: Path) -> tuple[str, str]:
    """(configuration, split): ``red/train/0000.parquet`` and ``red/train-00000-of-00001.parquet``
    -> ("red", "train"). The part of the path nearest to the file that names a split counts.
    """
    for part in (path, *path.parents):
        words = re.split(r"[^a-z]+", part.name.lower())
        split = next((_SPLITS[word] for word in words if word in _SPLITS), "")
        if split:
            return part.parent.as_posix(), split
    return path.parent.as_posix(), "train"
