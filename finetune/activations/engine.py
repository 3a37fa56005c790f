"""Run a trunk over batches of photos: OpenVINO on the CPU, TensorFlow on a GPU or where OpenVINO is
missing.

A batch always has the same number of rows (the last one is padded), because floating-point sums may
differ between batch sizes, and what is stored must not depend on how many photos stood beside a
photo. Nothing here imports Keras.
"""

import importlib.util
import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from finetune.backend import devices, gpu_has_bfloat16, has_gpu, load_openvino
from finetune.errors import UsageError
from finetune.model.ir import convert, converted
from finetune.model.quantize import check_extra

if TYPE_CHECKING:
    import keras

ENGINES = ("openvino", "tensorflow")
# What OpenVINO is told to compute in. float32 has to be asked for: where a CPU computes bfloat16
# natively, that is OpenVINO's default. What an int8 trunk does not quantize is computed in float32.
_HINTS = {"float32": "f32", "bfloat16": "bf16", "int8": "f32"}
PRECISIONS = tuple(_HINTS)

# batches of any number of rows (n, ...) -> their float32 outputs, batch by batch, in order; of a
# trunk with several outputs a tuple of arrays for each batch
Engine = Callable[[Iterable[np.ndarray]], Iterator[Any]]
_Infer = Callable[[Iterable[np.ndarray]], Iterator[tuple[np.ndarray, ...]]]


def resolve_engine(engine: str = "auto") -> str:
    """``auto`` is TensorFlow if it sees a GPU or OpenVINO is missing, else OpenVINO.

    Raises:
        UsageError: no such engine, or OpenVINO is asked for and not installed.
    """
    installed = importlib.util.find_spec("openvino") is not None
    if engine == "auto":
        return "tensorflow" if not installed or has_gpu() else "openvino"
    if engine not in ENGINES:
        raise UsageError(f"engine is '{engine}'; allowed are auto, {', '.join(ENGINES)}.")
    if engine == "openvino" and not installed:
        raise UsageError(
            "engine is 'openvino', which is not installed: `pip install openvino`, or set "
            "engine=tensorflow."
        )
    return engine


def resolve_precision(precision: str = "auto", engine: str = "auto") -> str:
    """``auto`` is bfloat16 where the processor (or GPU) computes it natively, else float32.

    Args:
        precision: ``auto`` or one of ``PRECISIONS``.
        engine: see ``resolve_engine``. With ``openvino`` TensorFlow is not imported.

    Raises:
        UsageError: no such precision, bfloat16 on a processor without it, or int8 without NNCF or
            OpenVINO.
    """
    if precision not in ("auto", *PRECISIONS):
        raise UsageError(f"precision is '{precision}'; allowed are auto, {', '.join(PRECISIONS)}.")
    engine = resolve_engine(engine)
    if precision == "int8":
        if engine != "openvino":
            raise UsageError(
                "precision is 'int8', which runs on OpenVINO only, and the engine is "
                f"'{engine}'. Set engine=openvino, or precision to auto, float32 or bfloat16."
            )
        check_extra()
    if precision == "bfloat16" and not _has_bfloat16(engine):
        raise UsageError(
            "precision is 'bfloat16', which this processor does not compute natively: it would be "
            "slower than float32 and less exact. Set precision to auto, float32 or int8."
        )
    if precision == "auto":
        return "bfloat16" if _has_bfloat16(engine) else "float32"
    return precision


def _has_bfloat16(engine: str) -> bool:
    if engine == "tensorflow" and has_gpu():
        return gpu_has_bfloat16()
    if importlib.util.find_spec("openvino") is None:
        return False
    return "BF16" in load_openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def batch_size() -> int:
    """Photos that a trunk takes at once: 64 on a GPU; 8 on a CPU, where more gain nothing and cost
    memory.
    """
    return 64 if "tensorflow" in sys.modules and has_gpu() else 8


def compile_trunk(
    trunk: "keras.Model | None", engine: str = "auto", precision: str = "float32"
) -> Engine:
    """Prepare a trunk for inference.

    Args:
        trunk: a functional model with one input, or None for the identity (the cut is the photo
            itself).
        engine: see ``resolve_engine``.
        precision: float32 (within 1e-5 of Keras) or bfloat16. For int8 see ``quantized`` and
            ``compile_graph``.

    Raises:
        UsageError: no such engine or precision, or not on this machine.
    """
    if trunk is None:
        return iter
    if precision not in ("float32", "bfloat16"):
        raise UsageError(f"a trunk of Keras runs in float32 or bfloat16, not in '{precision}'.")
    if resolve_engine(engine) == "openvino":
        return compile_graph(convert(trunk), precision)
    return _engine(_tensorflow(trunk, precision), batch_size())


def open_trunk(
    build: "Callable[[Sequence[str]], keras.Model]",
    cuts: Sequence[str],
    fields: Mapping[str, Any],
    cache: Path,
    engine: str = "auto",
    precision: str = "float32",
) -> Engine:
    """Prepare the trunk to some cuts, its conversion to OpenVINO kept in the cache.

    Args:
        build: called with the cuts if the cache does not have the trunk: its Keras model, outputs
            in this order.
        cuts: names of its outputs.
        fields: what it is a function of: backbone, weights, preprocessing, image size.
        cache: the cache directory.
        engine: see ``resolve_engine``.
        precision: float32 or bfloat16.
    """
    if resolve_engine(engine) == "tensorflow":
        return compile_trunk(build(cuts), "tensorflow", precision)
    return compile_graph(converted(cache, fields, cuts, build), precision)


