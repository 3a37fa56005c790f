"""Animals as shapes in coordinates of their own, x to the right and y down. Forms are known here, species are not."""

import random
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from finetune.data.curves import blob, curve, ellipse, rotation, tube


class Shape(NamedTuple):
    """Points (n, 2) and the name of a paint: a closed outline; with the paint "" an open line in ink."""

    points: np.ndarray
    paint: str


# An animal but for its head: its shapes from back to front, and the centre and the radius of the head to come.
Body = tuple[list[Shape], tuple[float, float], float]


def animal_shapes(draw: random.Random, catlike: Mapping[str, bool]) -> list[Shape]:
    """Draw an animal in a random pose.

    Args:
        draw: where all choices come from.
        catlike: of each cue of `sketches.CUES`, whether its cat-like form is to be drawn.

    Returns:
        Its shapes from back to front.
    """
    shapes, neck, radius = draw.choice(POSES)(draw, catlike)
    tilt = rotation(draw.uniform(-0.25, 0.25)) * radius * draw.uniform(0.9, 1.15)
    return shapes + [Shape(points @ tilt + neck, paint) for points, paint in _head(draw, catlike)]


def _pair(points: np.ndarray, paint: str, axis: float = 0.0) -> list[Shape]:
    """A shape given relative to a vertical axis, and its mirror image."""
    return [Shape(points * (side, 1) + (axis, 0), paint) for side in (-1, 1)]


def _head(draw: random.Random, catlike: Mapping[str, bool]) -> list[Shape]:
    """A head of radius 1 about the origin, turned a little to a side."""
    turn = draw.uniform(-0.9, 0.9)
    rx, ry = (
        (1.08, draw.uniform(0.78, 0.88))
        if catlike["wide face"]
        else (0.82, draw.uniform(0.92, 1.02))
    )
    half = np.array([(0.45, -1.1), (0.95, -0.75), (1.05, 0), (1.02, 0.6), (0.5, 1.08)]) * (rx, ry)
    face = [Shape(blob(*half, *(half * (-1, 1))[::-1]), "coat")]
    if draw.random() < 0.3:
        x = turn * 0.25
        face.append(
            Shape(blob((x - 0.1, -ry), (x + 0.1, -ry), (x + 0.3, 0.5), (x - 0.3, 0.5)), "light")
        )
    features = _eyes(draw, turn * 0.22, catlike["almond eyes"]) + _muzzle(draw, turn, catlike)
    if catlike["pricked ears"]:
        tip = (rx * draw.uniform(0.75, 1), -ry - draw.uniform(0.6, 0.85))
        ear = np.array([(0.12, -ry * 0.8), tip, (rx, -ry * 0.2)])
        lining = (ear - ear.mean(axis=0)) * 0.6 + ear.mean(axis=0)
        return (
            _pair(ear, "coat")
            + _pair(lining, draw.choice(("pink", "dark", "light")))
            + face
            + features
        )
    low, out = ry * draw.uniform(0.4, 1.1), rx + draw.uniform(0.15, 0.35)
    ear = blob(
        (rx * 0.45, -1),
        (rx, -0.9),
        (out, -0.1),
        (out + 0.05, low),
        (rx * 0.9, low),
        (rx * 0.75, -0.3),
    )
    return face + _pair(ear, draw.choice(("coat", "dark", "dark"))) + features


