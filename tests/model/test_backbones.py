"""Preprocessing inside the model equals keras.applications', for all three backbones."""

import keras
import numpy as np
import pytest

from finetune.model.backbones import BACKBONES
from finetune.model.base import build_base

MODULES = {"vgg16": "vgg16", "resnet50": "resnet50", "densenet121": "densenet"}


@pytest.mark.parametrize("name", BACKBONES)
def test_preprocessing_equals_keras_applications_and_leaves_its_input_alone(name):
    base = build_base(name, 32)
    photos = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    photos[0], photos[1] = 0, 255
    untouched = photos.copy()
    ours = keras.Model(base.input, base.get_layer("preprocess").output).predict(photos, verbose=0)
    np.testing.assert_array_equal(photos, untouched)
    # preprocess_input changes float arrays in place: it is given a copy
    theirs = getattr(keras.applications, MODULES[name]).preprocess_input(photos.astype(np.float32))
    np.testing.assert_allclose(ours, theirs, atol=1e-5, rtol=1e-6)
    assert not np.allclose(ours, photos / 255.0, atol=0.1), "1/255 alone is what this must not be"


@pytest.mark.parametrize("name", BACKBONES)
def test_table_agrees_with_the_network(name):
    base = build_base(name, 64)
    row = BACKBONES[name]
    assert base.count_params() - base.get_layer("preprocess").count_params() == row.parameters
    assert base.output is base.get_layer(row.blocks[-1]).output
    assert [layer.name for layer in base.layers if layer.name in row.blocks] == list(row.blocks)
    assert base.get_layer("preprocess").trainable is False


def test_scale_only_is_one_over_255():
    base = build_base("vgg16", 32, preprocessing="scale-only")
    photos = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    ours = keras.Model(base.input, base.get_layer("preprocess").output)(photos)
    np.testing.assert_allclose(ours, photos / 255.0, atol=1e-6)
