"""`finetune export`: a classifier in another format, proved in that format's own runtime."""

import importlib.metadata
import json
import os
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune import __version__
from finetune.backend import load_keras, stderr_to_nowhere
from finetune.disk import library_writes
from finetune.errors import IntegrityError, UsageError
from finetune.files import commit_json, sha256_of
from finetune.model.formats import FORMATS, Format
from finetune.progress import SILENT, Reporter
from finetune.runs.hub import is_address

if TYPE_CHECKING:
    import keras
    import numpy as np

    from finetune.runs.classifier import Classifier

TOLERANCE = 1e-4  # of a probability: 4 digits; float32 runtimes agree in about 6
SIDECAR = "model.json"
_PHOTOS = 8


def export(
    model: "Path | str | Classifier",
    *,
    format: str,
    out: Path | str | None = None,
    reporter: Reporter = SILENT,
) -> dict[str, Any]:
    """Write a classifier for other runtimes, and check that its probabilities stay the same.

    The new folder holds the model, which takes uint8 photos (n, size, size, 3) RGB and gives
    float32 probabilities (n, classes), and ``model.json`` with all that is needed to use it. A
    model trained in lower precision is exported in float32.

    Args:
        model: a run folder, a ``.keras`` file or an open Classifier.
        format: a key of ``model.formats.FORMATS``.
        out: the folder to make; ``exported/FORMAT`` in the run folder if missing.
        reporter: gets progress.

    Returns:
        What ``export --json`` prints.

    Raises:
        UsageError: no such format, its package is missing, ``out`` exists, or the model does not
            map uint8 photos to probabilities.
        IntegrityError: the format's own runtime does not reproduce the model's probabilities;
            nothing is left in ``out``.
    """
    if format not in FORMATS:
        raise UsageError(f"format is '{format}'; allowed are {', '.join(FORMATS)}.")
    row = FORMATS[format]
    if isinstance(model, str | os.PathLike) and is_address(model) and out is None:
        raise UsageError(f"{model} is on the hub: give --out, the folder to make here.")
    path = Path(model) if isinstance(model, str | os.PathLike) else model.path
    folder = Path(out) if out else (path if path.is_dir() else path.parent) / "exported" / format
    if os.path.lexists(folder):
        raise UsageError(
            f"{folder} exists already, and an export replaces nothing. Delete it, or choose "
            "another "
            "--out."
        )
    from finetune.runs.classifier import opened

    started = time.perf_counter()
    classifier = opened(model)
    load_keras()  # before a package that imports it aloud
    row.check_packages()
    reporter.say(f"{format} is written, then run and compared with Keras")
    checked = _write(row, classifier, folder, format)
    return {
        "run": str(classifier.path),
        "format": format,
        "out": str(folder),
        "files": [{"name": n, "bytes": (folder / n).stat().st_size} for n in _files(folder)],
        "max_difference": checked.difference,
        "photos": checked.photos,
        "verified_on": checked.source,
        "runtime": _runtime(row),
        "seconds": round(time.perf_counter() - started, 3),
    }


@dataclass(frozen=True)
class _Checked:
    """An export that its runtime has run: names of input and output, and how far it is off."""

    input: str
    output: str
    difference: float
    photos: int
    source: str


def _write(row: Format, classifier: "Classifier", out: Path, format: str) -> _Checked:
    """Write and check in a temporary folder beside ``out``, and give it its name at the end."""
    from finetune.backend import load_openvino
    from finetune.model.formats import in_float32

    load_openvino()  # before Keras's exporter imports it, telemetry and all
    photos, source = _photos(classifier)
    model = in_float32(classifier.model)
    expected = _expected(model, classifier, photos)
    with tempfile.TemporaryDirectory(dir=_nearest_folder(out), prefix=f".{out.name}.") as temporary:
        folder = Path(temporary, "new")
        folder.mkdir()
        with library_writes(folder):
            row.write(model, folder / row.file, _labels(classifier))
            if format == "keras":  # opened by itself it wants what a run's folder says
                commit_json(folder / "classes.json", list(classifier.classes))
                taken = {"resize": classifier.resize, "precision": classifier.computed_in}
                commit_json(folder / "input.json", taken)
        names, difference = _verify(row, folder / row.file, photos, expected)
        checked = _Checked(*names, difference, len(photos), source)
        sidecar = _sidecar(classifier, format, checked)
        commit_json(folder / SIDECAR, sidecar | {"sha256": _synced(folder)})
        out.parent.mkdir(parents=True, exist_ok=True)
        os.rename(folder, out)
    return checked


def _photos(classifier: "Classifier") -> tuple["np.ndarray", str]:
    """Photos to compare on, uint8 (n, size, size, 3), and what they are."""
    import numpy as np

    from finetune.data.photos import Pixels, read_photos

    size = classifier.image_size
    stream = read_photos(Pixels(size, classifier.resize), _test_photos(classifier))
    found = [pixels for _, pixels in stream]
    if found and not any(isinstance(pixels, str) for pixels in found):
        return np.stack(found), f"the {len(found)} test photos that the run was least sure of"
    # The data set has changed since, or is not here.
    noise = np.random.default_rng(0).integers(0, 256, (_PHOTOS, size, size, 3), np.uint8)
    return noise, f"{_PHOTOS} squares of noise, as the run's test photos were not found"


