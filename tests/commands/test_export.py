"""Exports: each format in its own runtime, called as its own documentation has it and without
finetune's code.
"""

import dataclasses
import hashlib
import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import keras
import numpy as np
import onnx
import onnxruntime
import pandas as pd
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter
from conftest import finetune, paint
from typer.testing import CliRunner

from finetune.backend import load_openvino
from finetune.cli.app import app
from finetune.commands import export as exports
from finetune.commands.export import TOLERANCE, export
from finetune.commands.run import run as train
from finetune.errors import IntegrityError, UsageError
from finetune.model.base import build_base
from finetune.model.formats import FORMATS
from finetune.model.heads import CLASSIFIER, add_head
from finetune.runs.classifier import Classifier

openvino = load_openvino()

SIZE = 32
CLASSES = ("plums", "äpfel & 'birnen'")
COMMAND = (
    "onnx",
    "tflite",
)  # exported by the command itself, as their converters are the noisy ones


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A finished run on two classes of photos of 100 x 60 pixels that are not easy to tell
    apart.
    """
    root, folder = tmp_path_factory.mktemp("data"), tmp_path_factory.mktemp("run") / "fruit"
    rng = np.random.default_rng(0)
    for split, count in {"train": 16, "validation": 8, "test": 10}.items():
        for name, color in zip(CLASSES, ((130, 90, 110), (150, 90, 90)), strict=True):
            for i in range(count):
                red, green, blue = np.clip(rng.normal(color, 20), 0, 255).astype(int)
                paint(
                    root / split / name / f"{i}.png",
                    (red, green, blue),
                    int(rng.integers(2**32)),
                    (100, 60),
                )
    settings = {
        "data": str(root),
        "weights": "random",
        "image_size": SIZE,
        "strategy": "cached-features",
    }
    # Narrower stores and trunks give probabilities with three digits.
    settings |= {"store": "float32", "precision": "float32"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FINETUNE_CACHE", str(tmp_path_factory.mktemp("cache")))
        train(settings, out=folder)
    return folder


@pytest.fixture(scope="module")
def classifier(run) -> Classifier:
    return Classifier.open(run)


@pytest.fixture(scope="module")
def exported(run, classifier) -> dict[str, dict]:
    """What the export said, by format; all five stand in the run folder."""
    with ThreadPoolExecutor() as pool:
        by_command = pool.map(
            lambda form: finetune("export", run, "--format", form, "--json"), COMMAND
        )
        found = {form: export(classifier, format=form) for form in FORMATS if form not in COMMAND}
    for form, done in zip(COMMAND, by_command, strict=True):
        assert done.returncode == 0, done.stderr
        assert done.stderr == f"{form} is written, then run and compared with Keras\n"
        found[form] = json.loads(done.stdout)  # one object and nothing else
    return found


def pictures() -> np.ndarray:
    """Noise about a different colour each: networks that have not learned tell these apart, and no
    two squares of noise.
    """
    rng = np.random.default_rng(1)
    return (rng.integers(0, 200, (3, 1, 1, 3)) + rng.integers(0, 56, (3, SIZE, SIZE, 3))).astype(
        np.uint8
    )


def run_keras(folder: Path, photos: np.ndarray) -> np.ndarray:
    return keras.saving.load_model(folder / "model.keras").predict(photos, verbose=0)


def run_saved_model(folder: Path, photos: np.ndarray) -> np.ndarray:
    loaded = tf.saved_model.load(str(folder / "saved_model"))
    return loaded.serve(photos).numpy()


def run_onnx(folder: Path, photos: np.ndarray) -> np.ndarray:
    return onnxruntime.InferenceSession(folder / "model.onnx").run(None, {"photo": photos})[0]


def run_openvino(folder: Path, photos: np.ndarray) -> np.ndarray:
    compiled = openvino.Core().compile_model(
        folder / "model.xml", "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    )
    return compiled({"photo": photos})[0]


def run_tflite(folder: Path, photos: np.ndarray) -> np.ndarray:
    interpreter = Interpreter(str(folder / "model.tflite"))
    (given,), (result,) = interpreter.get_input_details(), interpreter.get_output_details()
    interpreter.resize_tensor_input(given["index"], photos.shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(given["index"], photos)
    interpreter.invoke()
    return interpreter.get_tensor(result["index"])


RUNTIMES = {
    "keras": run_keras,
    "saved-model": run_saved_model,
    "onnx": run_onnx,
    "openvino": run_openvino,
    "tflite": run_tflite,
}


def agrees(model: keras.Model, form: str, folder: Path, photos: np.ndarray) -> None:
    """The files, given to their runtime, do what the model does; and what it does depends on the
    photo.
    """
    expected = np.asarray(model(photos, training=False))
    assert len(photos) == 1 or np.ptp(expected, axis=0).max() > 1e-3, (
        "these probabilities could hide a wrong model"
    )
    found = RUNTIMES[form](folder, photos)
    assert (found.shape, found.dtype) == (expected.shape, np.float32)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("form", FORMATS)
def test_a_format_runs_in_its_runtime_on_one_photo_and_on_three(classifier, exported, form):
    photos, _ = exports._photos(classifier)
    for count in (1, 3):
        agrees(classifier.model, form, Path(exported[form]["out"]), photos[:count])


def test_an_exported_keras_file_alone_keeps_names_and_how_it_wants_photos(exported, run, tmp_path):
    alone = Classifier.open(Path(exported["keras"]["out"], "model.keras"))
    assert (alone.classes, alone.resize, alone.computed_in) == (CLASSES, "squash", "float32")
    assert Classifier.open(run / "model.keras").path == run, "the file stands for its folder"


@pytest.mark.parametrize("form", FORMATS)
def test_the_result_and_the_sidecar_say_what_was_written_and_checked(
    run, classifier, exported, form
):
    result, folder = exported[form], run / "exported" / form
    assert (result["run"], result["format"], result["out"]) == (str(run), form, str(folder))
    on_disk = {
        path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()
    }
    assert {file["name"]: file["bytes"] for file in result["files"]} == {
        name: path.stat().st_size for name, path in on_disk.items()
    }
    sidecar = json.loads(on_disk.pop("model.json").read_text())
    assert sidecar["sha256"] == {
        name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in on_disk.items()
    }
    assert (folder / FORMATS[form].file).exists()
    assert (sidecar["format"], sidecar["classes"]) == (form, list(CLASSES))
    given = {
        key: sidecar["input"][key]
        for key in ("name", "dtype", "shape", "layout", "color", "range", "resize")
    }
    assert list(given.values()) == [
        "photo",
        "uint8",
        [None, SIZE, SIZE, 3],
        "NHWC",
        "RGB",
        [0, 255],
        "squash",
    ]
    assert result["photos"] == 8
    assert (
        result["verified_on"]
        == sidecar["verified_on"]
        == "the 8 test photos that the run was least sure of"
    )
    assert 0 <= result["max_difference"] == sidecar["max_difference"] < TOLERANCE
    assert result["runtime"] == sidecar["runtime"]
    weights = 4 * classifier.model.count_params()
    size = sum(file["bytes"] for file in result["files"])
    assert 0.99 * weights < size < 1.05 * weights, (
        "every weight once, in float32; constants may be folded"
    )
    assert set(run.joinpath("exported").iterdir()) == {run / "exported" / form for form in FORMATS}


def test_onnx_and_openvino_carry_classes_and_contract_in_themselves(exported):
    model = onnx.load(Path(exported["onnx"]["out"], "model.onnx"))
    properties = {item.key: item.value for item in model.metadata_props}
    dimension = model.graph.input[0].type.tensor_type.shape.dim[0].dim_param
    session = onnxruntime.InferenceSession(Path(exported["onnx"]["out"], "model.onnx"))
    assert session.get_modelmeta().custom_metadata_map == properties
    assert (dimension, session.get_outputs()[0].shape) == ("batch", ["batch", 2])
    graph = openvino.Core().read_model(Path(exported["openvino"]["out"], "model.xml"))
    assert graph.inputs[0].partial_shape[0].is_dynamic
    for name, text in properties.items():
        assert graph.get_rt_info(["model_info", name]).astype(str) == text
    assert json.loads(properties["classes"]) == list(CLASSES)
    assert properties["resize"] == "squash"
    assert properties["input"].startswith("uint8 (n, 32, 32, 3), RGB, 0 to 255")
    assert properties["made_by"].startswith("finetune ")


WITHOUT_FINETUNE = """
import json, sys
from pathlib import Path
import numpy as np, onnxruntime
from PIL import Image, ImageOps

