"""`finetune predict`: the classes of photos as a stream; neither the photos nor the rows are ever held together."""

import csv
import io
import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from finetune.activations.engine import batch_size
from finetune.activations.extract import chunks, map_ahead
from finetune.data.photos import BadPhoto, decode, list_photos
from finetune.errors import IntegrityError, UsageError
from finetune.runs.classifier import Classifier

_AHEAD = 4 * 8  # photos that may be decoded before the network takes them
_ROW_GROUP = 4096  # rows of a Parquet file that are held until they are written
_FORMULA = tuple(
    "=+-@\t\r\n"
)  # OWASP, "CSV Injection": a spreadsheet computes cells that begin with these


@dataclass(frozen=True)
class Prediction:
    """What a classifier says of one photo.

    Attributes:
        file: the path as it was given or found, posix; bytes that are no UTF-8 are escaped.
        top: (class, probability 0-1), the most probable first; empty for a bad photo.
        bad: why the photo could not be read or decoded; None if it could.
    """

    file: str
    top: tuple[tuple[str, float], ...]
    bad: str | None = None


def predict(classifier: Classifier, paths: Sequence[Path], top: int = 1) -> Iterator[Prediction]:
    """Classify photos, in the order of ``list_photos``, while at most a few dozen of them are held in memory.

    Args:
        classifier: from ``Classifier.open``.
        paths: photos and folders of photos.
        top: number of classes to name, the most probable first; all, if there are fewer.

    Raises:
        UsageError: ``top`` is below 1. DataError: a path does not exist. Both at once, before anything is computed.
        IntegrityError: the model's outputs are no probabilities.
    """
    if top < 1:
        raise UsageError(
            f"top is {top}; allowed are 1 to the number of classes, {len(classifier.classes)}."
        )
    photos = list_photos(paths)
    return (
        _prediction(path, found, classifier.classes, top)
        for path, found in score(classifier, photos)
    )


def score(
    classifier: Classifier, photos: Iterable[Path]
) -> Iterator[tuple[Path, np.ndarray | str]]:
    """Probabilities of photo files, in order; decoded as in training, in threads, while the network runs.

    Yields:
        (path, float32 (classes,)), or (path, reason) for a photo that cannot be read or decoded.

    Raises:
        IntegrityError: the model's outputs are no probabilities.
    """
    waiting: deque[tuple[Path, str | None]] = (
        deque()
    )  # photos that have no row yet, and why some will have none

    def load(path: Path) -> tuple[Path, np.ndarray | str]:
        try:
            return path, decode(path.read_bytes(), classifier.image_size, classifier.resize)
        except (BadPhoto, OSError) as error:
            return path, str(error)

    def good() -> Iterator[np.ndarray]:
        for path, found in map_ahead(load, photos, _AHEAD):
            if isinstance(found, str):
                waiting.append((path, found))
            else:
                waiting.append((path, None))
                yield found

    for rows in classifier.predict(np.stack(chunk) for chunk in chunks(good(), batch_size())):
        for row in _checked(rows, classifier.path):
            while (reason := waiting[0][1]) is not None:
                yield waiting.popleft()[0], reason
            yield waiting.popleft()[0], row
    yield from ((path, reason) for path, reason in waiting if reason is not None)


def write(
    predictions: Iterable[Prediction], form: str, file: BinaryIO, classifier: Classifier, top: int
) -> None:
    """Write predictions, each as soon as it is known; bad photos have no row, and only JSON lists them.

    Args:
        predictions: from ``predict``, with the same ``top``.
        form: one of ``FORMATS``.
        file: open for writing.
        classifier, top: what was given to ``predict``.
    """
    named = min(top, len(classifier.classes))
    if form == "parquet":
        _parquet(predictions, file, named)
    else:
        for text in _TEXTS[form](predictions, classifier, named):
            file.write(text.encode())
            file.flush()


def shown(name: str) -> str:
    """A file's name for a terminal: one that holds line ends or control sequences is shown quoted and escaped."""
    return name if name.isprintable() else repr(name)