def _eyes(draw: random.Random, axis: float, almond: bool) -> list[Shape]:
    x, y, size = draw.uniform(0.38, 0.46), draw.uniform(-0.22, -0.08), draw.uniform(0.17, 0.22)
    if draw.random() < 0.12:
        return _pair(curve((x - size, y), (x, y + size), (x + size, y)), "", axis)
    if almond:
        lids = blob(
            (x - 1.4 * size, y + 0.08),
            (x, y - 1.2 * size),
            (x + 1.5 * size, y - 0.14),
            (x, y + 1.2 * size),
        )
        slit = ellipse(x, y, draw.choice((0.045, 0.045, 0.09)), size * 0.75)
        return _pair(lids, "iris", axis) + _pair(slit, "ink", axis)
    ball, pupil = ellipse(x, y, size, size), ellipse(x, y, 0.75 * size, 0.8 * size)
    glint = ellipse(x, y - 0.06, 0.04, 0.04)
    return (
        _pair(ball, draw.choice(("iris", "white")), axis)
        + _pair(pupil, "ink", axis)
        + _pair(glint, "white", axis)
    )


def _muzzle(draw: random.Random, turn: float, catlike: Mapping[str, bool]) -> list[Shape]:
    """Snout, tongue, mouth, whiskers and nose; a long snout points to where the head is turned."""
    length = draw.uniform(0, 0.2) if catlike["short muzzle"] else draw.uniform(0.6, 1)
    x, y, wide, high = (
        turn * (0.25 + 0.7 * length),
        0.32 + 0.25 * length,
        0.36 + 0.1 * length,
        0.22 + 0.2 * length,
    )
    top = y - 0.45 * high
    bridge = Shape(tube(curve((turn * 0.1, 0), (turn * 0.3, 0.15), (x, y)), 0.3, wide), "coat")
    tongue = Shape(ellipse(x, y + high + 0.12, 0.15, 0.26), "tongue")
    snout = Shape(ellipse(x, y + 0.08, wide, high), draw.choice(("light", "light", "coat")))
    mouth = _pair(curve((0, top + 0.1), (0, y + 0.1), (wide * 0.6, y + 0.1)), "", x)
    whiskers = [
        curve((0.25, y + 0.06 * k), (0.6, y - 0.05 + 0.1 * k), (1.1, y + 0.17 * k))
        for k in (-1, 0, 1)
    ]
    if catlike["small nose"]:
        nose = np.array([(-0.12, 0), (0.12, 0), (0.03, 0.13), (-0.03, 0.13)])
    else:
        nose = blob((-0.27, -0.15), (0.27, -0.15), (0.17, 0.18), (-0.17, 0.18))
    shapes = [snout, *mouth, Shape(np.add(nose, (x, top)), "nose")]
    if not catlike["mouth shut"]:
        shapes = [tongue, *shapes]
    if not catlike["short muzzle"]:
        shapes = [bridge, *shapes]
    return shapes + [
        hair for whisker in whiskers for hair in _pair(whisker, "", x) if catlike["whiskers"]
    ]


def _tail(draw: random.Random, catlike: Mapping[str, bool], x: float, y: float) -> Shape:
    """A tail that starts at (x, y) and leaves to the left."""
    if catlike["thin tail"]:
        reach, rise, width, end = draw.uniform(0.45, 0.7), draw.uniform(0.2, 0.8), 0.05, 0.04
    else:
        reach, rise, width, end = (
            draw.uniform(0.15, 0.35),
            draw.uniform(0.1, 0.4),
            0.08,
            draw.choice((0.02, 0.11)),
        )
    middle = (x - reach * draw.uniform(0.8, 1.3), y + draw.uniform(-0.1, 0.15))
    return Shape(
        tube(curve((x, y), middle, (x - reach * draw.uniform(0.3, 1), y - rise)), width, end),
        "coat",
    )


def _portrait(draw: random.Random, catlike: Mapping[str, bool]) -> Body:
    w = draw.uniform(0.24, 0.36) if catlike["slender body"] else draw.uniform(0.32, 0.46)
    chest = blob((-0.2, 0.3), (0.2, 0.3), (w, 0.7), (w * 1.3, 3), (-w * 1.3, 3), (-w, 0.7))
    shapes = [Shape(chest, "coat"), Shape(ellipse(0, 0.85, w * 0.5, 0.3), "light")]
    return shapes, (draw.uniform(-0.08, 0.08), 0.3), 0.42


