"""Any functional model of keras.applications: found in its graph, preprocessed and loaded as Keras does it."""

import os
from pathlib import Path

import keras
import numpy as np
import pytest

from finetune.errors import IntegrityError, UsageError
from finetune.model import applications
from finetune.model.backbones import (
    BACKBONES,
    OURS,
    PREPROCESSING,
    alphas,
    backbone,
    build_base,
    is_backbone,
    known_backbones,
)
from finetune.model.cut import single_tensors, split
from finetune.model.heads import add_head
from finetune.model.network import audit, freeze, frozen_digests
from finetune.model.weights import base_arrays, load_weights, weights_digest

# One of each family: name, photo size
FAMILIES = {
    "mobilenet": 32,
    "mobilenetv2": 32,
    "mobilenetv3small": 32,
    "efficientnetb0": 32,
    "efficientnetv2b0": 32,
    "convnexttiny": 32,
    "xception": 71,
    "resnet50v2": 32,
}


def network(name: str, alpha: float = 1.0) -> keras.Model:
    base = build_base(name, FAMILIES[name], alpha=alpha)
    load_weights(base, name, "random", alpha)
    return base


def photos(name: str) -> np.ndarray:
    shape = (3, FAMILIES[name], FAMILIES[name], 3)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def test_every_function_of_keras_is_known_and_nothing_else():
    assert set(applications.functions()) <= set(known_backbones())
    assert is_backbone("mobilenet")
    assert not is_backbone("mobilnet")
    with pytest.raises(UsageError, match="no backbone 'mobilnet'; the nearest are mobilenet"):
        backbone("mobilnet")


@pytest.mark.parametrize("name", BACKBONES)
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


@pytest.mark.parametrize("name", ["mobilenet", "efficientnetv2b0"])
def test_the_stored_rows_are_what_the_graph_says(name):
    row = applications.derive(backbone(name).builder)
    stored = backbone(name)
    assert tuple(row["blocks"]) == stored.blocks
    assert row["parameters"] == stored.parameters
    assert {float(a): tuple(file) for a, file in row["weights"].items()} == stored.files


@pytest.mark.slow
@pytest.mark.parametrize("name", applications.functions())
def test_all_stored_rows_are_what_the_graph_says(name):
    assert applications.derive(applications.functions()[name])["blocks"] == backbone(name).blocks


@pytest.mark.parametrize("name", FAMILIES)
def test_the_invariants_hold(name):
    """Preprocessing, cuts, BatchNorm and the audit, with random weights."""
    base = network(name)
    row = backbone(name)
    pixels = photos(name)
    assert not base.get_layer("as_float").weights
    module = getattr(keras.applications, applications._module(row.builder))
    front = "preprocess" if row.preprocessing != PREPROCESSING["none"] else "as_float"
    ours = keras.Model(base.input, base.get_layer(front).output)(pixels)
    theirs = module.preprocess_input(pixels.astype(np.float32))
    np.testing.assert_allclose(ours, theirs, atol=1e-5, rtol=1e-6)

    whole = add_head(base, 3, "gap")
    expected = whole(pixels).numpy()
    assert set(row.blocks) <= set(single_tensors(whole))
    assert len(row.blocks) >= 4
    for cut in row.blocks:
        trunk, tail = split(whole, cut)
        np.testing.assert_allclose(tail(trunk(pixels)), expected, atol=1e-6, err_msg=cut)

    tail = split(whole, row.blocks[-2]).tail
    freeze(whole, tail, "frozen")
    digests = frozen_digests(whole)
    norms = [x for x in whole.layers if isinstance(x, keras.layers.BatchNormalization)]
    assert not any(norm.trainable for norm in norms)
    assert len(tail.trainable_variables) > 2, "the top block has something to train"
    tail.compile("sgd", "sparse_categorical_crossentropy")
    tail.fit(split(whole, row.blocks[-2]).trunk(pixels), np.arange(3), verbose=0)
    assert audit(whole, digests)["moved"] == 0


@pytest.mark.parametrize("name", FAMILIES)
def test_two_builds_have_the_same_names_and_weights(name):
    first, second = (network(name) for _ in range(2))
    assert [layer.name for layer in first.layers] == [layer.name for layer in second.layers]
    assert weights_digest(base_arrays(first)) == weights_digest(base_arrays(second))


@pytest.mark.parametrize("name", FAMILIES)
def test_it_reloads_in_plain_keras(name, tmp_path):
    whole = add_head(network(name), 2, "gap")
    whole.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras", compile=False, safe_mode=True)
    np.testing.assert_allclose(again(photos(name)), whole(photos(name)), atol=1e-6)


@pytest.mark.parametrize("name", ["mobilenetv2", "efficientnetb0", "convnexttiny", "xception"])
def test_imagenet_weights_are_loaded_as_keras_loads_them(name, tmp_path, monkeypatch):
    """A file of random weights under Keras's name: our network and Keras's own compute the same from it."""
    row = backbone(name)
    size = FAMILIES[name]
    keras.utils.set_random_seed(0)
    builder = getattr(keras.applications, row.builder)
    theirs = builder(include_top=False, weights=None, input_shape=(size, size, 3))
    rng = np.random.default_rng(0)
    for layer in theirs.layers:
        # beyond 0: a variance is among them
        layer.set_weights(
            [v + rng.uniform(0, 0.05, v.shape).astype(v.dtype) for v in layer.get_weights()]
        )
    path = tmp_path / row.weights_file
    theirs.save_weights(tmp_path / "x.weights.h5")
    (tmp_path / "x.weights.h5").rename(path)
    keras_file = tmp_path / "of_keras.weights.h5"

    def get_file(*_, **__):
        return str(keras_file)

    monkeypatch.setattr("keras.src.utils.file_utils.get_file", get_file)
    if (
        name == "efficientnetb0"
    ):  # one more layer without weights: the numbering of classes is the same
        keras_file.symlink_to(path)
    else:
        path_copy = keras_file
        path_copy.write_bytes(path.read_bytes())
    theirs = builder(include_top=False, weights="imagenet", input_shape=(size, size, 3))
    monkeypatch.setenv("FINETUNE_WEIGHTS_DIR", str(tmp_path))
    monkeypatch.setattr("finetune.model.weights.backbone", lambda *_: _unpinned(row))
    ours = build_base(name, size)
    load_weights(ours, name, "imagenet")
    pixels = photos(name)
    module = getattr(keras.applications, applications._module(row.builder))
    expected = theirs(module.preprocess_input(pixels.astype(np.float32))).numpy()
    assert np.abs(expected).max() > 0
    np.testing.assert_allclose(
        ours(pixels), expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max()
    )


def _unpinned(row):
    from dataclasses import replace

    return replace(row, weights_hash="")


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
