"""Bare OpenVINO on photos that are in memory already: the limit of what an extraction can reach on this machine.

python -m benchmarks.bare BACKBONE SIZE PHOTOS [BATCH]
"""

import json
import sys
import time

import numpy as np

from finetune.backend import load_keras, load_openvino, peak_bytes

load_keras()

from finetune.model.backbones import build_base  # noqa: E402


def main(backbone: str, size: int, photos: int, batch: int) -> None:
    """Print the seconds that an AsyncInferQueue takes, after one round to warm up; conversion is not counted."""
    ov = load_openvino()
    graph = ov.convert_model(build_base(backbone, size))
    graph.reshape([batch, size, size, 3])
    settings = {"PERFORMANCE_HINT": "THROUGHPUT", "INFERENCE_PRECISION_HINT": "f32"}
    queue = ov.AsyncInferQueue(ov.Core().compile_model(graph, "CPU", settings))
    data = np.random.default_rng(0).integers(0, 256, (batch, size, size, 3), np.uint8)
    for rounds in (len(queue), -(-photos // batch)):
        start = time.perf_counter()
        for _ in range(rounds):
            queue.start_async({0: data})
        queue.wait_all()
        seconds = time.perf_counter() - start
    print(
        json.dumps(
            {
                "seconds": seconds,
                "streaming": seconds,
                "streams": len(queue),
                "peak_bytes": peak_bytes(),
            }
        )
    )


if __name__ == "__main__":
    main(sys.argv[1], *map(int, [*sys.argv[2:4], sys.argv[4] if len(sys.argv) > 4 else 8]))
