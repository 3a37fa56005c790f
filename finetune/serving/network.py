"""A finished run, open for serving: its OpenVINO network, and what there is to say of it."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from finetune.activations.engine import Engine, compile_graph
from finetune.backend import load_openvino
from finetune.errors import UsageError
from finetune.runs.classifier import Classifier
from finetune.runs.folder import read_result
from finetune.runs.ir import read_ir
from finetune.serving.evidence import Head, find_head


@dataclass(frozen=True)
class Served:
    """A run's network, compiled.

    Attributes:
        classifier: classes, size and resize mode; its Keras model is never asked for.
        precision: that the network computes in.
        engine: uint8 batches -> probabilities, or (probabilities, maps).
        head: how evidence is found; None where the network's head is none of pooling and dense
            layers.
        about: what ``GET /metadata`` answers of the run.
    """

    classifier: Classifier
    precision: str
    engine: Engine
    head: Head | None
    about: dict[str, Any]

    def rows(self, photos: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
        """(probabilities, maps) of each photo as soon as it is computed; maps without head are
        None.

        Args:
            photos: uint8 (n, size, size, 3), of which the processors take several at once.
        """
        for found in self.engine(photo[None] for photo in photos):
            yield (found[0], None) if self.head is None else (found[0][0], found[1][0])


def open_served(run: Path, precision: str = "auto") -> Served:
    """Open a run, without TensorFlow unless its OpenVINO network is still to be made.

    Args:
        run: the folder of a finished run.
        precision: see ``runs.ir.open_ir``.

    Raises:
        UsageError: the run has no OpenVINO network, and none can be made here.
        DataError, IntegrityError: see ``Classifier.open``.
    """
    is_run = (run / "recipe.yaml").is_file() or not run.exists()
    classifier = Classifier.open(run) if is_run else None
    if classifier is None or not classifier.has_ir():
        raise UsageError(
            f"{run} has no OpenVINO network, which is what is served. Give the folder of a "
            "finished `finetune run`."
        )
    graph, resolved = read_ir(run, classifier.precision(precision))
    head = find_head(graph)
    if head:
        outputs = [graph.output(0), head.maps]
        graph = load_openvino().Model(outputs, graph.get_parameters())
    result = read_result(run) or {}
    recipe = classifier.recipe
    about = {
        "run": run.resolve().name,
        "backbone": recipe and recipe.backbone,
        "strategy": recipe and recipe.strategy,
        "classes": list(classifier.classes),
        "image_size": classifier.image_size,
        "resize": classifier.resize,
        "precision": resolved,
        "test": {key: result.get("test", {}).get(key) for key in ("n", "accuracy")},
        "explains": head is not None,
    }
    return Served(classifier, resolved, compile_graph(graph, resolved, batch=1), head, about)
