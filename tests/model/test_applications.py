"""Any functional model of keras.applications: found in its graph, preprocessed and loaded as Keras
does it.
"""

import os
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest
from conftest import NETWORKS

from finetune.errors import IntegrityError, UsageError
from finetune.model import applications
from finetune.model.backbones import OURS, alphas, backbone, block_cut, is_backbone, known_backbones
from finetune.model.base import build_base
from finetune.model.cut import single_tensors, split
from finetune.model.heads import add_head
from finetune.model.network import audit, freeze, frozen_digests
from finetune.model.preprocessing import PREPROCESSING
from finetune.model.weight_files import weights_digest
from finetune.model.weights import base_arrays, load_weights

# Families and the size of their photos; the fast suite takes three of them
SIZES = {
    "mobilenet": 32,
    "mobilenetv3small": 32,
    "convnexttiny": 32,
    "efficientnetb0": 32,
    "xception": 71,
    "mobilenetv2": 32,
    "efficientnetv2b0": 32,
    "resnet50v2": 32,
}
FAMILIES = [
    pytest.param(name, marks=[pytest.mark.slow] if number > 2 else [])
    for number, name in enumerate(SIZES)
]


def network(name: str, alpha: float = 1.0) -> keras.Model:
    base = build_base(name, SIZES[name], alpha=alpha)
    load_weights(base, name, "random", alpha)
    return base


@pytest.fixture(scope="module", params=FAMILIES)
def family(request) -> tuple[str, keras.Model]:
    """A whole network whose output depends on the photo: Glorot's depthwise kernels let next to
    nothing through.
    """
    name = request.param
    base = network(name)
    rng = np.random.default_rng(0)
    for layer in base.layers:
        if isinstance(layer, keras.layers.DepthwiseConv2D | keras.layers.SeparableConv2D):
            first, *rest = layer.get_weights()
            layer.set_weights([rng.normal(0, (2 / 9) ** 0.5, first.shape), *rest])
    whole = add_head(base, 3, "gap")
    features = keras.Model(whole.input, whole.get_layer("gap").output)(photos(name)).numpy()
    kernel, bias = whole.get_layer("classifier").get_weights()
    whole.get_layer("classifier").set_weights([kernel / np.abs(features).max(), bias])
    return name, whole


def photos(name: str) -> np.ndarray:
    shape = (3, SIZES[name], SIZES[name], 3)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def test_every_function_of_keras_is_known_and_nothing_else():
    assert set(applications.functions()) <= set(known_backbones())
    assert is_backbone("mobilenet")
    assert not is_backbone("mobilnet")
    with pytest.raises(UsageError, match="no backbone 'mobilnet'; the nearest are mobilenet"):
        backbone("mobilnet")


@pytest.mark.parametrize("name", NETWORKS)
def test_what_the_graph_says_of_the_three_is_their_row(name):
    """The literal rows and the derivation agree: a new backbone needs no row."""
    row = backbone(name)
    pixels = keras.Input((224, 224, 3))
    base = getattr(keras.applications, row.builder)(
        include_top=False, weights=None, input_tensor=pixels
    )
    assert applications.find_blocks(base) == row.blocks
    assert base.count_params() == row.parameters
    assert PREPROCESSING[applications.find_preprocessing(row.builder)] == row.preprocessing
    assert applications.find_weights(row.builder) == (
        row.weights_file,
        row.weights_url,
        row.weights_hash,
    )


def test_a_stored_row_is_what_the_graph_says():
    row = applications.derive("MobileNet")
    stored = backbone("mobilenet")
    assert tuple(row["blocks"]) == stored.blocks
    assert row["parameters"] == stored.parameters
    assert {float(a): tuple(file) for a, file in row["weights"].items()} == stored.files


@pytest.mark.slow
@pytest.mark.parametrize("name", applications.functions())
def test_all_stored_rows_are_what_the_graph_says(name):
    assert applications.derive(applications.functions()[name])["blocks"] == backbone(name).blocks


def test_preprocessing_is_its_modules(family):
    name, whole = family
    row = backbone(name)
    pixels = photos(name)
    front = "preprocess" if row.preprocessing != PREPROCESSING["none"] else "as_float"
    ours = keras.Model(whole.input, whole.get_layer(front).output)(pixels)
    module = getattr(keras.applications, applications._module(row.builder))
    theirs = module.preprocess_input(pixels.astype(np.float32))
    np.testing.assert_allclose(ours, theirs, atol=1e-5, rtol=1e-6)


def test_tail_of_trunk_is_the_model(family):
    name, whole = family
    pixels = photos(name)
    blocks = backbone(name).blocks
    singles = single_tensors(whole)
    assert len(blocks) >= 4
    crossing = keras.Model(whole.input, [singles[cut] for cut in blocks])(pixels)
    expected = whole(pixels).numpy()
    assert expected.std(axis=0).max() > 1e-4
    for cut, activations in zip(blocks, crossing, strict=True):
        tail = split(whole, cut).tail
        np.testing.assert_allclose(tail(activations), expected, atol=1e-6, err_msg=cut)


def test_another_build_has_the_same_names_and_weights(family):
    name, whole = family
    first, second = network(name), network(name)
    assert [layer.name for layer in first.layers] == [x.name for x in whole.layers[:-2]]
    assert weights_digest(base_arrays(first)) == weights_digest(base_arrays(second))