def _test_photos(classifier: "Classifier") -> list[Path]:
    """The test photos that the run was least sure of: a probability near 0 or 1 hides differences.

    A named data set is looked for, and never built or downloaded.
    """
    from finetune.data.photos import unprintable
    from finetune.runs.predictions import read_predictions

    table, recipe = classifier.path / "predictions.csv", classifier.recipe
    root = _data_root(recipe.data) if recipe else None
    if root is None or not table.is_file():
        return []
    test = read_predictions(classifier.path)[1]["test"]
    least_sure = test.probabilities.max(axis=1).argsort(kind="stable")[:_PHOTOS]
    return [root / unprintable(test.files[index]) for index in least_sure]


def _data_root(data: str) -> Path | None:
    from finetune.data import catalog
    from finetune.files import cache_dir, expanded

    if data not in catalog.NAMES:
        roots = [expanded(data)]
    else:
        roots = [cache_dir() / "data" / catalog.NAMES[data].folder()]
        copies = os.environ.get("FINETUNE_DATA_DIR")
        if copies:
            roots.insert(0, Path(copies, data.replace("-", "_")))
    return next((root for root in roots if root.is_dir()), None)


def _expected(model: "keras.Model", classifier: "Classifier", photos: "np.ndarray") -> "np.ndarray":
    """The probabilities that the exported model must reproduce; float32 (n, classes)."""
    import keras
    import numpy as np

    outputs = model.output.shape[1]
    fits = model.input.dtype == "uint8" and outputs == len(classifier.classes)
    with keras.device("cpu:0"):  # a GPU may multiply with 3 digits (TF32)
        expected = np.asarray(model(photos, training=False)) if fits else None
    if expected is None or not np.allclose(expected.sum(axis=1), 1, atol=1e-3):
        raise UsageError(
            f"{classifier.path} takes {model.input.dtype} photos and gives {outputs} numbers for "
            f"{len(classifier.classes)} classes; exported are models that take uint8 photos and "
            "give one probability per class, adding up to 1, as `finetune run` makes them."
        )
    return expected


def _verify(
    row: Format, path: Path, photos: "np.ndarray", expected: "np.ndarray"
) -> tuple[tuple[str, str], float]:
    """Run the photos through the format's own runtime, together and the first one alone.

    Returns:
        The runtime's names of input and output, and the largest difference of a probability.
    """
    import keras
    import numpy as np

    try:
        # LiteRT's C++ side reports on descriptor 2 which delegate it makes.
        with keras.device("cpu:0"), stderr_to_nowhere():
            opened = row.load(path)
            found = np.concatenate([opened.run(photos), opened.run(photos[:1])])
    except Exception as error:  # every runtime has exceptions of its own
        reason = " ".join(str(error).split())[:300]
        raise IntegrityError(
            f"{row.runtime} cannot run what was written for it: {reason}. Nothing is left of it."
        ) from error
    wanted = np.concatenate([expected, expected[:1]])
    difference = float(np.abs(found - wanted).max()) if found.shape == wanted.shape else np.inf
    if not difference <= TOLERANCE:  # written so that NaN fails, too
        raise IntegrityError(
            f"In {row.runtime} the exported model gives other probabilities than in Keras: they "
            f"differ by up to {difference:g}, and at most {TOLERANCE:g} is allowed. Nothing is "
            "left "
            "of it."
        )
    return (opened.input, opened.output), difference  # the model itself holds its files open


def _labels(classifier: "Classifier") -> Mapping[str, str]:
    """What formats with a place for text carry in themselves."""
    size = classifier.image_size
    return {
        "classes": json.dumps(classifier.classes),
        "input": f"uint8 (n, {size}, {size}, 3), RGB, 0 to 255, EXIF orientation applied",
        "resize": classifier.resize,
        "made_by": f"finetune {__version__}",
    }


def _sidecar(classifier: "Classifier", format: str, checked: _Checked) -> dict[str, Any]:
    size = classifier.image_size
    return {
        "format": format,
        "classes": list(classifier.classes),
        "input": {
            "name": checked.input,
            "dtype": "uint8",
            "shape": [None, size, size, 3],
            "batch": FORMATS[format].batch,
            "layout": "NHWC",
            "color": "RGB",
            "range": [0, 255],
            "resize": classifier.resize,
            "interpolation": "antialiased bilinear",
            "orientation": "EXIF applied",
        },
        "output": {
            "name": checked.output,
            "meaning": "softmax probabilities in the order of classes",
        },
        "preprocessing": "inside the model",
        "runtime": _runtime(FORMATS[format]),
        "finetune": __version__,
        "max_difference": checked.difference,
        "verified_on": checked.source,
    }


def _runtime(row: Format) -> dict[str, str]:
    return {"name": row.runtime, "version": importlib.metadata.version(row.runtime)}


def _synced(folder: Path) -> dict[str, str]:
    """sha256 of every file, by name; their bytes are on the disk before the folder gets its
    name.
    """
    for name in _files(folder):
        with (folder / name).open("rb+") as file:
            os.fsync(file.fileno())
    return {name: sha256_of(folder / name) for name in _files(folder)}


def _files(folder: Path) -> list[str]:
    found = [path for path in folder.rglob("*") if path.is_file()]
    return sorted(path.relative_to(folder).as_posix() for path in found)


def _nearest_folder(path: Path) -> Path:
    """The nearest folder above a path that exists already."""
    return next(folder for folder in path.absolute().parents if folder.is_dir())
