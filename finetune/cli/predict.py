"""`finetune predict`."""

import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO

import typer

from finetune.cli.options import JsonOption, need_keras, reporter
from finetune.errors import DataError, UsageError

if TYPE_CHECKING:
    from finetune.commands.predict import Prediction

Format = Enum(
    "Format", {"table": "table", "csv": "csv", "json": "json", "parquet": "parquet"}, type=str
)
_NAMED = 10  # bad photos that the last message names; each has been told before, with its reason


def predict(
    model: Annotated[
        Path, typer.Argument(metavar="RUN|MODEL", help="A run folder, or a .keras file.")
    ],
    photos: Annotated[
        list[Path], typer.Argument(metavar="PHOTO|DIR", help="Photos, and folders of photos.")
    ],
    top: Annotated[int, typer.Option(min=1, help="How many classes to name for each photo.")] = 1,
    form: Annotated[
        Format | None, typer.Option("--format", help="Default: table.", show_default=False)
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Write to this file, whole or not at all.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Classify photos, and write each one's row as soon as it is known."""
    from finetune.data.photos import SUFFIXES, list_photos

    chosen = _chosen(form, out, as_json)
    total = sum(1 for _ in list_photos(photos))
    if not total:
        places = ", ".join(map(str, photos))
        raise DataError(
            f"There are no photos in {places}. Photos in folders end in {', '.join(sorted(SUFFIXES))}."
        )
    need_keras()
    from finetune.commands import predict as command
    from finetune.files import commit
    from finetune.runs.classifier import Classifier

    if out is None and hasattr(signal, "SIGPIPE"):
        signal.signal(
            signal.SIGPIPE, signal.SIG_DFL
        )  # `predict ... | head` ends quietly, as other tools do
    stdout, told = (
        sys.stdout.buffer,
        reporter(),
    )  # taken here: while a bar moves on stderr, rich turns sys.stdout there
    classifier = Classifier.open(model)
    bad: list[str] = []

    def write(file: BinaryIO) -> None:
        on_screen = file is stdout and stdout.isatty()  # then the rows themselves are the progress
        stage = nullcontext(_ignore) if on_screen else told.stage("photos classified", total)
        with stage as advance:
            rows = _told(command.predict(classifier, photos, top), advance, told.warn, bad)
            command.write(rows, chosen, file, classifier, top)

    commit(out, write) if out else write(stdout)
    if bad:
        more = f" and {len(bad) - _NAMED} more" if len(bad) > _NAMED else ""
        names = ", ".join(bad[:_NAMED])
        raise DataError(
            f"{len(bad):,} of {total:,} photos could not be decoded: {names}{more}. Reasons: above."
        )


def _chosen(form: Format | None, out: Path | None, as_json: bool) -> str:
    """The format's name, if the options fit together."""
    name = "json" if as_json else form.value if form else "table"
    if form and form.value != name:
        raise UsageError(
            f"--json and --format {form.value} contradict each other; give one of them."
        )
    if out and out.is_dir():
        raise UsageError(f"--out {out} is a folder; give the name of a file.")
    if name == "parquet" and not out:
        raise UsageError("--format parquet is binary and goes to a file: add --out FILE.")
    return name


def _told(
    rows: "Iterable[Prediction]",
    advance: Callable[[int], None],
    warn: Callable[[str], None],
    bad: list[str],
) -> "Iterator[Prediction]":
    """The rows on their way, counted, and the bad ones said."""
    from finetune.commands.predict import shown

    for row in rows:
        advance(1)
        if row.bad is not None:
            bad.append(shown(row.file))
            warn(f"{bad[-1]}: {row.bad}")
        yield row


def _ignore(steps: int) -> None:
    """Advance no bar."""