def as_text(cell: str) -> str:
    """A cell of a CSV file that no spreadsheet takes for a formula."""
    return f"'{cell}" if cell.startswith(_FORMULA) else cell


def _prediction(
    path: Path, found: np.ndarray | str, classes: Sequence[str], top: int
) -> Prediction:
    file = path.as_posix().encode("utf-8", "backslashreplace").decode()
    if isinstance(found, str):
        return Prediction(file, (), found)
    best = np.argsort(-found, kind="stable")[:top]
    return Prediction(file, tuple((classes[index], float(found[index])) for index in best))


def _checked(rows: np.ndarray, path: Path) -> np.ndarray:
    totals = rows.sum(axis=1)
    if not (
        np.all(rows >= 0) and np.all(np.abs(totals - 1) < 1e-3)
    ):  # written so that NaN fails, too
        raise IntegrityError(
            f"{path} gives values from {rows.min():g} to {rows.max():g} with sums from {totals.min():g} to "
            f"{totals.max():g}, which are no probabilities. Its last layer must be a softmax, or a sigmoid of one unit."
        )
    return rows


def _table(predictions: Iterable[Prediction], classifier: Classifier, top: int) -> Iterator[str]:
    """Class and percent, as often as wanted, then the file: names of any length spoil no column."""
    width = max(map(len, classifier.classes))
    for photo in predictions:
        if photo.bad is None:
            cells = [
                f"{name:<{width}}  {100 * probability:5.1f} %" for name, probability in photo.top
            ]
            yield "  ".join([*cells, shown(photo.file)]) + "\n"


def _csv(predictions: Iterable[Prediction], classifier: Classifier, top: int) -> Iterator[str]:
    yield _csv_line(_columns(top))
    for photo in predictions:
        if photo.bad is None:
            pairs = [(as_text(name), round(probability, 6)) for name, probability in photo.top]
            yield _csv_line([as_text(photo.file), *(cell for pair in pairs for cell in pair)])


def _csv_line(cells: Sequence[str | float]) -> str:
    line = io.StringIO()
    csv.writer(line).writerow(
        cells
    )  # before Python 3.13 it quotes no line end but its own, which is \r\n
    return line.getvalue().removesuffix("\r\n") + "\n"


def _json(predictions: Iterable[Prediction], classifier: Classifier, top: int) -> Iterator[str]:
    """One object, its long list written row by row."""
    head = json.dumps({"model": str(classifier.path), "classes": classifier.classes})
    yield f'{head[:-1]}, "predictions": ['
    bad, separator = [], "\n"
    for photo in predictions:
        if photo.bad is not None:
            bad.append({"file": photo.file, "reason": photo.bad})
            continue
        best = [
            {"class": name, "probability": round(probability, 6)} for name, probability in photo.top
        ]
        yield separator + json.dumps({"file": photo.file, **best[0], "top": best})
        separator = ",\n"
    yield f'\n], "bad": {json.dumps(bad)}}}\n'


def _parquet(predictions: Iterable[Prediction], file: BinaryIO, top: int) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    kinds = [pa.string(), *[pa.string(), pa.float32()] * top]
    schema = pa.schema(list(zip(_columns(top), kinds, strict=True)))
    with pq.ParquetWriter(file, schema) as writer:
        rows = (
            (photo.file, *(cell for pair in photo.top for cell in pair))
            for photo in predictions
            if photo.top
        )
        for group in chunks(rows, _ROW_GROUP):
            writer.write_table(pa.table(list(zip(*group, strict=True)), schema=schema))


def _columns(top: int) -> list[str]:
    """file, class, probability, class_2, probability_2, ..."""
    suffixes: list[str] = ["", *(f"_{place}" for place in range(2, top + 1))]
    return [
        "file",
        *(f"{name}{suffix}" for suffix in suffixes for name in ("class", "probability")),
    ]


_TEXTS: dict[str, Callable[[Iterable[Prediction], Classifier, int], Iterator[str]]] = {
    "table": _table,
    "csv": _csv,
    "json": _json,
}
FORMATS = (*_TEXTS, "parquet")
