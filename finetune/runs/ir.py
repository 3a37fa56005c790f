"""A run's network as OpenVINO IR, which predicts without TensorFlow.

<run>/openvino/float32/    the whole network; runs in float32 or bfloat16
<run>/openvino/int8/       of a run in int8: its int8 trunk with the trained tail on top
"""

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from finetune.activations.engine import Engine, compile_graph, resolve_precision
from finetune.backend import load_openvino
from finetune.errors import IntegrityError, UsageError
from finetune.model.ir import convert, keep, load, mirrored
from finetune.runs.folder import checked, recorded

if TYPE_CHECKING:
    import keras

FOLDER = "openvino"
_TOLERANCE = 1e-4  # of a probability


def write_ir(
    model: "keras.Model",
    run: Path,
    photos: np.ndarray,
    trunk: Any = None,
    tail: "keras.Model | None" = None,
    is_mirrored: bool = False,
) -> float:
    """Convert a run's network, commit it to the run's folder, and compare it with Keras.

    Args:
        model: uint8 photos -> probabilities, computing in float32.
        run: the run's folder.
        photos: uint8 (n, size, size, 3), a few.
        trunk: the part of the model that is converted already, an ``openvino.Model``.
        tail: what of the model lies above the trunk.
        is_mirrored: whether the model gives the mean over a photo and its mirror image, which trunk
            and tail do not.

    Returns:
        The largest difference of a probability.

    Raises:
        IntegrityError: a probability differs by more than 1e-4; nothing is left behind.
    """
    folder = run / FOLDER / "float32"
    if trunk is None or tail is None:
        graph = convert(model)
    else:
        graph = _joined(trunk, convert(tail), is_mirrored)
    _write(folder, graph, model)
    found = np.concatenate(list(open_ir(run, "float32")([photos])))
    difference = float(np.abs(found - np.asarray(model(photos, training=False))).max())
    if not difference <= _TOLERANCE:
        shutil.rmtree(folder)
        raise IntegrityError(
            f"The network as OpenVINO computes it differs from Keras by {difference:.2g} in a "
            f"probability; allowed is {_TOLERANCE:g}. It was not kept; the Keras model is unharmed."
        )
    return difference


def write_int8(trunk: Any, tail: "keras.Model", run: Path, is_mirrored: bool) -> None:
    """Commit a run's int8 network: the int8 trunk that it was trained on, with its tail.

    Args:
        trunk: ``Artefact.graph([cut])``: photos -> activations.
        tail: activations -> probabilities, trained.
        run: the run's folder.
        is_mirrored: see ``write_ir``.
    """
    _write(run / FOLDER / "int8", _joined(trunk, convert(tail), is_mirrored), tail)


def _joined(trunk: Any, tail: Any, is_mirrored: bool) -> Any:
    """``tail(trunk(x))`` as one graph; of a photo and its mirror image, the mean."""
    (activations,) = trunk.get_results()
    (below,) = tail.get_parameters()
    below.output(0).replace(activations.input_value(0))
    graph = load_openvino().Model(tail.get_results(), trunk.get_parameters())
    return mirrored(graph) if is_mirrored else graph


def _write(folder: Path, graph: Any, model: "keras.Model") -> None:
    made_from = recorded(folder.parents[1]).get("model.keras")  # None: the run records this IR
    fields = {"classes": model.outputs[0].shape[1], "model": made_from}
    keep(folder, graph, fields, ["probabilities"])


def has_ir(run: Path) -> bool:
    """Whether a finished run's network is there as IR: the one that the run recorded, or one that
    was made later from its model.

    Raises:
        IntegrityError: the IR is not the one that the run recorded.
    """
    name = f"{FOLDER}/float32/manifest.json"
    if not (run / name).is_file():
        return False
    made_from = load(run / FOLDER / "float32").fields.get("model")
    if made_from and made_from == recorded(run).get("model.keras"):
        return True
    checked(run, name)
    return name in recorded(run)


def open_ir(run: Path, precision: str = "auto") -> Engine:
    """Open a run's network without importing TensorFlow or Keras.

    Photos are taken one by one, so that a single one answers at once; that is as fast as batches
    are.

    Args:
        run: the run's folder.
        precision: ``auto``, float32, bfloat16 or, of a run that was made in it, int8.

    Returns:
        uint8 batches (n, size, size, 3) -> float32 (n, classes).

    Raises:
        UsageError: this run has no int8 network, or the precision is none of this machine.
        IntegrityError: the network is missing or damaged.
    """
    graph, resolved = read_ir(run, precision)
    return compile_graph(graph, resolved, batch=1)


def read_ir(run: Path, precision: str = "auto") -> tuple[Any, str]:
    """A run's network as ``openvino.Model``, and its precision on this machine; see ``open_ir``."""
    folder = run / FOLDER / ("int8" if precision == "int8" else "float32")
    if precision == "int8" and not (folder / "manifest.json").is_file():
        raise UsageError(
            f"precision is 'int8', and {run} has no int8 network: it was not made in it, or is a "
            "trial of a comparison. Use --precision auto, float32 or bfloat16, or `finetune run` "
            "its recipe with --precision int8."
        )
    if precision == "int8":
        checked(run, f"{FOLDER}/int8/manifest.json")
    # A finished int8 network needs no NNCF.
    resolved = precision if precision == "int8" else resolve_precision(precision, "openvino")
    return load(folder).graph(), resolved
