"""Runs on Hugging Face's hub: each is a repository of a model there."""

import re
from collections.abc import Sequence
from os import PathLike
from pathlib import Path, PurePath

from finetune.data.hub import client, hub_errors, snapshot
from finetune.errors import UsageError
from finetune.progress import SILENT, Reporter

# `Path("hf://a/b")` has one slash.
_ADDRESS = re.compile(r"hf://?([\w.-]+/[\w.-]+)(?:@([\w./-]+))?")
# Of a run; nothing else of a repository is fetched.
_FILES = ["model.keras", "*.json", "*.yaml", "*.csv", "openvino/*/*"]


def is_address(place: str | PathLike[str]) -> bool:
    """Whether this is meant as the address of a repository on the hub."""
    return _posix(place).startswith("hf:/")


def repository(address: str | PathLike[str]) -> tuple[str, str | None]:
    """``hf://USER/REPO[@REVISION]`` -> the repository's name and the revision, if one is named.

    Raises:
        UsageError: it is no such address.
    """
    found = _ADDRESS.fullmatch(_posix(address))
    if not found:
        raise UsageError(
            f"'{address}' is no repository on the hub; allowed is hf://USER/REPO, and to read from "
            "also hf://USER/REPO@REVISION."
        )
    return found[1], found[2]


def fetch(address: str | PathLike[str], reporter: Reporter = SILENT) -> Path:
    """A run on the hub as a run folder, in the hub's own cache (``HF_HOME``).

    Without a network the copy that is there serves.

    Raises:
        UsageError: it is no address of a repository, or the extra ``hf`` is missing.
        DataError: there is no such repository, no route to it, or it is too large.
    """
    name, revision = repository(address)
    return snapshot(name, _FILES, revision=revision, say=reporter.say)


def upload(folder: Path, address: str | PathLike[str], private: bool) -> dict[str, str]:
    """Make the repository if it is not there, and write a folder's files to it in one commit.

    A network of an earlier run that is there is removed.

    Returns:
        Its ``url``, and the ``commit``.

    Raises:
        UsageError: no address to write to, or the extra ``hf`` is missing.
        DataError: the hub does not let us, or there is no route to it.
    """
    name, revision = repository(address)
    if revision:
        raise UsageError(f"{address} names a revision; allowed to write to is hf://{name}.")
    hub = client()
    files = list(walked(folder))
    with hub_errors(name):
        api = hub.HfApi()
        url = api.create_repo(name, private=private, exist_ok=True)
        old = set(api.list_repo_files(name)) - set(files)
        operations = [hub.CommitOperationAdd(file, folder / file) for file in files]
        operations += [
            hub.CommitOperationDelete(file) for file in sorted(old) if file.startswith("openvino/")
        ]
        done = api.create_commit(name, operations, commit_message="A run of finetune")
    return {"url": str(url), "commit": done.oid}


def walked(folder: Path) -> Sequence[str]:
    """The files below a folder, posix and relative to it, in order."""
    return sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()
    )


def _posix(place: str | PathLike[str]) -> str:
    return place if isinstance(place, str) else PurePath(place).as_posix()
