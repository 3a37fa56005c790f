"""A tail that learns in bfloat16 keeps float32 weights and gives them back."""

import keras
import numpy as np

from finetune.model.base import build_base
from finetune.model.cut import split
from finetune.model.ensemble import audit, join
from finetune.model.heads import add_head
from finetune.model.network import freeze
from finetune.model.precision import computing_in


def test_a_copy_computes_in_bfloat16_and_its_weights_go_back():
    whole = add_head(build_base("mini-densenet", 32), 2, "gap")
    tail = split(whole, "stage2_pool").tail
    freeze(whole, tail, "frozen")
    copy = computing_in(tail, "bfloat16")
    assert {weight.dtype for weight in copy.weights} == {"float32"}
    assert copy.get_layer("classifier").compute_dtype == "float32"
    assert copy.get_layer("stage3_unit1_conv").compute_dtype == "bfloat16"
    assert [w.path.split("/")[0] for w in copy.trainable_weights] == [
        w.path.split("/")[0] for w in tail.trainable_weights
    ]
    maps = np.random.default_rng(0).normal(size=(4, *tail.input.shape[1:])).astype(np.float32)
    np.testing.assert_allclose(
        copy.predict(maps, verbose=0), tail.predict(maps, verbose=0), atol=0.05
    )
    copy.compile("adam", "sparse_categorical_crossentropy", jit_compile=False)
    copy.fit(maps, np.array([0, 1, 0, 1]), verbose=0)
    tail.set_weights(copy.get_weights())
    assert {layer.compute_dtype for layer in whole.layers if layer.weights} == {"float32"}


def test_operations_that_are_no_layers_are_copied_and_joined_with_their_numbers():
    """MobileNetV3 writes x + 3 and x * (1/6) as such."""
    models = []
    for seed in (1, 2):
        keras.utils.set_random_seed(seed)
        models.append(add_head(build_base("mobilenetv3small", 32), 2, "gap"))
    photos = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    expected = models[0].predict(photos, verbose=0)
    same = computing_in(models[0], "float32")
    np.testing.assert_allclose(same.predict(photos, verbose=0), expected, atol=1e-6)
    coarse = computing_in(models[0], "bfloat16").predict(photos, verbose=0)
    np.testing.assert_allclose(coarse, expected, atol=0.05)
    joined = join(models, (0.5, 0.5))
    assert audit(joined, models, (0.5, 0.5)) < 1e-6


def test_what_an_ensemble_ends_in_stays_in_float32():
    models = [add_head(build_base("mini-cnn", 32), 2, "gap", dropout=0) for _ in range(2)]
    copy = computing_in(join(models, (0.5, 0.5)), "bfloat16")
    for name in ("preprocess_2", "classifier_2", "weight_1", "weight_2", "blend"):
        found = [layer for layer in copy.layers if layer.name == name]
        assert [layer.compute_dtype for layer in found] == ["float32"] * len(found), name
    assert copy.get_layer("blend").compute_dtype == "float32"
    photo = keras.Input((4,))
    foreign = keras.Model(photo, keras.layers.Dense(2, activation="softmax", name="top")(photo))
    assert computing_in(foreign, "bfloat16").get_layer("top").compute_dtype == "float32"
