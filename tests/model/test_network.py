"""What learns and what does not; and the saved model on its own."""

import subprocess
import sys
from contextlib import nullcontext
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from conftest import NETWORKS

from finetune.errors import IntegrityError
from finetune.model.network import audit, build_network, freeze, frozen_digests
from finetune.training.batches import Batches, read_views
from finetune.training.fit import Settings, fit

PHOTOS = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), dtype=np.uint8)
LABELS = np.arange(8, dtype=np.int32) % 2


CUTS = {
    "cached-features": {
        "vgg16": "block5_pool",
        "resnet50": "conv5_block3_out",
        "densenet121": "relu",
    },
    "top-blocks": {
        "vgg16": "block4_pool",
        "resnet50": "conv4_block6_out",
        "densenet121": "pool4_pool",
    },
    "full": dict.fromkeys(("vgg16", "resnet50", "densenet121"), "photo"),
}


def network(backbone, strategy="top-blocks", **settings):
    cut = CUTS[strategy][backbone]
    return build_network(
        backbone, 32, 2, **{"weights": "random", "pool": "gap", "cut": cut, **settings}
    )


def statistics(model):
    return {
        v.path: v.numpy()
        for layer in model.layers
        if isinstance(layer, keras.layers.BatchNormalization)
        for v in layer.non_trainable_weights[-2:]
    }


@pytest.mark.parametrize("backbone", NETWORKS[1:])
def test_batchnorm_statistics_do_not_move_in_unfrozen_blocks(backbone):
    """`trainable = False` on the layer protects them. `base(x, training=False)` would not: see the
    next test.
    """
    net = network(backbone)
    rows = keras.Model(net.whole.input, net.whole.get_layer(net.cut).output).predict(
        PHOTOS, verbose=0
    )
    before, digests = statistics(net.whole), frozen_digests(net.whole)
    kernels = [
        layer.kernel.numpy() for layer in net.tail.layers if isinstance(layer, keras.layers.Conv2D)
    ]
    data = [Batches(read_views([rows]), LABELS, 4, seed) for seed in (0, None)]
    fit(net.tail, *data, Settings(epochs=3, patience=3, batch_size=4, learning_rate=1e-4), "tail")
    after = statistics(net.whole)
    for path in before:
        np.testing.assert_array_equal(before[path], after[path], err_msg=path)
    moved = [
        layer.kernel.numpy() for layer in net.tail.layers if isinstance(layer, keras.layers.Conv2D)
    ]
    assert any((a != b).any() for a, b in zip(kernels, moved, strict=True)), (
        "the blocks must have learned something"
    )
    assert audit(net.whole, digests) == {"frozen": len(digests), "moved": 0}


def test_calling_a_base_with_training_false_does_not_protect_batchnorm_in_keras_3():
    """The trap itself: this documents why `freeze` sets the flag on the layers. If it fails, Keras
    has changed.
    """
    inner = keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(4), keras.layers.BatchNormalization()]
    )
    base = keras.Model(inner.inputs[0], inner.outputs[0])
    x = keras.Input((4,))
    model = keras.Model(x, keras.layers.Dense(1)(base(x, training=False)))
    norm = inner.layers[-1]
    before = norm.moving_mean.numpy()
    model.compile("sgd", "mse")
    rows = np.random.default_rng(0).normal(3, 1, (32, 4))
    model.fit(rows, rows[:, :1], verbose=0)
    moved = (norm.moving_mean.numpy() != before).any()
    norm.trainable = False
    model.compile("sgd", "mse")
    before = norm.moving_mean.numpy()
    model.fit(rows, rows[:, :1], verbose=0)
    assert moved
    np.testing.assert_array_equal(norm.moving_mean.numpy(), before)


@pytest.mark.parametrize("backbone", NETWORKS)
@pytest.mark.parametrize("strategy", ["cached-features", "top-blocks", "full"])
def test_exactly_what_the_strategy_says_learns(backbone, strategy):
    net = network(backbone, strategy=strategy)
    learning = {v.path.split("/")[0] for v in net.tail.trainable_variables}
    assert not {v.path for v in net.whole.trainable_variables} - {
        v.path for v in net.tail.trainable_variables
    }
    assert "preprocess" not in learning
    if strategy == "cached-features":
        assert learning == {"classifier"}
    norms = {
        layer.name
        for layer in net.whole.layers
        if isinstance(layer, keras.layers.BatchNormalization)
    }
    assert not learning & norms
    if strategy == "top-blocks":
        assert learning > {"classifier"}
        freeze(net.whole, net.tail, "train")
        assert (
            norms == set() or {v.path.split("/")[0] for v in net.tail.trainable_variables} & norms
        )


