"""A classifier that also looks at each photo's mirror image, as layers of one flat Keras model.

Photo and mirror image pass as one batch twice as long, so that no layer is called twice, and every
format that exports the model carries it.
"""

import keras

from finetune.model.cut import find_cut
from finetune.model.heads import CLASSIFIER

_BOTH = "photo_and_mirror_image"


def mirrored(model: keras.Model) -> keras.Model:
    """The mean of a classifier's probabilities for a photo and for its mirror image.

    Args:
        model: a flat functional model, photos (n, h, w, 3) -> probabilities (n, classes).

    Returns:
        A flat model with the same input and output; its layers are the same, too.
    """
    photo = keras.Input(model.input.shape[1:], dtype=model.input.dtype, name=model.input.name)
    image = keras.ops.flip(photo, axis=2)
    both = keras.layers.Concatenate(axis=0, dtype=model.input.dtype, name=_BOTH)([photo, image])
    # The same layers once more, on the longer batch; the model, called, would be one layer.
    probabilities = keras.Function(model.inputs, model.outputs).call([both])[0]
    halves = keras.ops.split(probabilities, 2, axis=0)
    mean = keras.layers.Average(dtype="float32", name="mean_of_both")(halves)
    return keras.Model(photo, mean, name=model.name)


def unmirrored(model: keras.Model) -> keras.Model:
    """A model that was opened, for the photo alone; any other model is returned as it is."""
    if _BOTH not in [layer.name for layer in model.layers]:
        return model
    return keras.Model(find_cut(model, _BOTH), model.get_layer(CLASSIFIER).output)
