"""`finetune export`: write a classifier in another format, and prove in that format's own runtime that it still is one."""

import csv
import hashlib
import importlib.metadata
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np

from finetune import __version__
from finetune.backend import load_openvino
from finetune.data import catalog
from finetune.data.photos import BadPhoto, decode
from finetune.errors import IntegrityError, UsageError
from finetune.files import commit_json
from finetune.model.formats import FORMATS, in_float32
from finetune.runs.classifier import Classifier

TOLERANCE = 1e-4  # of a probability: 4 digits; float32 runtimes agree in about 6
SIDECAR = "model.json"
_PHOTOS = 8


def default_out(path: Path, format: str) -> Path:
    """Where an export goes if nobody says: ``exported/FORMAT`` in the run folder, or beside the model file."""
    return (path if path.is_dir() else path.parent) / "exported" / format


def export(classifier: Classifier, format: str, out: Path) -> dict[str, Any]:
    """Write a classifier into a new folder, in a format that runs without finetune.

    The folder holds the model, which takes uint8 photos (n, size, size, 3) RGB and gives float32 probabilities
    (n, classes), and ``model.json``, which says all that is needed to use it. A model trained in mixed precision is
    exported in float32.

    Args:
        classifier: from ``Classifier.open``.
        format: a key of ``model.export.FORMATS``.
        out: the folder to make.

    Returns:
        What ``export --json`` prints.

    Raises:
        UsageError: no such format, ``out`` exists, or the model does not map uint8 photos to probabilities.
        IntegrityError: the format's own runtime does not reproduce the model's probabilities; nothing is left in ``out``.
    """
    if format not in FORMATS:
        raise UsageError(f"format is '{format}'; allowed are {', '.join(FORMATS)}.")
    if os.path.lexists(out):
        raise UsageError(
            f"{out} exists already, and an export replaces nothing. Delete it, or choose another --out."
        )
    started = time.perf_counter()
    load_openvino()  # before Keras's exporter imports it, telemetry and all
    photos, source = _photos(classifier)
    model = in_float32(classifier.model)
    expected = _expected(model, classifier, photos)
    with tempfile.TemporaryDirectory(dir=_nearest_folder(out), prefix=f".{out.name}.") as temporary:
        folder = Path(temporary, "new")
        folder.mkdir()
        path = folder / FORMATS[format].file
        FORMATS[format].write(model, path, _labels(classifier))
        names, difference = _verify(format, path, photos, expected)
        sidecar = _sidecar(classifier, format, *names) | {
            "max_difference": difference,
            "verified_on": source,
        }
        commit_json(folder / SIDECAR, sidecar | {"sha256": _synced(folder)})
        out.parent.mkdir(parents=True, exist_ok=True)
        os.rename(folder, out)
    return {
        "run": str(classifier.path),
        "format": format,
        "out": str(out),
        "files": [{"name": name, "bytes": (out / name).stat().st_size} for name in _files(out)],
        "max_difference": difference,
        "photos": len(photos),
        "verified_on": source,
        "runtime": sidecar["runtime"],
        "seconds": round(time.perf_counter() - started, 3),
    }


def _photos(classifier: Classifier) -> tuple[np.ndarray, str]:
    """Photos to compare on, uint8 (n, size, size, 3), and what they are."""
    size = classifier.image_size
    try:
        photos = [
            decode(path.read_bytes(), size, classifier.resize) for path in _test_photos(classifier)
        ]
    except (BadPhoto, OSError):
        photos = []  # the data set has changed since; the files were looked for under their old names
    if photos:
        return np.stack(photos), f"the {len(photos)} test photos that the run was least sure of"
    noise = np.random.default_rng(0).integers(0, 256, (_PHOTOS, size, size, 3), np.uint8)
    return noise, f"{_PHOTOS} squares of noise, as the run's test photos were not found"


