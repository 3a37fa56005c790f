"""The result of a run, and how it is read from its folder.

Needs nothing but the standard library, so that commands can answer at once. ``metrics.json`` is
written last: a folder with one is a finished run. It holds the sha256 of every other file and,
under ``sha256``, the digest of its own content, which whoever reads a file checks.
"""

import csv
import json
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from finetune.errors import DataError, IntegrityError
from finetune.files import commit_json, digest_of, from_text, sha256_of

RESULT = "metrics.json"
PHOTOS = "photos.csv"  # the sha256 of every photo, with its split
_OWN = "sha256"
_NETWORKS = "openvino/*/manifest.json"  # see runs.ir


@dataclass(frozen=True)
class RunResult:
    """What a run found; ``run --json`` prints it.

    Attributes:
        run: its folder.
        backbone, strategy, cut, precision: of the recipe.
        parameters: total, trainable, and on both sides of the cut (trunk, tail).
        split: digest of the photos and their splits; ``listed``: before bad ones were left out.
        seconds: extract, train, total (until the test photos were classified) and command.
        extracted: rows that were computed in this run.
        entries: key of each cache entry that was used -> cut, seconds (to compute its rows,
            whenever that was) and bytes.
        cost: extraction_seconds, stored_bytes, peak_memory (bytes), multiply_adds.
        weights: source and digest of the backbone's weights, and the content of their file.
        head: how it was fitted: solver, c, validation_loss, and path, pairs of c and loss.
        audit: frozen (variables compared) and moved.
        validation, test: see ``evaluation.metrics.summarize``, and per_class.
        leaks, near_duplicates: files in more than one split or class, see ``data.overlap``.
        unseen: n and accuracy of the test photos that have no copy or look-alike in another split;
            look_alikes: whether these were sought.
        folds: of a cross-validation, see ``execution.crossing``; None without one.
        warnings: sentences on what the figures are worth.
        ignored: entries of the data folder that are no photos, by kind; ``excluded``: bad photos.
        fidelity: how far a trunk that is not float32 is off, see ``docs/design.md``.
        files: name -> sha256 of the files of the run folder.
    """

    run: str
    backbone: str
    strategy: str
    cut: str
    parameters: dict[str, int]
    split: str
    listed: str
    seconds: dict[str, float]
    extracted: int
    cost: dict[str, float]
    weights: dict[str, str]
    head: dict[str, Any]
    audit: dict[str, int]
    validation: dict[str, Any]
    test: dict[str, Any]
    ignored: dict[str, int]
    excluded: int
    precision: str = "float32"
    entries: dict[str, dict[str, Any]] = field(default_factory=dict)
    fidelity: dict[str, Any] | None = None
    leaks: list[list[str]] = field(default_factory=list)
    near_duplicates: list[list[str]] | None = None
    unseen: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    folds: dict[str, Any] | None = None
    files: dict[str, str] = field(default_factory=dict)

    @property
    def content(self) -> str:
        """See ``model.weight_places.content_of``; earlier versions noted none."""
        return self.weights.get("content", "")

    def __fspath__(self) -> str:
        """Its folder: a result can be given wherever a run folder can."""
        return self.run

    def to_json(self) -> dict[str, Any]:
        """JSON values, without what is None."""
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        return {name: value for name, value in values.items() if value is not None}

    def write(self, folder: Path) -> "RunResult":
        """Finish a run folder: take the digests of its files, and commit the result last."""
        paths = [path for path in folder.iterdir() if _is_recorded(path)]
        paths += folder.glob(_NETWORKS)  # these hold the digests of their graphs and weights
        names = sorted(path.relative_to(folder).as_posix() for path in paths)
        result = replace(self, files={name: sha256_of(folder / name) for name in names})
        write_result(folder, result.to_json())
        return result


def _is_recorded(path: Path) -> bool:
    named = path.name.startswith(".") or path.name in (RESULT, "log.txt", "checkpoint.npz")
    return path.is_file() and not named


def write_result(folder: Path, result: dict[str, Any]) -> None:
    """Commit a result with its digest."""
    plain = json.loads(json.dumps(result, allow_nan=False))  # as it will be read
    commit_json(folder / RESULT, {**plain, _OWN: digest_of(plain)})


def read_run(folder: Path) -> RunResult | None:
    """The result of a run, or None if it is not finished. Raises IntegrityError, DataError."""
    content = read_result(folder)
    if content is None:
        return None
    known = {item.name for item in fields(RunResult)}
    try:
        return RunResult(**{name: value for name, value in content.items() if name in known})
    except TypeError as error:
        raise DataError(f"{folder} holds the result of something else than a run.") from error


def read_result(folder: Path) -> dict[str, Any] | None:
    """What was printed when a run or an ensemble was finished; None if it is not finished.

    Raises:
        IntegrityError: the file is damaged.
    """
    path = folder / RESULT
    if not path.exists():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        expected = content.pop(_OWN)
        is_whole = expected == digest_of(content)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        is_whole = False
    if not is_whole:
        raise IntegrityError(
            f"{path} is damaged, or of an older version: its content has not the sha256 that it "
            "names. Run the recipe again in another folder."
        )
    return content


def recorded(folder: Path) -> dict[str, str]:
    """name -> sha256 of the files of a finished run; empty if it is not finished.

    Raises:
        IntegrityError: the result is damaged.
    """
    return (read_result(folder) or {}).get("files", {})


def checked(folder: Path, *names: str) -> None:
    """Compare files of a finished run with their recorded digests; all of them if none is named.

    Raises:
        IntegrityError: a file is missing or has changed since the run was finished.
    """
    files = recorded(folder)
    for name in names or files:
        path = folder / name
        if name in files and not (path.is_file() and sha256_of(path) == files[name]):
            raise IntegrityError(
                f"{path} is not the file that the run wrote: it has another sha256 than {RESULT} "
                "records. Restore it, or run the recipe again in another folder."
            )


def finished_run(folder: Path) -> RunResult | None:
    """The result of a run if it is finished and readable, its tables as they were written.

    What cannot be read is not finished. The networks are not hashed: whoever opens them does that.
    """
    try:
        result = read_run(folder)
        names = result.files if result else ()
        checked(folder, *(name for name in names if not name.startswith(("model.", "openvino/"))))
    except (IntegrityError, DataError):
        return None
    return result


def read_contents(folder: Path) -> dict[str, str] | None:
    """sha256 -> split of every photo of a run, training first; None if it did not keep them.

    Raises:
        IntegrityError: the table is not as the run wrote it.
    """
    rows = _photo_rows(folder)
    if rows is None:
        return None
    # of copies the first counts: splits begin with training
    return {row["sha256"]: row["split"] for row in reversed(rows)}


def read_digests(folder: Path) -> dict[str, str]:
    """File -> sha256 of every photo of a run; empty if it did not keep them.

    Raises:
        IntegrityError: the table is not as the run wrote it.
    """
    return {from_text(row["file"]): row["sha256"] for row in _photo_rows(folder) or []}


def _photo_rows(folder: Path) -> list[dict[str, str]] | None:
    if not (folder / PHOTOS).is_file():
        return None
    checked(folder, PHOTOS)
    with (folder / PHOTOS).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def read_recipe(out: Path) -> Path:
    """The recipe file of a run folder; DataError if there is none."""
    path = out / "recipe.yaml"
    if not path.is_file():
        raise DataError(
            f"{out} is no run folder: it holds no recipe.yaml. Give the folder that "
            "`finetune run --out` wrote."
        )
    return path
