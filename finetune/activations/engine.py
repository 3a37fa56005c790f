"""Run a trunk over batches of photos: OpenVINO on the CPU, TensorFlow on a GPU or where OpenVINO is missing.

A batch always has the same number of rows (the last one is padded), because floating-point sums may differ between batch
sizes, and what is stored must not depend on how many photos stood beside a photo.
"""

import importlib.util
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import keras
import numpy as np

from finetune.backend import load_openvino
from finetune.errors import UsageError

# 8 photos keep both streams of a small CPU busy at 224 px; larger batches gain nothing there and cost memory.
BATCH = 8

Engine = Callable[[Iterable[np.ndarray]], Iterator[np.ndarray]]


def compile_trunk(trunk: keras.Model | None, engine: str = "auto") -> Engine:
    """Prepare a trunk for inference.

    Args:
        trunk: a functional model with one input and one output, or None for the identity (the cut is the photo itself).
        engine: ``openvino``, ``tensorflow`` or ``auto`` (TensorFlow if it sees a GPU or OpenVINO is missing).

    Returns:
        A function from batches of any number of rows (n, ...) to their float32 outputs, batch by batch, in order.

    Raises:
        UsageError: no such engine, or OpenVINO is asked for and not installed.
    """
    if trunk is None:
        return iter
    if engine == "auto":
        engine = "tensorflow" if _has_gpu() or not _has_openvino() else "openvino"
    if engine not in _ENGINES:
        raise UsageError(f"engine is '{engine}'; allowed are auto, {', '.join(_ENGINES)}.")
    if engine == "openvino" and not _has_openvino():
        raise UsageError(
            "engine is 'openvino', which is not installed: `pip install openvino`, or set engine=tensorflow."
        )
    infer = _ENGINES[engine](trunk)

    def run(batches: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        sizes = deque[int]()
        return _join(infer(_split(batches, sizes)), sizes)

    return run


def _has_openvino() -> bool:
    return importlib.util.find_spec("openvino") is not None


def _has_gpu() -> bool:
    import tensorflow as tf

    return bool(tf.config.list_physical_devices("GPU"))


def _split(batches: Iterable[np.ndarray], sizes: deque[int]) -> Iterator[np.ndarray]:
    """Cut batches of any size into pieces of exactly BATCH rows; ``sizes`` remembers what to put together again."""
    for batch in batches:
        sizes.append(len(batch))
        batch = batch.astype(np.float32) if batch.dtype == np.float16 else batch
        for start in range(0, len(batch), BATCH):
            piece = batch[start : start + BATCH]
            padding = [(0, BATCH - len(piece))] + [(0, 0)] * (piece.ndim - 1)
            yield np.pad(piece, padding) if len(piece) < BATCH else piece


def _join(pieces: Iterator[np.ndarray], sizes: deque[int]) -> Iterator[np.ndarray]:
    rows: list[np.ndarray] = []
    for piece in pieces:
        rows.append(piece)
        if len(rows) * BATCH >= sizes[0]:
            yield np.concatenate(rows)[: sizes.popleft()]
            rows = []


def _tensorflow(trunk: keras.Model) -> Engine:
    def infer(pieces: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        for piece in pieces:
            yield np.asarray(trunk.predict_on_batch(piece), np.float32)

    return infer


def _openvino(trunk: keras.Model) -> Engine:
    ov = load_openvino()
    with (
        warnings.catch_warnings()
    ):  # OpenVINO passes Keras a tuple of one input, which Keras remarks on
        warnings.filterwarnings("ignore", "The structure of `inputs`")
        graph = ov.convert_model(trunk)
    graph.reshape([BATCH, *trunk.input.shape[1:]])
    # f32: on CPUs with AMX or AVX512-BF16 OpenVINO would otherwise compute in bfloat16, with 3 digits.
    settings = {"PERFORMANCE_HINT": "THROUGHPUT", "INFERENCE_PRECISION_HINT": "f32"}
    compiled = ov.Core().compile_model(graph, "CPU", settings)
    streams = compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS")

    def infer(pieces: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        idle = [
            compiled.create_infer_request() for _ in range(streams + 1)
        ]  # one more is filled while all compute
        running: deque[Any] = deque()
        for piece in pieces:
            if not idle:
                yield from _finish(running, idle)
            running.append(idle.pop())
            running[-1].start_async({0: piece})
        while running:
            yield from _finish(running, idle)

    return infer


def _finish(running: deque, idle: list) -> Iterator[np.ndarray]:
    """Wait for the oldest request; its output buffer will be used again, so the rows are copied."""
    request = running.popleft()
    request.wait()
    yield request.get_output_tensor(0).data.copy()
    idle.append(request)


_ENGINES: dict[str, Callable[[keras.Model], Engine]] = {
    "openvino": _openvino,
    "tensorflow": _tensorflow,
}
