"""RandAugment: a few operations drawn from a table, all with one strength.

Cubuk et al., RandAugment, NeurIPS 2020, arXiv:1909.13719. Keras's own layer draws from a state of
its own; here a view must be a function of its key, so that it can be stored and drawn again.
"""

import random
from collections.abc import Callable

from PIL import Image, ImageEnhance, ImageOps

LARGEST = 30.0  # strength on the scale of the paper
_OPERATIONS = 2  # for each view, its N
_FILL = (128, 128, 128)


def _affine(photo: Image.Image, *rows: float) -> Image.Image:
    return photo.transform(
        photo.size, Image.Transform.AFFINE, rows, Image.Resampling.BILINEAR, fillcolor=_FILL
    )


def _enhanced(kind: Callable, photo: Image.Image, by: float) -> Image.Image:
    return kind(photo).enhance(1 + 0.9 * by)


# Operation -> (photo, strength from -1 to 1) -> photo; those that know no direction take its size.
OPERATIONS: dict[str, Callable[[Image.Image, float], Image.Image]] = {
    "identity": lambda photo, by: photo,
    "shear-x": lambda photo, by: _affine(photo, 1, 0.3 * by, 0, 0, 1, 0),
    "shear-y": lambda photo, by: _affine(photo, 1, 0, 0, 0.3 * by, 1, 0),
    "translate-x": lambda photo, by: _affine(photo, 1, 0, 0.45 * by * photo.width, 0, 1, 0),
    "translate-y": lambda photo, by: _affine(photo, 1, 0, 0, 0, 1, 0.45 * by * photo.height),
    "rotate": lambda photo, by: photo.rotate(30 * by, Image.Resampling.BILINEAR, fillcolor=_FILL),
    "brightness": lambda photo, by: _enhanced(ImageEnhance.Brightness, photo, by),
    "colour": lambda photo, by: _enhanced(ImageEnhance.Color, photo, by),
    "contrast": lambda photo, by: _enhanced(ImageEnhance.Contrast, photo, by),
    "sharpness": lambda photo, by: _enhanced(ImageEnhance.Sharpness, photo, by),
    "posterize": lambda photo, by: ImageOps.posterize(photo, 8 - round(4 * abs(by))),
    "solarize": lambda photo, by: ImageOps.solarize(photo, round(256 * (1 - abs(by)))),
    "autocontrast": lambda photo, by: ImageOps.autocontrast(photo),
    "equalize": lambda photo, by: ImageOps.equalize(photo),
}


def randaugment(photo: Image.Image, strength: float, draw: random.Random) -> Image.Image:
    """Two operations of the table, one after the other.

    Args:
        photo: RGB.
        strength: 0 to ``LARGEST``, as a share of each operation's largest change.
        draw: what operations and directions are drawn from.
    """
    for _ in range(_OPERATIONS):
        operation = OPERATIONS[draw.choice([*OPERATIONS])]
        photo = operation(photo, draw.choice((-1, 1)) * strength / LARGEST)
    return photo
