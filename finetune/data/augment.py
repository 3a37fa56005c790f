"""Random views of a photo: a pure function of (pixels, settings, key), which can be stored."""

import math
import random
from collections.abc import Mapping

import numpy as np
from PIL import Image, ImageEnhance

from finetune.data.randaugment import randaugment

# Part of every store key of augmented activations: raise it when any pixel that this module returns
# changes.
AUGMENT_VERSION = 2

NONE = {
    "flip": False,
    "rotation": 0.0,
    "zoom": 0.0,
    "shear": 0.0,
    "translation": 0.0,
    "contrast": 0.0,
    "randaugment": 0.0,
    "erasing": 0.0,
}
_ERASED = (0.02, 0.33)  # share of the photo, and
_RATIO = 3.3  # largest ratio of sides, of Zhong et al., Random Erasing, arXiv:1708.04896
PRESETS = {
    "none": NONE,
    "light": NONE | {"flip": True, "rotation": 10.0, "zoom": 0.1, "translation": 0.05},
}


def augment(photo: np.ndarray, settings: Mapping[str, float | bool], key: str) -> np.ndarray:
    """One random view of a photo.

    Args:
        photo: uint8 array (size, size, 3), RGB.
        settings: ``flip`` (mirror half of the views), ``rotation`` and ``shear`` (largest angle,
        degrees), ``zoom``,
            ``translation`` and ``contrast`` (largest change, as a fraction of scale, side and
            contrast), ``randaugment`` (strength, see ``randaugment.randaugment``), ``erasing``
            (share of the views in which a rectangle is replaced by noise).
        key: what the view is drawn from; the same key gives the same view on every machine.

    Returns:
        uint8 array (size, size, 3). Pixels from beyond the border are mirrored in.
    """
    # random.Random seeds from the text itself and its stream is stable between Python versions;
    # numpy promises neither.
    draw = random.Random(key)
    inverse = _inverse_affine(settings, draw)
    contrast = 1 + draw.uniform(-1, 1) * settings["contrast"]

    size = photo.shape[0]
    # How far from its centre, in sides, the view looks along each axis: half a side is the photo.
    reach = (np.abs(inverse[:, :2]).sum(axis=1) / 2 + np.abs(inverse[:, 2])).max()
    edge = size * max(1, math.ceil(reach - 0.5))
    padded = Image.fromarray(np.pad(photo, ((edge, edge), (edge, edge), (0, 0)), mode="symmetric"))
    shift = (np.eye(2) - inverse[:, :2]) @ np.full(2, size / 2) + inverse[:, 2] * size + edge
    coefficients = (*inverse[0, :2], shift[0], *inverse[1, :2], shift[1])
    view = padded.transform(
        (size, size), Image.Transform.AFFINE, coefficients, Image.Resampling.BILINEAR
    )
    if contrast != 1:
        view = ImageEnhance.Contrast(view).enhance(contrast)
    if settings["randaugment"]:
        view = randaugment(view, settings["randaugment"], draw)
    if draw.random() < settings["erasing"]:
        return _erased(np.array(view), draw)
    return np.asarray(view)


def _erased(view: np.ndarray, draw: random.Random) -> np.ndarray:
    """The view with a rectangle of noise."""
    size = view.shape[0]
    area = draw.uniform(*_ERASED) * size**2
    ratio = _RATIO ** draw.uniform(-1, 1)
    height, width = (max(1, min(size, round((area * by) ** 0.5))) for by in (ratio, 1 / ratio))
    top, left = draw.randrange(size - height + 1), draw.randrange(size - width + 1)
    noise = np.frombuffer(draw.randbytes(height * width * 3), np.uint8)
    view[top : top + height, left : left + width] = noise.reshape(height, width, 3)
    return view


def _inverse_affine(settings: Mapping[str, float | bool], draw: random.Random) -> np.ndarray:
    """(2, 3) matrix from view to photo about the centre; its last column is in sides."""
    angle, shear = (
        np.deg2rad(draw.uniform(-1, 1) * settings[name]) for name in ("rotation", "shear")
    )
    zoom = 1 + draw.uniform(-1, 1) * settings["zoom"]
    mirror = -1 if draw.random() < 0.5 and settings["flip"] else 1
    move = [[draw.uniform(-1, 1) * settings["translation"]] for _ in range(2)]
    rotate = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    linear = rotate @ [[1, np.tan(shear)], [0, 1]] @ np.diag([mirror, 1]) / zoom
    return np.hstack([linear, move])