def compile_graph(graph: Any, precision: str, batch: int | None = None) -> Engine:
    """Prepare an ``openvino.Model`` with one input for inference on the CPU.

    Compiling takes 0.1 to 0.6 seconds; OpenVINO's own model cache would save at most a tenth of a
    second of that, with files that nobody can verify, and is not used.

    Args:
        graph: its batch dimension is set.
        precision: one of ``PRECISIONS``; int8 is for graphs that were quantized.
        batch: rows at once, ``batch_size()`` if None.
    """
    batch = batch or batch_size()
    graph.reshape([batch, *list(graph.input(0).partial_shape)[1:]])
    settings = {"PERFORMANCE_HINT": "THROUGHPUT", "INFERENCE_PRECISION_HINT": _HINTS[precision]}
    if "OMP_NUM_THREADS" in os.environ:  # OpenVINO has no variable of its own
        settings["INFERENCE_NUM_THREADS"] = os.environ["OMP_NUM_THREADS"]
    compiled = load_openvino().Core().compile_model(graph, "CPU", settings)
    return _engine(_openvino(compiled), batch)


def _engine(infer: _Infer, batch: int) -> Engine:
    def run(batches: Iterable[np.ndarray]) -> Iterator[Any]:
        sizes = deque[int]()
        return _join(infer(_split(batches, sizes, batch)), sizes, batch)

    return run


def _split(batches: Iterable[np.ndarray], sizes: deque[int], size: int) -> Iterator[np.ndarray]:
    """Cut batches into pieces of exactly ``size`` rows; ``sizes`` remembers what to put together
    again.
    """
    for batch in batches:
        sizes.append(len(batch))
        batch = batch.astype(np.float32) if batch.dtype == np.float16 else batch
        for start in range(0, len(batch), size):
            piece = batch[start : start + size]
            padding = [(0, size - len(piece))] + [(0, 0)] * (piece.ndim - 1)
            yield np.pad(piece, padding) if len(piece) < size else piece


def _join(
    pieces: Iterable[tuple[np.ndarray, ...]], sizes: deque[int], size: int
) -> Iterator[np.ndarray | tuple[np.ndarray, ...]]:
    waiting: list[tuple[np.ndarray, ...]] = []
    for piece in pieces:
        waiting.append(piece)
        if len(waiting) * size >= sizes[0]:
            rows = sizes.popleft()
            outputs = tuple(np.concatenate(parts)[:rows] for parts in zip(*waiting, strict=True))
            yield outputs[0] if len(outputs) == 1 else outputs
            waiting = []


def _tensorflow(trunk: "keras.Model", precision: str) -> _Infer:
    """Pieces go to all devices in turn, and come back in order."""
    import tensorflow as tf

    from finetune.model.precision import computing_in

    # Copies: the trunk shares its layers with a network whose upper blocks may be trained later.
    models = {}
    for name in devices():
        with tf.device(name):
            models[name] = computing_in(trunk, precision)

    def compute(name: str, piece: np.ndarray) -> tuple[np.ndarray, ...]:
        with tf.device(name):
            outputs = models[name].predict_on_batch(piece)
        several = outputs if isinstance(outputs, list | tuple) else [outputs]
        return tuple(np.asarray(output, np.float32) for output in several)

    def infer(pieces: Iterable[np.ndarray]) -> Iterator[tuple[np.ndarray, ...]]:
        with ExitStack() as stack:
            # One thread for each device: a model is never called by two at once.
            pools = {name: stack.enter_context(ThreadPoolExecutor(1)) for name in models}
            running: deque[Future] = deque()
            for name, piece in zip(cycle(pools), pieces, strict=False):
                if len(running) > len(pools):  # one more than compute is read meanwhile
                    yield running.popleft().result()
                running.append(pools[name].submit(compute, name, piece))
            while running:
                yield running.popleft().result()

    return infer


def _openvino(compiled: Any) -> _Infer:
    streams = compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS")

    def infer(pieces: Iterable[np.ndarray]) -> Iterator[tuple[np.ndarray, ...]]:
        # One more than compute is filled meanwhile.
        idle = [compiled.create_infer_request() for _ in range(streams + 1)]
        running: deque[Any] = deque()
        for piece in pieces:
            if not idle:
                yield from _finish(running, idle)
            running.append(idle.pop())
            running[-1].start_async({0: piece})
        while running:
            yield from _finish(running, idle)

    return infer


def _finish(running: deque, idle: list) -> Iterator[tuple[np.ndarray, ...]]:
    """Wait for the oldest request; its output buffers will be used again, so the rows are
    copied.
    """
    request = running.popleft()
    request.wait()
    yield tuple(tensor.data.copy() for tensor in request.output_tensors)
    idle.append(request)
