"""`finetune push`: a run to Hugging Face's hub."""

import tempfile
from os import PathLike
from pathlib import Path
from typing import Any

from finetune.progress import SILENT, Reporter


def push(
    run: Path | str | PathLike[str],
    address: str,
    *,
    private: bool = False,
    dry_run: bool = False,
    reporter: Reporter = SILENT,
) -> dict[str, Any]:
    """Share a run on Hugging Face's hub: the model, its network, its card with the hub's metadata.

    Photos, and the names and places of their files, stay here. ``predict hf://USER/REPO`` uses it.

    Args:
        run: the folder of a finished run.
        address: ``hf://USER/REPO``; the repository is made if it is not there.
        private: a new repository is to be seen by its owner alone.
        dry_run: nothing is sent.
        reporter: of progress.

    Returns:
        What ``push --json`` prints: run, repository, files (name, bytes), url and commit (None in
        a dry run).

    Raises:
        UsageError: no such address, or the extra ``hf`` is missing.
        DataError: it is no finished run, the hub refuses it, or there is no route to it.
        IntegrityError: a file is not as the run wrote it.
    """
    from finetune.data.hub import client
    from finetune.runs.hub import repository, upload, walked
    from finetune.runs.hub_card import stage

    name, _ = repository(address)
    client()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        stage(Path(run), name, folder)
        files: list[dict[str, Any]] = [
            {"name": file, "bytes": (folder / file).stat().st_size} for file in walked(folder)
        ]
        done: dict[str, Any] = {"url": None, "commit": None}
        if not dry_run:
            size = sum(file["bytes"] for file in files)
            reporter.say(f"{len(files)} files, {size / 2**20:,.1f} MiB, are sent to {address}")
            done = upload(folder, address, private)
    return {"run": str(run), "repository": name, "files": files, **done}