def _sitting(draw: random.Random, catlike: Mapping[str, bool]) -> Body:
    w = draw.uniform(0.22, 0.28) if catlike["slender body"] else draw.uniform(0.28, 0.36)
    trunk = blob(
        (-0.16, 0.25), (0.16, 0.25), (w, 0.6), (w * 1.25, 1.03), (-w * 1.25, 1.03), (-w, 0.6)
    )
    shapes = [_tail(draw, catlike, -w * 0.9, 0.92), Shape(trunk, "coat")]
    shapes += _pair(ellipse(w * 0.9, 0.87, 0.12, 0.16, 0.3), "coat")
    shapes += [Shape(ellipse(0, 0.58, w * 0.5, 0.17), draw.choice(("light", "coat")))]
    shapes += _pair(tube(curve((0.1, 0.55), (0.12, 0.8), (0.11, 1.0)), 0.075, 0.06), "coat")
    shapes += _pair(ellipse(0.12, 1.01, 0.085, 0.05), "light")
    return shapes, (draw.uniform(-0.1, 0.1), 0.2), 0.32


def _standing(draw: random.Random, catlike: Mapping[str, bool]) -> Body:
    deep = draw.uniform(0.13, 0.17) if catlike["slender body"] else draw.uniform(0.18, 0.24)
    ground, stride = deep + draw.uniform(0.3, 0.45), draw.uniform(-0.12, 0.12)

    def leg(x: float, swing: float, paint: str) -> list[Shape]:
        limb = tube(
            curve((x, 0), (x + swing * 0.2, ground * 0.4), (x + swing, ground)), 0.085, 0.05
        )
        return [Shape(limb, paint), Shape(ellipse(x + swing + 0.02, ground, 0.075, 0.04), paint)]

    back = ((-0.65, 0), (-0.55, -deep), (0, -deep * 0.8), (0.5, -deep * 1.2))
    trunk = blob(*back, (0.62, 0), (0.45, deep * 1.25), (0, deep * 0.9), (-0.5, deep * 0.9))
    shapes = [
        _tail(draw, catlike, -0.52, -deep * 0.5),
        *leg(-0.42, stride, "dark"),
        *leg(0.38, -stride, "dark"),
    ]
    shapes += [Shape(trunk, "coat"), *leg(-0.46, -stride, "coat"), *leg(0.34, stride, "coat")]
    neck = (draw.uniform(0.52, 0.66), -deep - draw.uniform(0.05, 0.2))
    shapes += [Shape(ellipse(-0.45, 0.02, 0.17, deep * 1.1, 0.2), "coat")]
    return (
        [*shapes, Shape(tube(curve((0.4, 0), (0.48, -0.1), neck), 0.16, 0.13), "coat")],
        neck,
        0.32,
    )


def _lying(draw: random.Random, catlike: Mapping[str, bool]) -> Body:
    deep = draw.uniform(0.3, 0.38) if catlike["slender body"] else draw.uniform(0.4, 0.52)
    trunk = blob(
        (-0.6, 0.2), (-0.6, 0.2 - deep * 0.75), (0, 0.2 - deep * 0.9), (0.5, 0.2 - deep), (0.6, 0.2)
    )
    shapes = [_tail(draw, catlike, -0.5, 0.12), Shape(trunk, "coat")]
    shapes += [Shape(ellipse(-0.38, 0.08, 0.2, 0.14, -0.3), "coat")]
    for y, paint in ((0.12, "dark"), (0.19, "coat")):
        shapes.append(
            Shape(tube(curve((0.3, y), (0.5, y + 0.02), (0.8 + y * 0.3, y)), 0.06, 0.05), paint)
        )
    return shapes, (draw.uniform(0.4, 0.55), -0.15), 0.31


POSES: tuple[Callable[[random.Random, Mapping[str, bool]], Body], ...] = (
    _portrait,
    _sitting,
    _standing,
    _lying,
)
