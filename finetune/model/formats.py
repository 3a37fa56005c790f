"""Formats to export to: how each is written, and how its own runtime runs it. The table reads
without TensorFlow.

Every writer is Keras's own exporter, with what our models need set or added.
"""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from finetune.errors import need

if TYPE_CHECKING:
    import keras


class Opened(NamedTuple):
    """An exported model in its own runtime: what it calls its input and output, and photos ->
    probabilities.
    """

    input: str
    output: str
    run: Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Format:
    """One row of the table.

    Attributes:
        file: what is written, a file or folder; OpenVINO puts ``model.bin`` beside it.
        runtime: the distribution package that runs it.
        batch: how many photos it takes at once.
        write: (model, path, labels) -> None. The model must have been called once, or Keras
            refuses. The labels are text by name, and go where a format has a place for them.
        load: path -> the model in its runtime.
        extra: of this distribution, that brings ``packages``; what needs no extra needs none.
        packages: modules that must be there to write and to run it.
    """

    file: str
    runtime: str
    batch: str
    write: Callable[["keras.Model", Path, Mapping[str, str]], None]
    load: Callable[[Path], Opened]
    extra: str = ""
    packages: tuple[str, ...] = ()

    def check_packages(self) -> None:
        """UsageError with the line that installs what is missing."""
        for package in self.packages:
            need(package, self.extra)


def in_float32(model: "keras.Model") -> "keras.Model":
    """The model itself, or a copy with the same weights that computes in float32 if it was trained
    in mixed precision.

    In mixed precision the weights are float32 already, and only the layers' arithmetic is float16.
    """
    from finetune.model.precision import computing_in

    if all(layer.compute_dtype == "float32" for layer in model.layers if layer.weights):
        return model
    return computing_in(model, "float32")


def _write_keras(model: "keras.Model", path: Path, labels: Mapping[str, str]) -> None:
    model.save(path)


def _load_keras(path: Path) -> Opened:
    import keras

    model = keras.saving.load_model(path, compile=False, safe_mode=True)
    return Opened(
        model.input.name,
        model.output_names[0],
        lambda photos: np.asarray(model(photos, training=False)),
    )


def _write_saved_model(model: "keras.Model", path: Path, labels: Mapping[str, str]) -> None:
    import keras

    # Not `model.export`, which also tracks the model and so stores every weight twice
    # (keras-team/keras issue 23553).
    archive = keras.export.ExportArchive()
    spec = keras.InputSpec(shape=model.input.shape, dtype=model.input.dtype, name=model.input.name)
    archive.add_endpoint("serve", model.__call__, input_signature=[spec])
    archive.write_out(str(path), verbose=False)


def _load_saved_model(path: Path) -> Opened:
    import tensorflow as tf

    signature = tf.saved_model.load(str(path)).signatures["serving_default"]
    (name,), (output,) = signature.structured_input_signature[1], signature.structured_outputs
    return Opened(
        name, output, lambda photos: signature(**{name: tf.constant(photos)})[output].numpy()
    )


def _write_onnx(model: "keras.Model", path: Path, labels: Mapping[str, str]) -> None:
    import onnx

    with warnings.catch_warnings():
        # Keras asks numpy 2 for `np.object`, to mend tf2onnx (keras/src/export/tf2onnx_lib.py).
        warnings.filterwarnings("ignore", "In the future `np.object`", FutureWarning)
        model.export(str(path), format="onnx", verbose=False)
    exported = onnx.load(path)
    onnx.helper.set_model_props(exported, dict(labels))
    for tensor in (*exported.graph.input, *exported.graph.output):
        # tf2onnx calls it unk__84 and the like.
        tensor.type.tensor_type.shape.dim[0].dim_param = "batch"
    onnx.checker.check_model(exported)
    onnx.save(exported, path)


def _load_onnx(path: Path) -> Opened:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (photo,), (output,) = session.get_inputs(), session.get_outputs()
    return Opened(
        photo.name, output.name, lambda photos: session.run([output.name], {photo.name: photos})[0]
    )


def _write_openvino(model: "keras.Model", path: Path, labels: Mapping[str, str]) -> None:
    import openvino as ov

    model.export(str(path), format="openvino", verbose=False)
    # From bytes, for a file that OpenVINO reads by name stays mapped, and is written anew here.
    graph_bytes, weight_bytes = path.read_bytes(), path.with_suffix(".bin").read_bytes()
    graph = ov.Core().read_model(graph_bytes, weight_bytes)
    for name, text in labels.items():
        graph.set_rt_info(text, ["model_info", name])
    ov.serialize(graph, path)


def _load_openvino(path: Path) -> Opened:
    import openvino as ov

    # f32, as in activations.engine: on some CPUs OpenVINO would otherwise compute with 3 digits.
    compiled = ov.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    names = compiled.input(0).any_name, compiled.output(0).any_name
    return Opened(*names, lambda photos: np.array(compiled(photos)[0]))


def _write_tflite(model: "keras.Model", path: Path, labels: Mapping[str, str]) -> None:
    import tensorflow as tf

    # Keras would allow TensorFlow's own operations (SELECT_TF_OPS), too, which a plain LiteRT does
    # not have.
    builtins = {"supported_ops": [tf.lite.OpsSet.TFLITE_BUILTINS]}
    model.export(str(path), format="litert", verbose=False, target_spec=builtins)


def _load_tflite(path: Path) -> Opened:
    from ai_edge_litert.interpreter import Interpreter

    # A signature runner resizes the input for every batch.
    runner = Interpreter(str(path)).get_signature_runner()
    (name,), (output,) = runner.get_input_details(), runner.get_output_details()
    return Opened(name, output, lambda photos: runner(**{name: photos})[output])


_TFLITE_BATCH = "any, after resize_tensor_input or through get_signature_runner; 1 as loaded"

_ONNX = ("onnx", "onnxruntime", "tf2onnx")
_LITERT = ("ai_edge_litert.interpreter",)

FORMATS = {
    "keras": Format("model.keras", "keras", "any", _write_keras, _load_keras),
    "saved-model": Format(
        "saved_model", "tensorflow", "any", _write_saved_model, _load_saved_model
    ),
    "onnx": Format("model.onnx", "onnxruntime", "any", _write_onnx, _load_onnx, "onnx", _ONNX),
    "openvino": Format("model.xml", "openvino", "any", _write_openvino, _load_openvino),
    "tflite": Format(
        "model.tflite",
        "ai-edge-litert",
        _TFLITE_BATCH,
        _write_tflite,
        _load_tflite,
        "litert",
        _LITERT,
    ),
}
