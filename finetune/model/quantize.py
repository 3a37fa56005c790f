"""int8 trunks: quantized after training by NNCF, and kept in the cache as artefacts with a digest
of their own.

The scales of a trunk's activations are set from 100 photos. Which photos these are changes the
features a little, so that a trunk is quantized once for its backbone, weights, preprocessing, image
size and cuts, and its digest enters the key of the store: more photos, or another data set, use the
trunk that is there.
"""

import contextlib
import importlib.util
import io
import itertools
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from filelock import FileLock, Timeout

from finetune.backend import load_openvino
from finetune.errors import UsageError
from finetune.files import LOCK, make_folder
from finetune.model.ir import Artefact, cached_folder, convert, find, keep

if TYPE_CHECKING:
    import keras

CALIBRATION_PHOTOS = 100


def check_extra() -> None:
    """Raises UsageError where NNCF is not installed."""
    if importlib.util.find_spec("nncf") is None:
        raise UsageError(
            "precision is 'int8', which needs NNCF, and it is not installed. Install it with "
            '`pip install "finetune-cut[int8]"`, or set precision to auto, float32 or bfloat16.'
        )


def quantize(graph: Any, batches: Iterable[np.ndarray]) -> Any:
    """Quantize a network after training: weights and activations of convolutions and dense layers
    to int8.

    Args:
        graph: ``openvino.Model`` with one input; not changed.
        batches: uint8 (n, size, size, 3); the first ``CALIBRATION_PHOTOS`` photos set the scales.

    Returns:
        ``openvino.Model`` with the same input and outputs.

    Raises:
        UsageError: NNCF is not installed.
        ValueError: there is no photo.
    """
    check_extra()
    load_openvino()  # first, for it masks the telemetry that NNCF would use, too
    import nncf

    nncf.set_log_level(logging.ERROR)
    rows = itertools.chain.from_iterable(batches)
    photos = [photo[None] for photo in itertools.islice(rows, CALIBRATION_PHOTOS)]
    if not photos:
        raise ValueError("no photo to set the scales of an int8 trunk from")
    with contextlib.redirect_stdout(io.StringIO()):  # NNCF draws progress bars there
        return nncf.quantize(graph, nncf.Dataset(photos), subset_size=len(photos))


def quantized_fields(fields: Mapping[str, Any]) -> dict[str, Any]:
    """What an int8 trunk is found by in the cache."""
    return {"precision": "int8", "calibration_photos": CALIBRATION_PHOTOS, **fields}


def find_quantized(cache: Path, fields: Mapping[str, Any], cut: str) -> Artefact | None:
    """The int8 trunk that leads to a cut, if the cache has one."""
    return find(cache, quantized_fields(fields), [cut])


def _all_found(cache: Path, fields: Mapping[str, Any], cuts: Sequence[str]) -> dict[str, Artefact]:
    each = {cut: find_quantized(cache, fields, cut) for cut in cuts}
    return {cut: artefact for cut, artefact in each.items() if artefact is not None}


@contextmanager
def _turn(folder: Path, waits: Callable[[], object]) -> Iterator[None]:
    """Hold a folder after whoever holds it, which may take minutes: ``waits`` is called then."""
    make_folder(folder)
    lock = FileLock(folder / LOCK)
    try:
        held = lock.acquire(timeout=0)
    except Timeout:
        waits()
        held = lock.acquire()
    with held:
        yield


def quantized(
    cache: Path,
    fields: Mapping[str, Any],
    cuts: Sequence[str],
    build: Callable[[Sequence[str]], "keras.Model"],
    photos: Callable[[], Iterable[np.ndarray]],
    waits: Callable[[], object] = lambda: None,
) -> dict[str, Artefact]:
    """The int8 trunk of every cut; one is made for all cuts that have none.

    Of processes that want the same trunk one makes it and the others wait: two would have other
    digests, and what both store must be of one.

    Args:
        cache: the cache directory.
        fields: backbone, weights, preprocessing and image size.
        cuts: names of the trunk's outputs.
        build: called with the cuts that have no trunk yet: the float32 model from photos to these
            cuts.
        photos: called if a trunk is made: uint8 batches of training photos.
        waits: called if another process makes one now.

    Returns:
        Cut -> its artefact. Cuts of one artefact are computed in one pass.

    Raises:
        UsageError: a trunk is to be made, and NNCF is not installed.
    """
    found = _all_found(cache, fields, cuts)
    if len(found) == len(set(cuts)):
        return found
    check_extra()
    key = quantized_fields(fields)
    with _turn(cached_folder(cache, key, ()), waits):  # ``keep`` takes the lock of its own folder
        found = _all_found(cache, fields, cuts)
        missing = [cut for cut in cuts if cut not in found]
        if missing:
            graph = quantize(convert(build(missing)), photos())
            made = keep(cached_folder(cache, key, missing), graph, key, missing)
            found |= dict.fromkeys(missing, made)
    return found