def test_the_audit_names_what_moved():
    net = network("vgg16")
    before = frozen_digests(net.whole)
    kernel = net.whole.get_layer("block2_conv1").kernel
    values = kernel.numpy()
    values[0, 0, 0, 0] = np.nextafter(values[0, 0, 0, 0], 1)
    kernel.assign(values)
    with pytest.raises(
        IntegrityError, match="1 of .* frozen variables changed.*block2_conv1/kernel"
    ) as caught:
        audit(net.whole, before)
    assert caught.value.exit_code == 4


@pytest.mark.parametrize("backbone", NETWORKS)
def test_the_saved_model_stands_alone(tmp_path, backbone):
    """Raw uint8 photos in, the same probabilities out, in a process that never imports finetune, in
    safe mode.
    """
    net = network(backbone, pool="flatten", hidden=4, dropout=0.5)
    net.whole.save(tmp_path / "model.keras")
    np.save(tmp_path / "photos.npy", PHOTOS)
    script = (
        "import sys, numpy as np, keras\n"
        "model = keras.saving.load_model('model.keras', safe_mode=True)\n"
        "assert model.input.dtype == 'uint8'\n"
        "np.save('found.npy', model(np.load('photos.npy')).numpy())\n"
        "assert not any(name.split('.')[0] == 'finetune' for name in sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = np.load(tmp_path / "found.npy")
    np.testing.assert_allclose(found, net.whole(PHOTOS).numpy(), atol=1e-5)


def test_a_tail_trained_in_bfloat16_is_a_copy_whose_weights_and_dropout_are_its_own():
    net = network("vgg16", dropout=0.5, precision="bfloat16")
    assert net.trained_copy("float32", 3) is net.tail
    copy = net.trained_copy("bfloat16", 3)
    assert copy is net.trained_copy("bfloat16", 3), "made once, so that it is traced once"
    two = SimpleNamespace(num_replicas_in_sync=2, scope=nullcontext)
    assert net.trained_copy("bfloat16", 3, two) is not copy, "one lives on all devices, one on one"
    assert copy.get_layer("block5_conv1").compute_dtype == "bfloat16"
    assert net.whole.get_layer("block5_conv1").compute_dtype == "float32"
    assert copy.get_layer("dropout").seed_generator.state.numpy().tolist() == [3, 0]
    for a, b in zip(copy.get_weights(), net.tail.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_reset_network_is_the_one_that_was_built():
    net = network("vgg16", hidden=4, dropout=0.5, seed=3)
    first = [variable.numpy() for variable in net.whole.variables]
    for layer in net.tail.layers:
        layer.set_weights([weight + 1 for weight in layer.get_weights()])
    net.reset(4)
    assert any((a != b.numpy()).any() for a, b in zip(first, net.whole.variables, strict=True))
    net.reset(3)
    for before, variable in zip(first, net.whole.variables, strict=True):
        np.testing.assert_array_equal(before, variable.numpy(), err_msg=variable.path)
    again = network("vgg16", hidden=4, dropout=0.5, seed=3)
    for before, variable in zip(first, again.whole.variables, strict=True):
        np.testing.assert_array_equal(before, variable.numpy(), err_msg=variable.path)


def test_a_head_s_seed_leaves_the_backbone_as_it_was_loaded():
    """ConvNeXt's pointwise convolutions are dense layers, too."""
    kept = []
    for seed in (0, 1):
        settings = {"weights": "random", "pool": "gap", "cut": "photo", "seed": seed}
        network = build_network("convnexttiny", 32, 2, **settings)
        dense = [layer for layer in network.whole.layers if isinstance(layer, keras.layers.Dense)]
        kept.append([layer.get_weights()[0] for layer in dense])
    *of_base, (first, second) = zip(*kept, strict=True)
    assert len(of_base) > 10
    assert all((one == other).all() for one, other in of_base)
    assert (first != second).any(), "the classifier is drawn from the seed"
