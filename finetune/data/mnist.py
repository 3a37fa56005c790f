"""MNIST: 70,000 scans of handwritten digits of 28 px, from Keras's file mnist.npz."""

import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

from finetune.data.download import Report, describe, fetch
from finetune.errors import DataError
from finetune.files import NPZ_DAMAGE, cache_dir

FILE = "mnist.npz"
# The address and the sha256 that keras.datasets.mnist pins.
URL = "https://storage.googleapis.com/tensorflow/tf-keras-datasets/mnist.npz"
SHA256 = "731c5ac602752760c8e48fbffcf8c3b850d9dc2a2aedcf2cc48468fc17b673d1"
_SIDE = 28
_HELD_OUT = 12  # one training scan of so many chooses: 5,000 of MNIST's 60,000
_MOST_BYTES = 2**30  # of an array; MNIST's largest has 47,040,000
_NEEDED = (
    "Needed: Keras's mnist.npz, with x_train and x_test (n, 28, 28) and y_train and y_test (n,), "
    "all uint8, digits 0 to 9."
)


def write_mnist(folder: Path, source: Path | None, progress: Report | None) -> dict:
    """Write the scans as PNG files, from a copy of mnist.npz or from Keras's download.

    The test scans are MNIST's own. Of each digit, the last twelfth of the training scans
    (about 5,000 in all) is for validation.

    Args:
        folder: where the split folders go.
        source: a file mnist.npz; None means the download, which must have Keras's digest.
        progress: gets the bytes of the download.

    Returns:
        What is recorded of the source; ``is_keras_file`` says whether it has Keras's digest.

    Raises:
        DataError: the file is missing or no such archive, or the download fails.
    """
    path = source or cache_dir() / "downloads" / FILE
    if source is None:
        try:
            fetch(URL, path, sha256=SHA256, progress=progress)
        except DataError as error:
            raise DataError(
                f"mnist is neither in FINETUNE_DATA_DIR (as {FILE} or mnist/) nor in the cache, "
                f"and {error} Without network: `finetune data mnist --from {FILE}` takes a copy; "
                "`--data digits` has 1,797 smaller scans and needs no network."
            ) from error
    if not path.is_file():
        raise DataError(f"--from {path}: no such file. {_NEEDED}")
    record = {"source": URL if source is None else str(path.resolve())} | describe(path)
    for split, (scans, labels) in _splits(path).items():
        _write(folder / split, scans, labels)
    if source is None:
        path.unlink()
    return record | {"is_keras_file": record["sha256"] == SHA256}


def _write(folder: Path, scans: np.ndarray, labels: np.ndarray) -> None:
    for label in range(10):
        (folder / str(label)).mkdir(parents=True, exist_ok=True)
    for number, (scan, label) in enumerate(zip(scans, labels, strict=True)):
        Image.fromarray(scan).save(folder / str(label) / f"scan.{number:05d}.png")


def _splits(path: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Split -> scans (n, 28, 28) and labels (n,), both uint8."""
    arrays = _arrays(path)
    scans = arrays["x_train"]
    labels = arrays["y_train"]
    held = np.zeros(len(labels), bool)
    for label in range(10):
        own = np.flatnonzero(labels == label)
        held[own[len(own) - max(1, len(own) // _HELD_OUT) :]] = True
    return {
        "train": (scans[~held], labels[~held]),
        "validation": (scans[held], labels[held]),
        "test": (arrays["x_test"], arrays["y_test"]),
    }


def _arrays(path: Path) -> dict[str, np.ndarray]:
    """The four arrays, whose headers are looked at before anything is unpacked."""
    names = [f"{kind}_{part}" for part in ("train", "test") for kind in "xy"]
    try:
        with zipfile.ZipFile(path) as archive:
            sizes = {member.filename: member.file_size for member in archive.infolist()}
            if missing := [name for name in names if f"{name}.npy" not in sizes]:
                raise ValueError(f"it lacks {', '.join(missing)}")
            if max(sizes[f"{name}.npy"] for name in names) > _MOST_BYTES:
                raise ValueError(f"an array of it has more than {_MOST_BYTES:,} bytes")
        with np.load(path, allow_pickle=False) as opened:
            arrays = {name: opened[name] for name in names}
    except NPZ_DAMAGE as error:
        raise DataError(f"{path} is no copy of MNIST: {error}. {_NEEDED}") from error
    for part in ("train", "test"):
        scans, labels = arrays[f"x_{part}"], arrays[f"y_{part}"]
        is_sound = scans.shape == (len(labels), _SIDE, _SIDE) and labels.ndim == 1
        is_bytes = scans.dtype == labels.dtype == np.uint8
        if not (is_sound and is_bytes and len(labels) and labels.max() <= 9):
            raise DataError(
                f"{path} is no copy of MNIST: x_{part} is {scans.dtype} {scans.shape} and "
                f"y_{part} {labels.dtype} {labels.shape}. {_NEEDED}"
            )
    return arrays
