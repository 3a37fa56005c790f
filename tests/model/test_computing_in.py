"""A tail that learns in bfloat16 keeps float32 weights and gives them back."""

import numpy as np

from finetune.model.base import build_base
from finetune.model.cut import split
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
