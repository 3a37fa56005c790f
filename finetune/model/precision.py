"""The precision that a Keras model computes in; its weights are float32 in any."""

import keras

# The names that stay in float32 whatever the rest computes in: 8 bits of mantissa cannot hold 255 -
# mean to the last # digit, and a softmax would lose the small probabilities.
EXACT = ("as_float", "preprocess", "classifier")
POLICIES = {"float32": "float32", "bfloat16": "mixed_bfloat16"}


def computing_in(model: keras.Model, precision: str) -> keras.Model:
    """A copy of a functional model that computes in another precision, with weights of its own.

    To train a tail in bfloat16 and save it in float32: ``fit`` the copy, then
    ``tail.set_weights(copy.get_weights())``. Under a mixed policy Keras keeps variables, and so the
    optimizer's steps, in float32 and casts them for each step.

    Args:
        model: built under any dtype policy; its ``trainable`` flags are kept.
        precision: a key of ``POLICIES``.
    """
    policy = POLICIES[precision]

    def clone(layer: keras.Layer) -> keras.Layer:
        config = layer.get_config()
        if not isinstance(layer, keras.layers.InputLayer):
            config |= {"dtype": "float32" if layer.name in EXACT else policy}
        return layer.__class__.from_config(config)

    copy = keras.models.clone_model(model, clone_function=clone)
    copy.set_weights(model.get_weights())
    return copy
