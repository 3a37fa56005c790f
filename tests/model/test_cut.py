"""The central invariant: tail(trunk(x)) == model(x) at every cut of every backbone."""

import keras
import numpy as np
import pytest

from finetune.errors import UsageError
from finetune.model.backbones import BACKBONES, INPUT
from finetune.model.base import build_base
from finetune.model.cut import find_cut, single_tensors, split
from finetune.model.heads import add_head
from finetune.model.weights import load_weights

PHOTOS = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)


@pytest.fixture(scope="module", params=BACKBONES)
def model(request) -> tuple[str, keras.Model]:
    base = build_base(request.param, 64)
    load_weights(base, request.param, "random")
    keras.utils.set_random_seed(0)
    whole = add_head(base, 3, "gap", dropout=0.5)
    # random features can be large: scaled to 1, so that the softmax does not saturate and hide
    # differences
    classifier, features = (
        whole.get_layer("classifier"),
        keras.Model(whole.input, whole.get_layer("gap").output)(PHOTOS),
    )
    kernel, bias = classifier.get_weights()
    classifier.set_weights([kernel / np.abs(features.numpy()).max(), bias])
    return request.param, whole


def test_tail_of_trunk_is_the_model_at_every_block(model):
    name, whole = model
    expected = whole(PHOTOS).numpy()
    assert expected.std(axis=0).max() > 1e-4, (
        "a network whose output does not depend on the photo proves nothing"
    )
    for cut in (INPUT, *BACKBONES[name].blocks):
        trunk, tail = split(whole, cut)
        activations = PHOTOS if trunk is None else trunk(PHOTOS)
        np.testing.assert_allclose(
            tail(activations), expected, atol=1e-6, err_msg=f"{name} cut at {cut}"
        )


def test_tail_of_trunk_is_the_model_at_every_other_cut(model):
    """All single tensors, not only block boundaries; the activations of all are computed in one
    pass.
    """
    name, whole = model
    cuts = single_tensors(whole)
    expected = whole(PHOTOS).numpy()
    taken = list(cuts)[1 : -1 : {"vgg16": 1, "resnet50": 4}.get(name, 12)]
    crossing = keras.Model(whole.input, [cuts[cut] for cut in taken])(PHOTOS)
    for cut, activations in zip(taken, crossing, strict=True):
        np.testing.assert_allclose(
            split(whole, cut).tail(activations), expected, atol=1e-6, err_msg=f"{name} cut at {cut}"
        )


def test_block_boundaries_are_cuts_in_order_and_branches_are_not(model):
    name, whole = model
    cuts = list(single_tensors(whole))
    positions = [cuts.index(block) for block in BACKBONES[name].blocks]
    assert positions == sorted(positions)
    beside = {
        "resnet50": ["conv2_block1_0_conv", "conv2_block1_1_conv"],
        "densenet121": ["conv2_block1_1_conv"],
    }
    for branch in beside.get(name, []):
        assert branch not in cuts
        with pytest.raises(UsageError, match="other paths of the network pass it by"):
            find_cut(whole, branch)


def test_densenets_last_norm_belongs_to_its_top_block(model):
    name, whole = model
    if name == "densenet121":
        above = [layer.name for layer in split(whole, "pool4_pool").tail.layers]
        assert {"bn", "relu", "conv5_block1_0_bn"} <= set(above)


def test_trunk_and_tail_share_their_layers_with_the_model(model):
    name, whole = model
    trunk, tail = split(whole, BACKBONES[name].blocks[-2])
    for layer in [*trunk.layers[1:], *tail.layers[1:]]:
        assert whole.get_layer(layer.name) is layer
    names = [layer.name for layer in [*trunk.layers, *tail.layers[1:]]]
    assert sorted(names) == sorted(layer.name for layer in whole.layers), (
        "every layer is on exactly one side"
    )


def test_unknown_cut_names_the_nearest(model):
    name, whole = model
    typo = BACKBONES[name].blocks[2] + "x"
    with pytest.raises(UsageError, match=f"no layer '{typo}'.*{BACKBONES[name].blocks[2]}"):
        find_cut(whole, typo)