def _test_photos(classifier: Classifier) -> list[Path]:
    """The test photos that the run was least sure of: where a probability is nearly 0 or 1, it hides a difference.

    A named data set is looked for, and never built or downloaded.
    """
    table, recipe = classifier.path / "predictions.csv", classifier.recipe
    if recipe is None or not table.is_file():
        return []
    if named := catalog.NAMES.get(recipe.data):
        copies, cached = (
            os.environ.get("FINETUNE_DATA_DIR"),
            catalog.cache_dir() / "data" / named.folder(),
        )
        roots = [Path(copies, recipe.data.replace("-", "_")), cached] if copies else [cached]
    else:
        roots = [Path(recipe.data).expanduser()]
    root = next((root for root in roots if root.is_dir()), None)
    with table.open(encoding="utf-8", newline="") as file:
        rows = [
            row for row in csv.reader(file) if row[-1] == "test"
        ]  # file, class, probabilities, split
    rows.sort(key=lambda row: max(map(float, row[2:-1])))
    return [root / row[0] for row in rows[:_PHOTOS]] if root else []


def _expected(model: keras.Model, classifier: Classifier, photos: np.ndarray) -> np.ndarray:
    """The probabilities that the exported model must reproduce; float32 (n, classes)."""
    outputs = model.output.shape[1]
    fits = model.input.dtype == "uint8" and outputs == len(classifier.classes)
    with keras.device("cpu:0"):  # a GPU may multiply with 3 digits (TF32)
        expected = np.asarray(model(photos, training=False)) if fits else None
    if expected is None or not np.allclose(expected.sum(axis=1), 1, atol=1e-3):
        raise UsageError(
            f"{classifier.path} takes {model.input.dtype} photos and gives {outputs} numbers for {len(classifier.classes)} "
            "classes; exported are models that take uint8 photos and give one probability per class, adding up to 1, as "
            "`finetune run` makes them."
        )
    return expected


def _verify(
    format: str, path: Path, photos: np.ndarray, expected: np.ndarray
) -> tuple[tuple[str, str], float]:
    """Run the photos through the format's own runtime, together and the first one alone.

    Returns:
        The runtime's names of input and output, and the largest difference of a probability.
    """
    runtime = FORMATS[format].runtime
    try:
        with keras.device("cpu:0"):
            opened = FORMATS[format].load(path)
            found = np.concatenate([opened.run(photos), opened.run(photos[:1])])
    except Exception as error:  # every runtime has exceptions of its own
        reason = " ".join(str(error).split())[:300]
        raise IntegrityError(
            f"{runtime} cannot run what was written for it: {reason}. Nothing is left of it."
        ) from error
    wanted = np.concatenate([expected, expected[:1]])
    difference = float(np.abs(found - wanted).max()) if found.shape == wanted.shape else np.inf
    if not difference <= TOLERANCE:  # written so that NaN fails, too
        raise IntegrityError(
            f"In {runtime} the exported model gives other probabilities than in Keras: they differ by up to "
            f"{difference:g}, and at most {TOLERANCE:g} is allowed. Nothing is left of it."
        )
    return (opened.input, opened.output), difference  # the model itself holds its files open


def _labels(classifier: Classifier) -> dict[str, str]:
    """What formats with a place for text carry in themselves."""
    size = classifier.image_size
    return {
        "classes": json.dumps(classifier.classes),
        "input": f"uint8 (n, {size}, {size}, 3), RGB, 0 to 255, EXIF orientation applied",
        "resize": classifier.resize,
        "made_by": f"finetune {__version__}",
    }


def _sidecar(
    classifier: Classifier, format: str, input_name: str, output_name: str
) -> dict[str, Any]:
    runtime, size = FORMATS[format].runtime, classifier.image_size
    return {
        "format": format,
        "classes": list(classifier.classes),
        "input": {
            "name": input_name,
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
        "output": {"name": output_name, "meaning": "softmax probabilities in the order of classes"},
        "preprocessing": "inside the model",
        "runtime": {"name": runtime, "version": importlib.metadata.version(runtime)},
        "finetune": __version__,
    }


def _synced(folder: Path) -> dict[str, str]:
    """sha256 of every file, by name; their bytes are on the disk before the folder gets its name."""
    digests = {}
    for name in _files(folder):
        with (folder / name).open("rb+") as file:
            os.fsync(file.fileno())
            digests[name] = hashlib.file_digest(file, "sha256").hexdigest()
    return digests


def _files(folder: Path) -> list[str]:
    return sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()
    )


def _nearest_folder(path: Path) -> Path:
    """The nearest folder above a path that exists already."""
    return next(folder for folder in path.absolute().parents if folder.is_dir())
