"""The controls: their rows, their blocks, and that they learn from scratch what a linear model
cannot.
"""

import keras
import numpy as np
import pytest

from finetune.errors import UsageError
from finetune.model.applications import find_blocks
from finetune.model.backbones import CONTROLS, OURS, backbone
from finetune.model.base import build_base
from finetune.model.cut import single_tensors, split
from finetune.model.heads import add_head
from finetune.model.weights import load_weights


@pytest.mark.parametrize("name", CONTROLS)
def test_rows_agree_with_the_networks(name):
    base = build_base(name, 28)
    ours = sum(layer.count_params() for layer in base.layers if layer.name in OURS)
    assert base.count_params() - ours == backbone(name).parameters
    assert set(backbone(name).blocks) <= set(single_tensors(base))
    if name != "mini-resnet":  # whose blocks end before the next one's pre-activation
        assert find_blocks(build_base(name, 224)) == backbone(name).blocks
    front = keras.Model(base.input, base.get_layer("preprocess").output)
    white = np.full((1, 28, 28, 3), 255, np.uint8)
    if name != "resnet50-v1.5":  # which has torchvision's preprocessing
        np.testing.assert_allclose(front(white), 1.0, rtol=1e-6)


@pytest.mark.parametrize("name", CONTROLS)
def test_tail_of_trunk_is_the_model(name):
    base = build_base(name, 28)
    load_weights(base, name, "random")
    whole = add_head(base, 10, "gap")
    pixels = np.random.default_rng(0).integers(0, 256, (2, 28, 28, 3), dtype=np.uint8)
    for cut in backbone(name).blocks:
        trunk, tail = split(whole, cut)
        np.testing.assert_allclose(tail(trunk(pixels)), whole(pixels), atol=1e-6)


def test_resnet34_is_the_published_one():
    """21.8 million parameters with 1,000 classes (He et al., table 1 of torchvision)."""
    whole = add_head(build_base("resnet34", 32), 1000, "gap")
    trainable = sum(np.prod(v.shape) for v in whole.trainable_variables)
    assert abs(trainable - 21_797_672) < 20_000


def test_the_cnn_brings_its_own_head():
    head = backbone("mini-cnn").head
    whole = add_head(build_base("mini-cnn", 28), 10, **head)
    assert [layer.name for layer in whole.layers[-6:]] == [
        "flatten", "hidden", "dropout", "hidden_2", "dropout_2", "classifier",
    ]  # fmt: skip
    assert whole.get_layer("hidden").units == 128
    assert whole.get_layer("dropout_2").rate == 0.5


def test_a_control_has_no_imagenet_weights_and_no_imagenet_top():
    base = build_base("mini-cnn", 28)
    with pytest.raises(UsageError, match="--weights random"):
        load_weights(base, "mini-cnn", "imagenet")
    with pytest.raises(UsageError, match="leave --top out"):
        build_base("mini-cnn", 28, top=True)


@pytest.mark.parametrize(
    "name", ["mini-resnet", pytest.param("mini-densenet", marks=pytest.mark.slow)]
)
def test_it_learns_from_scratch(name):
    """Stripes along against stripes across, at any phase: no linear model of the pixels tells them
    apart.
    """
    rng = np.random.default_rng(0)
    labels = np.arange(64) % 2
    wave = np.sin(np.arange(28)[None] * 1.2 + rng.uniform(0, 6.28, (64, 1))) * 100 + 128
    across = np.repeat(wave[:, None], 28, axis=1)
    pixels = np.where(labels[:, None, None], across, across.transpose(0, 2, 1))
    pixels = np.repeat(pixels[..., None], 3, axis=3).astype(np.uint8)
    base = build_base(name, 28)
    load_weights(base, name, "random")
    keras.utils.set_random_seed(0)
    whole = add_head(base, 2, "gap")
    whole.compile(keras.optimizers.Adam(3e-3), "sparse_categorical_crossentropy")
    losses = whole.fit(pixels, labels, batch_size=16, epochs=6, verbose=0).history["loss"]
    assert losses[-1] < 0.2
