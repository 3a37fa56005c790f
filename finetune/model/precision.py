"""The precision that a Keras model computes in; its weights are float32 in any."""

import re

import keras

# The names that stay in float32 whatever the rest computes in, also as ``ensemble.join`` numbers
# them: 8 bits of mantissa cannot hold 255 - mean to the last digit, and a softmax, or a mean of
# some, would lose the small probabilities.
EXACT = re.compile(r"(as_float|preprocess|classifier)(_\d+)?|weight_\d+|blend|mean_of_both")
_PROBABILITIES = ("softmax", "sigmoid")
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
        if not isinstance(layer, keras.Layer):
            return layer  # an operation, such as a sum: it has no state, and computes as it is fed
        config = layer.get_config()
        if not isinstance(layer, keras.layers.InputLayer):
            config |= {"dtype": "float32" if _is_exact(layer, model) else policy}
        return layer.__class__.from_config(config)

    copy = keras.models.clone_model(model, clone_function=clone, recursive=True)
    copy.set_weights(model.get_weights())
    return copy


def _is_exact(layer: keras.Layer, model: keras.Model) -> bool:
    """Whether it stays in float32: by its name, or as the probabilities of a foreign model."""
    activation = getattr(getattr(layer, "activation", None), "__name__", "")
    is_output = any(layer.output is tensor for tensor in model.outputs)
    return bool(EXACT.fullmatch(layer.name)) or (is_output and activation in _PROBABILITIES)
