"""A backbone as a Keras model that takes raw photos; importing this needs no TensorFlow yet."""

from finetune.errors import UsageError
from finetune.model.backbones import CONTROLS, INPUT, alphas, backbone
from finetune.model.preprocessing import PREPROCESSING


def build_base(
    name: str,
    image_size: int,
    *,
    alpha: float = 1.0,
    preprocessing: str = "backbone",
    top: bool = False,
):
    """Build a backbone that takes raw photos, its preprocessing inside, without loading weights.

    All preprocessings are affine per pixel, so one frozen 1x1 convolution expresses any of them,
    the swap to BGR included. It stands before the network and not inside its first convolution,
    whose zero padding must pad preprocessed pixels.

    Args:
        name: one of ``known_backbones()``.
        image_size: side of the square photos in pixels.
        alpha: width multiplier, see ``backbone``.
        preprocessing: ``backbone``, or ``scale-only`` for 1/255 in its place.
        top: with the classifier of ImageNet's 1,000 classes.

    Returns:
        A flat functional ``keras.Model``: uint8 (n, image_size, image_size, 3) RGB -> float32 (n,
        h, w, channels), or (n, 1000) with ``top``.

    Raises:
        UsageError: no such backbone or alpha; a control has no classifier of its own, and a
            backbone with its preprocessing inside takes no other.
    """
    import keras
    from keras.src.utils.naming import reset_uids

    from finetune.model import minis

    row = backbone(name, alpha)
    wanted = row.preprocessing if preprocessing == "backbone" else PREPROCESSING[preprocessing]
    # Some layers are named by a counter: the same backbone has the same names in every build
    reset_uids()
    photo = keras.Input((image_size, image_size, 3), dtype="uint8", name=INPUT)
    # float32 under any dtype policy: float16 cannot hold 255 - mean to the last digit.
    pixels = keras.layers.Rescaling(1.0, dtype="float32", name="as_float")(photo)
    if row.preprocessing != PREPROCESSING["none"]:
        affine = keras.layers.Conv2D(3, 1, trainable=False, dtype="float32", name="preprocess")
        pixels = affine(pixels)
        affine.set_weights(wanted.affine())
    elif wanted != row.preprocessing:
        raise UsageError(f"{name} has its preprocessing inside: leave `preprocessing` out.")
    if name in CONTROLS:
        if top:
            raise UsageError(f"{name} has no ImageNet classifier: leave --top out.")
        return keras.Model(photo, getattr(minis, row.builder)(pixels), name=name)
    width = {"alpha": alpha} if alphas(name) else {}
    network = getattr(keras.applications, row.builder)(
        include_top=top, weights=None, input_tensor=pixels, **width
    )
    return keras.Model(photo, network.output, name=name)
