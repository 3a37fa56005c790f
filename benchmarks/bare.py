"""Bare OpenVINO on photos in memory: what an extraction can reach on this machine at a precision.

python -m benchmarks.bare BACKBONE SIZE PHOTOS [PRECISION] [BATCH]
"""

import json
import sys
import time

import numpy as np

from finetune.backend import load_keras, load_openvino, peak_bytes

load_keras()

from finetune.model.base import build_base  # noqa: E402
from finetune.model.quantize import quantize  # noqa: E402

HINTS = {"float32": "f32", "bfloat16": "bf16", "int8": "f32"}


def main(backbone: str, size: int, photos: int, precision: str, batch: int) -> None:
    """Print the seconds of an AsyncInferQueue after a round to warm up, conversion not counted."""
    ov = load_openvino()
    data = np.random.default_rng(0).integers(0, 256, (batch, size, size, 3), np.uint8)
    graph = ov.convert_model(build_base(backbone, size))
    if precision == "int8":
        graph = quantize(graph, [data])
    graph.reshape([batch, size, size, 3])
    settings = {"PERFORMANCE_HINT": "THROUGHPUT", "INFERENCE_PRECISION_HINT": HINTS[precision]}
    queue = ov.AsyncInferQueue(ov.Core().compile_model(graph, "CPU", settings))
    for rounds in (len(queue), -(-photos // batch)):
        start = time.perf_counter()
        for _ in range(rounds):
            queue.start_async({0: data})
        queue.wait_all()
        seconds = time.perf_counter() - start
    found = {"seconds": seconds, "streaming": seconds, "streams": len(queue)}
    print(json.dumps({**found, "peak_bytes": peak_bytes()}))


if __name__ == "__main__":
    precision = sys.argv[4] if len(sys.argv) > 4 else "float32"
    batch = int(sys.argv[5]) if len(sys.argv) > 5 else 8
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), precision, batch)
