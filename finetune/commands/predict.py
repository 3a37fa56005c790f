"""`finetune predict`: the classes of photos as a stream; neither photos nor rows are held
together.
"""

import csv
import io
import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from finetune.errors import UsageError, need
from finetune.files import as_text
from finetune.progress import SILENT, Reporter

if TYPE_CHECKING:
    import numpy as np

    from finetune.runs.classifier import Classifier

_ROW_GROUP = 4096  # rows of a Parquet file that are held until they are written


@dataclass(frozen=True)
class Prediction:
    """What a classifier predicts of one photo.

    Attributes:
        file: the path as it was given or found, posix; bytes that are no UTF-8 are escaped.
        top: (class, probability 0-1), the most probable first; empty for a bad photo.
        bad: why the photo could not be read or decoded; None if it could.
    """

    file: str
    top: tuple[tuple[str, float], ...]
    bad: str | None = None


@dataclass(frozen=True)
class Predictions:
    """A stream of predictions, and what it is a stream of.

    Attributes:
        model: what was asked.
        classes: its classes.
        top: number of classes named for each photo.
        total: number of photos.
        rows: the stream, which can be read once.
    """

    model: Path
    classes: tuple[str, ...]
    top: int
    total: int
    rows: Iterator[Prediction]

    def __iter__(self) -> Iterator[Prediction]:
        return self.rows


def predict(
    model: "Path | str | Classifier",
    photos: Sequence[Path | str] | Path | str,
    *,
    top: int = 1,
    precision: str = "auto",
    reporter: Reporter = SILENT,
) -> Predictions:
    """Classify photos; each photo's row comes as soon as it is known.

    Args:
        model: a run folder, a ``.keras`` file, ``hf://USER/REPO`` or an open Classifier.
        photos: photos, and folders of photos.
        top: number of classes to name, the most probable first; all, if there are fewer.
        precision: of the network's arithmetic: auto, float32, bfloat16 or int8.
        reporter: gets a bar, and a warning for each bad photo.

    Returns:
        A stream of predictions in the order of the photos, while at most a few dozen photos are
        held in memory; ``write`` writes it, ``[*stream]`` collects it.

    Raises:
        UsageError: ``top`` is below 1, or a photo is an address.
        DataError: a path does not exist, or there are no photos. All at once.
        IntegrityError: the model is damaged, or its outputs are no probabilities.
    """
    if top < 1:
        raise UsageError(f"top is {top}; allowed are 1 to the number of classes.")
    from finetune.data.places import find_photos
    from finetune.runs.classifier import opened

    total = sum(1 for _ in find_photos(photos))
    classifier = opened(model, reporter)
    classes, named = classifier.classes, min(top, len(classifier.classes))

    def rows() -> Iterator[Prediction]:
        with reporter.stage("photos classified", total) as advance:
            for photo, found in classifier.score(find_photos(photos), precision):
                row = _prediction(photo, found, classes, named)
                advance(1)
                if row.bad is not None:
                    reporter.warn(f"{printed(row.file)}: {row.bad}")
                yield row

    return Predictions(classifier.path, classes, named, total, rows())


def write(predictions: Predictions, format: str, file: BinaryIO) -> None:
    """Write predictions, each as soon as it is known; bad photos have a row only in JSON.

    Args:
        predictions: from ``predict``.
        format: one of ``FORMATS``.
        file: open for writing.

    Raises:
        UsageError: no such format, or Parquet without its package.
    """
    if format not in FORMATS:
        raise UsageError(f"format is '{format}'; allowed are {', '.join(FORMATS)}.")
    # A network that cannot be had is found out before anything is written.
    first = list(itertools.islice(predictions.rows, 1))
    predictions = replace(predictions, rows=itertools.chain(first, predictions.rows))
    if format == "parquet":
        return _parquet(predictions, file)
    for text in _TEXTS[format](predictions):
        file.write(text.encode())
        file.flush()


def printed(name: str) -> str:
    """A file's name for a terminal: line ends and control sequences are quoted and escaped."""
    return name if name.isprintable() else repr(name)


def _prediction(
    photo: Any, found: "np.ndarray | str", classes: Sequence[str], top: int
) -> Prediction:
    from finetune.data.photos import printable

    file = printable(photo)
    if isinstance(found, str):
        return Prediction(file, (), found)
    best = (-found).argsort(kind="stable")[:top]
    return Prediction(file, tuple((classes[index], float(found[index])) for index in best))


def _table(predictions: Predictions) -> Iterator[str]:
    """Class and percent, as often as wanted, then the file: names of any length spoil no column."""
    width = max(len(printed(name)) for name in predictions.classes)
    for photo in predictions:
        if photo.bad is None:
            cells = [f"{printed(name):<{width}}  {100 * share:5.1f} %" for name, share in photo.top]
            yield "  ".join([*cells, printed(photo.file)]) + "\n"


def _csv(predictions: Predictions) -> Iterator[str]:
    yield _csv_line(_columns(predictions.top))
    for photo in predictions:
        if photo.bad is None:
            yield _csv_line([photo.file, *_pairs(photo, 6)])


def _csv_line(cells: Sequence[str | float]) -> str:
    line = io.StringIO()
    # Before Python 3.13 the writer quotes no line end but its own, which is \r\n.
    csv.writer(line).writerow(as_text(cell) if isinstance(cell, str) else cell for cell in cells)
    return line.getvalue().removesuffix("\r\n") + "\n"


def _json(predictions: Predictions) -> Iterator[str]:
    """One object, its long list written row by row."""
    head = json.dumps({"model": str(predictions.model), "classes": predictions.classes})
    yield f'{head[:-1]}, "predictions": ['
    bad = []
    separator = "\n"
    for photo in predictions:
        if photo.bad is not None:
            bad.append({"file": photo.file, "reason": photo.bad})
            continue
        best = [{"class": name, "probability": round(share, 6)} for name, share in photo.top]
        yield separator + json.dumps({"file": photo.file, **best[0], "top": best})
        separator = ",\n"
    yield f'\n], "bad": {json.dumps(bad)}}}\n'


def _parquet(predictions: Predictions, file: BinaryIO) -> None:
    pa = need("pyarrow", "parquet")
    pq = need("pyarrow.parquet", "parquet")
    kinds = [pa.string(), *[pa.string(), pa.float32()] * predictions.top]
    schema = pa.schema(list(zip(_columns(predictions.top), kinds, strict=True)))
    with pq.ParquetWriter(file, schema) as writer:

        def flush(rows: list[list]) -> None:
            writer.write_table(pa.table(list(zip(*rows, strict=True)), schema=schema))

        rows: list[list] = []
        for photo in predictions:
            rows += [[photo.file, *_pairs(photo)]] if photo.top else []
            if len(rows) == _ROW_GROUP:
                flush(rows)
                rows = []
        if rows:
            flush(rows)


def _pairs(photo: Prediction, digits: int | None = None) -> list[Any]:
    """class, probability, class_2, probability_2, ..."""
    rounded = [
        (name, share if digits is None else round(share, digits)) for name, share in photo.top
    ]
    return [cell for pair in rounded for cell in pair]


def _columns(top: int) -> list[str]:
    """file, class, probability, class_2, probability_2, ..."""
    suffixes = ["", *(f"_{place}" for place in range(2, top + 1))]
    return ["file", *(f"{name}{end}" for end in suffixes for name in ("class", "probability"))]


_TEXTS: dict[str, Callable[[Predictions], Iterator[str]]] = {
    "table": _table,
    "csv": _csv,
    "json": _json,
}
FORMATS = (*_TEXTS, "parquet")
