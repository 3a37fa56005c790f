"""A training on all of a machine's GPUs: each step's batch is cut into equal parts.

Keras's own ``keras.distribution.DataParallel`` is not made for TensorFlow (its ``distribution_lib``
there begins with "DO NOT USE", and places nothing), so that it is ``tf.distribute``'s strategy,
which Keras's ``fit`` follows.
"""

import functools

import tensorflow as tf

from finetune.backend import devices


@functools.cache
def strategy() -> tf.distribute.Strategy:
    """Copies of the weights on all devices, their gradients summed; TensorFlow's default, which
    does nothing, where there is one device.
    """
    names = devices()
    return tf.distribute.MirroredStrategy(names) if len(names) > 1 else tf.distribute.get_strategy()