folder, photos = Path(sys.argv[1]), sys.argv[2:]
contract = json.loads((folder / "model.json").read_text(encoding="utf-8"))
side = tuple(contract["input"]["shape"][1:3])
assert contract["input"]["resize"] == "squash"
upright = [ImageOps.exif_transpose(Image.open(photo)).convert("RGB") for photo in photos]
batch = np.stack([np.asarray(photo.resize(side, Image.Resampling.BILINEAR)) for photo in upright])
session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
(found,) = session.run([contract["output"]["name"]], {contract["input"]["name"]: batch})
assert not {"finetune", "keras", "tensorflow"} & set(sys.modules)
print(json.dumps([[contract["classes"][row.argmax()], row.tolist()] for row in found]))
"""


def test_the_onnx_file_and_its_sidecar_are_enough_to_repeat_predictions_csv(
    run, classifier, exported
):
    table = pd.read_csv(run / "predictions.csv").query("split == 'test'")
    photos = [str(Path(classifier.recipe.data, file)) for file in table["file"]]
    command = [sys.executable, "-c", WITHOUT_FINETUNE, exported["onnx"]["out"], *photos]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    names, probabilities = zip(*json.loads(done.stdout), strict=True)
    assert list(names) == table[list(CLASSES)].idxmax(axis=1).to_list()
    assert set(names) == set(CLASSES)
    np.testing.assert_allclose(probabilities, table[list(CLASSES)], rtol=0, atol=1e-4)


def network(backbone: str, pool: str) -> Classifier:
    """A network that has not learned, its last layer small, so that no probability is nearly 0 or
    1.
    """
    keras.utils.set_random_seed(0)
    model = add_head(build_base(backbone, SIZE), 3, pool)
    kernel, bias = model.get_layer(CLASSIFIER).get_weights()
    scale = np.abs(
        np.asarray(keras.Model(model.input, model.get_layer(pool).output)(pictures()))
    ).mean()
    model.get_layer(CLASSIFIER).set_weights([kernel / max(scale, 1e-6) / 4, bias])
    return Classifier(Path("nowhere"), ("a", "b", "c"), SIZE, "squash", None, model)


@pytest.mark.parametrize(
    ("backbone", "pool", "forms"),
    [
        pytest.param("resnet50", "gap", ("onnx", "tflite"), marks=pytest.mark.slow),
        pytest.param("densenet121", "gap", ("onnx", "tflite"), marks=pytest.mark.slow),
        ("vgg16", "flatten", ("openvino",)),
        ("vgg16", "gmp", ("openvino",)),
    ],
)
def test_every_backbone_and_head_is_exported(tmp_path, backbone, pool, forms):
    made = network(backbone, pool)
    for form in forms:
        result = export(made, format=form, out=tmp_path / form)
        assert (
            result["verified_on"] == "8 squares of noise, as the run's test photos were not found"
        )
        agrees(made.model, form, tmp_path / form, pictures())


def writer(form: str, change: float) -> Callable:
    """What writes a format, of a model whose last bias is another one."""
    write = FORMATS[form].write

    def tampered(model: keras.Model, path: Path, labels: Mapping[str, str]) -> None:
        bias = model.get_layer(CLASSIFIER).bias
        before = bias.numpy()
        bias.assign(before + np.array([change, 0]))
        write(model, path, labels)
        bias.assign(before)

    return tampered


@pytest.mark.parametrize(("form", "change"), [("keras", np.nan), ("openvino", 0.002)])
def test_a_model_that_is_not_the_same_is_not_exported(
    classifier, tmp_path, monkeypatch, form, change
):
    monkeypatch.setitem(
        FORMATS, form, dataclasses.replace(FORMATS[form], write=writer(form, change))
    )
    with pytest.raises(IntegrityError, match=r"differ by up to (0\.000[1-9]|nan)"):
        export(classifier, format=form, out=tmp_path / "deep" / "out")
    assert list(tmp_path.iterdir()) == []


def write_for_eight(model: keras.Model, path: Path, labels: Mapping[str, str]) -> None:
    """An OpenVINO model that takes eight photos and no other number."""
    graph = openvino.convert_model(model)
    graph.reshape([8, SIZE, SIZE, 3])
    openvino.serialize(graph, path)


def write_text(model: keras.Model, path: Path, labels: Mapping[str, str]) -> None:
    path.write_text("text")


@pytest.mark.filterwarnings(
    "ignore:The structure of `inputs`"
)  # OpenVINO's remark on a tuple of one, see activations.engine
@pytest.mark.parametrize(("form", "write"), [("onnx", write_text), ("openvino", write_for_eight)])
def test_a_file_that_its_runtime_cannot_run_is_not_exported(
    classifier, tmp_path, monkeypatch, form, write
):
    monkeypatch.setitem(FORMATS, form, dataclasses.replace(FORMATS[form], write=write))
    with pytest.raises(IntegrityError, match=f"{FORMATS[form].runtime} cannot run"):
        export(classifier, format=form, out=tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_replaced(classifier, exported):
    folder = Path(exported["keras"]["out"])
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    with pytest.raises(UsageError, match="exists already"):
        export(classifier, format="keras", out=folder)
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    with pytest.raises(UsageError, match="allowed are keras, saved-model, onnx, openvino, tflite"):
        export(classifier, format="pickle", out=folder / "new")


def test_the_command_says_in_two_lines_what_it_did(run, tmp_path):
    done = CliRunner().invoke(
        app, ["export", str(run), "--format", "openvino", "--out", str(tmp_path / "out")]
    )
    assert done.exit_code == 0, done.output
    place, checked = done.stdout.splitlines()
    assert place.startswith(f"{tmp_path / 'out'}: model.bin (")
    assert checked.startswith("run by openvino 20")
    assert list(tmp_path.iterdir()) == [tmp_path / "out"]
    assert {path.name for path in tmp_path.joinpath("out").iterdir()} == {
        "model.bin",
        "model.json",
        "model.xml",
    }


def test_mixed_precision_is_exported_in_float32(tmp_path):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    try:
        made = network("vgg16", "gap")
    finally:
        keras.config.set_dtype_policy(before)
    assert "float16" in {layer.compute_dtype for layer in made.model.layers}
    export(made, format="keras", out=tmp_path / "out")
    plain = keras.saving.load_model(tmp_path / "out" / "model.keras")
    assert {layer.compute_dtype for layer in plain.layers if layer.weights} == {"float32"}
    assert plain.input.dtype == "uint8"
    for mine, theirs in zip(plain.get_weights(), made.model.get_weights(), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    expected = np.asarray(made.model(pictures()))
    np.testing.assert_allclose(
        np.asarray(plain(pictures())), expected, atol=1e-2
    )  # float16 has three digits


def test_the_photos_are_those_that_the_run_was_least_sure_of(run, classifier):
    table = pd.read_csv(run / "predictions.csv").query("split == 'test'")
    sure = table[list(CLASSES)].max(axis=1)
    least = table["file"][sure.sort_values(kind="stable").index[:8]]
    found = [
        path.relative_to(classifier.recipe.data).as_posix()
        for path in exports._test_photos(classifier)
    ]
    assert found == least.to_list()


def test_a_named_set_is_not_built_for_an_export(classifier, cache, monkeypatch):
    monkeypatch.delenv("FINETUNE_DATA_DIR", raising=False)
    recipe = classifier.recipe.model_copy(update={"data": "sketches"})
    photos, source = exports._photos(
        Classifier(classifier.path, CLASSES, SIZE, "squash", recipe, classifier.model)
    )
    assert (photos.shape, photos.dtype) == ((8, SIZE, SIZE, 3), np.uint8)
    assert source.startswith("8 squares of noise")
    assert list(cache.iterdir()) == []


def test_a_model_without_preprocessing_or_probabilities_is_refused(tmp_path):
    floats, pixels = keras.Input((SIZE, SIZE, 3)), keras.Input((SIZE, SIZE, 3), dtype="uint8")
    pooled = [
        keras.layers.GlobalAveragePooling2D()(keras.layers.Rescaling(1 / 255)(x))
        for x in (floats, pixels)
    ]
    last = keras.layers.Dense
    for photo, output in (
        (floats, last(2, "softmax")(pooled[0])),
        (pixels, last(2, "sigmoid")(pooled[1])),
        (pixels, last(1, "sigmoid")(pooled[1])),
    ):
        made = Classifier(
            Path("foreign.keras"), ("a", "b"), SIZE, "squash", None, keras.Model(photo, output)
        )
        with pytest.raises(UsageError, match="uint8 photos"):
            export(made, format="keras", out=tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_missing_package_is_said_with_the_line_that_installs_it(
    classifier, tmp_path, monkeypatch
):
    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", None)
    with pytest.raises(UsageError, match=r'pip install "finetune-cut\[litert\]"') as caught:
        export(classifier, format="tflite", out=tmp_path / "out")
    assert caught.value.exit_code == 2
    assert list(tmp_path.iterdir()) == []
