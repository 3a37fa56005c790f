"""`finetune predict`, `evaluate`, `explain`, `export`, `serve`: their results for a person."""

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

from finetune.cli.verbs import derived, settings, verb
from finetune.commands.evaluate import evaluate
from finetune.commands.explain import explain
from finetune.commands.export import export
from finetune.commands.predict import FORMATS, Prediction, predict, printed, write
from finetune.commands.push import push
from finetune.commands.serve import serve
from finetune.errors import DataError, UsageError
from finetune.files import commit
from finetune.progress import Reporter, count

_NAMED = 10  # bad photos that the last message names; each was reported before, with its reason
_SHOWN = 5  # photos of the highest loss; more are in top_losses.csv
_CLASSES = 25  # of the table of an evaluation


def _until_closed(stdout: BinaryIO, write_all: Callable[[BinaryIO], None]) -> None:
    """`predict ... | head` ends quietly, as other tools do, with the exit code of SIGPIPE.

    The signal's default would end whatever else writes to pipes in this process, and Python flushes
    stdout once more at its end (docs.python.org/3/library/signal.html#note-on-sigpipe).
    """
    try:
        write_all(stdout)
        stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stdout.fileno())
        sys.exit(141)


def _predict(
    format: str | None,
    out: Path | None,
    as_json: bool,
    model: str,
    photos: list[Path],
    **given: Any,
) -> None:
    """Write each photo's row as soon as it is known."""
    format = _format(format, out, as_json)
    # While a bar moves on stderr, rich turns sys.stdout there: the stream is taken here. Rows on
    # a terminal are the progress themselves.
    stdout = sys.stdout.buffer
    on_screen = out is None and stdout.isatty()
    predictions = predict(model, photos, reporter=Reporter(settings["quiet"] or on_screen), **given)
    bad: list[str] = []

    def noted() -> Iterator[Prediction]:
        for row in predictions:
            if row.bad is not None:
                bad.append(printed(row.file))
            yield row

    def write_all(file: BinaryIO) -> None:
        write(replace(predictions, rows=noted()), format, file)

    if out:
        commit(out, write_all)
    else:
        _until_closed(stdout, write_all)
    if bad:
        more = f" and {len(bad) - _NAMED} more" if len(bad) > _NAMED else ""
        raise DataError(
            f"{len(bad):,} of {count(predictions.total, 'photo')} could not be decoded: "
            f"{', '.join(bad[:_NAMED])}{more}. Reasons: above."
        )


def _format(format: str | None, out: Path | None, as_json: bool) -> str:
    """The format's name, if the options fit together."""
    if as_json and format not in (None, "json"):
        raise UsageError(f"--json and --format {format} contradict each other; give one of them.")
    if out and out.is_dir():
        raise UsageError(f"--out {out} is a folder; give the name of a file.")
    suffix = out.suffix[1:].lower() if out else ""
    chosen = "json" if as_json else format or (suffix if suffix in FORMATS else "table")
    if chosen == "parquet" and not out:
        raise UsageError("--format parquet is binary and goes to a file: add --out FILE.")
    return chosen


def _evaluated(result: Mapping[str, Any]) -> str:
    percent = [f"{100 * value:.1f}" for value in (result["accuracy"], *result["accuracy_interval"])]
    auc = "undefined: a class is missing" if result["auc"] is None else f"{result['auc']:.4f}"
    lines = [
        f"accuracy {percent[0]} % ({percent[1]} to {percent[2]}) on {count(result['n'], 'photo')}, "
        f"log loss {result['loss']:.4f}",
        f"balanced accuracy {100 * result['balanced_accuracy']:.1f} %; always naming the most "
        f"frequent class has an accuracy of {100 * result['majority_baseline']:.1f} %",
        f"calibration error {result['ece']:.4f} (by chance up to {result['ece_null']:.4f}), AUC "
        f"{auc}",
        result["known"]["text"],
        "",
        *_per_class(result["per_class"]),
        "",
        "highest losses",
    ]
    lines += [
        f"  {photo['loss']:5.2f}  {photo['class']} → {photo['predicted']}  {printed(photo['file'])}"
        for photo in result["top_losses"][:_SHOWN]
    ]
    return "\n".join([*lines, "", result["out"]])


def _per_class(rows: list[Mapping[str, Any]]) -> Iterator[str]:
    """A line for each class; of many classes the ones with the lowest F1."""
    worst = sorted(rows, key=lambda row: (not row["n"], row["f1"]))[:_CLASSES]
    shown = [row for row in rows if row in worst]
    width = max(5, *(len(row["class"]) for row in shown))
    yield f"{'class':<{width}}  photos  recall  precision  F1"
    for row in shown:
        shares = (
            f"{100 * row['recall']:6.1f}  {100 * row['precision']:9.1f}  {100 * row['f1']:5.1f}"
        )
        known = shares if row["n"] else "     -          -      -"
        yield f"{row['class']:<{width}}  {row['n']:>6,}  {known}"
    if len(rows) > len(shown):
        more = len(rows) - len(shown)
        yield f"and {more:,} classes with a higher F1; metrics.json holds all"


def _explained(result: Mapping[str, Any]) -> str:
    lines = [
        f"{printed(row['file'])}: {row['class']} {100 * row['probability']:.1f} %"
        for row in result["photos"]
    ]
    return "\n".join([*lines, *result["contact"]])


def _some_bad(result: Mapping[str, Any]) -> DataError | None:
    bad, total = len(result["bad"]), len(result["bad"]) + len(result["photos"])
    if not bad:
        return None
    return DataError(
        f"{bad} of {count(total, 'photo')} could not be decoded; the others are done. Reasons: "
        "above."
    )


def _exported(result: Mapping[str, Any]) -> str:
    files = ", ".join(
        f"{file['name']} ({file['bytes'] / 2**20:,.1f} MiB)" for file in result["files"]
    )
    runtime = f"{result['runtime']['name']} {result['runtime']['version']}"
    return (
        f"{result['out']}: {files}\nrun by {runtime} on {result['verified_on']}, its probabilities "
        f"differ from Keras's by at most {result['max_difference']:.1g}"
    )


def _pushed(result: Mapping[str, Any]) -> str:
    lines = [f"{file['bytes'] / 2**20:>9,.2f} MiB  {file['name']}" for file in result["files"]]
    sent = f"{result['url']} at {result['commit']}" if result["url"] else "nothing was sent"
    return "\n".join([*lines, sent])


def _serve(**given: Any) -> None:
    serve(**given, reporter=Reporter(settings["quiet"]))


VERBS = {
    "predict": derived(
        predict,
        _predict,
        "finetune predict runs/mine holiday/ --top 3 --out holiday.csv",
        {"format": None, "out": None, "as_json": False},
    ),
    "evaluate": verb(evaluate, _evaluated, "finetune evaluate runs/mine other-photos"),
    "explain": verb(
        explain, _explained, "finetune explain runs/mine cat.jpg --out explained", failure=_some_bad
    ),
    "export": verb(export, _exported, "finetune export runs/mine --format onnx"),
    "push": verb(push, _pushed, "finetune push runs/mine hf://me/fruit --private"),
    "serve": derived(serve, _serve, "finetune serve runs/mine --port 8000", {}),
}