def test_the_top_block_learns_and_nothing_else(family):
    name, whole = family
    tail = split(whole, backbone(name).blocks[-2]).tail
    freeze(whole, tail, "frozen")
    digests = frozen_digests(whole)
    norms = [x for x in whole.layers if isinstance(x, keras.layers.BatchNormalization)]
    assert not any(norm.trainable for norm in norms)
    before = [v.numpy() for v in tail.trainable_variables]
    assert len(before) > 2, "the block and the head"
    tail.compile("adam", "sparse_categorical_crossentropy", run_eagerly=True)
    rows = np.random.default_rng(0).normal(size=(3, *tail.input.shape[1:]))
    tail.train_on_batch(rows, np.arange(3))
    assert audit(whole, digests)["moved"] == 0
    after = [v.numpy() for v in tail.trainable_variables]
    assert any((a != b).any() for a, b in zip(before[:-2], after[:-2], strict=True))


def test_it_reloads_in_plain_keras(family, tmp_path):
    name, whole = family
    whole.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras", compile=False, safe_mode=True)
    np.testing.assert_allclose(again(photos(name)), whole(photos(name)), atol=1e-6)


@pytest.mark.parametrize(
    "name",
    [
        "efficientnetb0",
        *(pytest.param(n, marks=pytest.mark.slow) for n in ("convnexttiny", "xception")),
    ],
)
def test_imagenet_weights_are_loaded_as_keras_loads_them(name, tmp_path, monkeypatch):
    """A file of random weights under Keras's name: our network and Keras's own compute the same
    from it.
    """
    row = backbone(name)
    size = SIZES[name]
    keras.utils.set_random_seed(0)
    builder = getattr(keras.applications, row.builder)
    theirs = builder(include_top=False, weights=None, input_shape=(size, size, 3))
    rng = np.random.default_rng(0)
    for layer in theirs.layers:
        # beyond 0: a variance is among them
        layer.set_weights(
            [v + rng.uniform(0, 0.05, v.shape).astype(v.dtype) for v in layer.get_weights()]
        )
    # `EfficientNetB0(weights="imagenet")` has one more layer, without weights
    theirs.save_weights(tmp_path / "saved.weights.h5")
    (tmp_path / row.weights_file).write_bytes((tmp_path / "saved.weights.h5").read_bytes())
    monkeypatch.setattr(
        "keras.src.utils.file_utils.get_file", lambda *_, **__: tmp_path / "saved.weights.h5"
    )
    theirs = builder(include_top=False, weights="imagenet", input_shape=(size, size, 3))
    monkeypatch.setenv("FINETUNE_WEIGHTS_DIR", str(tmp_path))
    monkeypatch.setattr("finetune.model.weights.backbone", lambda *_: replace(row, weights_hash=""))
    ours = build_base(name, size)
    load_weights(ours, name, "imagenet")
    pixels = photos(name)
    module = getattr(keras.applications, applications._module(row.builder))
    expected = theirs(module.preprocess_input(pixels.astype(np.float32))).numpy()
    assert np.abs(expected).max() > 0
    np.testing.assert_allclose(
        ours(pixels), expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max()
    )


@pytest.fixture
def mobilenet_weights():
    folder = os.environ.get("FINETUNE_WEIGHTS_DIR", "")
    file = Path(folder, "mobilenet_2_5_224_tf_no_top.h5")
    if not folder or not file.exists():
        pytest.skip(f"FINETUNE_WEIGHTS_DIR does not name a folder that holds {file.name}")
    return file


def test_the_real_mobilenet_loads_and_its_frozen_layers_stay(mobilenet_weights):
    base = build_base("mobilenet", 64, alpha=0.25)
    loaded = load_weights(base, "mobilenet", "imagenet", 0.25)
    assert loaded.source == str(mobilenet_weights)
    ours = sum(layer.count_params() for layer in base.layers if layer.name in OURS)
    assert base.count_params() - ours == 218_544
    whole = add_head(base, 2, "gap")
    tail = split(whole, backbone("mobilenet").blocks[-2]).tail
    freeze(whole, tail, "frozen")
    before = frozen_digests(whole)
    rows = np.random.default_rng(0).normal(size=(8, *tail.input.shape[1:])).astype(np.float32)
    tail.compile("sgd", "sparse_categorical_crossentropy")
    tail.fit(rows, np.arange(8) % 2, verbose=0)
    assert audit(whole, before) == {"frozen": len(before), "moved": 0}
    moving = [v for v in whole.layers if isinstance(v, keras.layers.BatchNormalization)]
    freeze(whole, tail, "train")
    assert any(norm.trainable for norm in moving)


def test_a_foreign_file_under_the_real_ones_name_is_refused(tmp_path, monkeypatch):
    row = backbone("mobilenet", 0.25)
    (tmp_path / row.weights_file).write_bytes(b"x")
    monkeypatch.setenv("FINETUNE_WEIGHTS_DIR", str(tmp_path))
    with pytest.raises(IntegrityError, match="its sha256 is"):
        load_weights(build_base("mobilenet", 32, alpha=0.25), "mobilenet", "imagenet", 0.25)


def test_alpha_is_for_those_that_have_it():
    assert 0.25 in alphas("mobilenet")
    assert alphas("vgg16") == ()
    with pytest.raises(UsageError, match="has no alpha"):
        backbone("vgg16", 0.5)
    with pytest.raises(UsageError, match="comes with alpha 0.25, 0.5"):
        backbone("mobilenet", 0.3)
    assert network("mobilenet", 0.25).count_params() < network("mobilenet").count_params() / 10


def test_more_blocks_than_there_are_is_a_usage_error():
    assert block_cut("mini-cnn", 2) == "stage1_pool"
    with pytest.raises(UsageError, match="mini-cnn has 3: allowed are 1 to 2"):
        block_cut("mini-cnn", 3)
