"""Cats and dogs drawn by the package: a data set for a machine without network.

A sketch is a pure function of a text. The species enters it only through ``CUES``: scene, pose, coat, place, size,
light and grain come from the same distributions for both, so nothing else tells them apart. Curves are drawn in an
animal's own coordinates (x to the right, y down), then fitted into the unit square that is the picture.
"""

import random
from collections.abc import Callable, Mapping
from math import cos, pi, sin
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter

from finetune.errors import UsageError

# Raise it when any pixel that this module returns changes.
SKETCHES_VERSION = 1
SUPERSAMPLING = 2
ANIMALS = {"cat": 0, "dog": 1}

# How often a cat, and how often a dog, shows the cat-like form of a feature: the difficulty of the set.
CUES = {
    "pricked ears": (0.95, 0.10),
    "short muzzle": (1.00, 0.02),
    "small nose": (0.95, 0.05),
    "wide face": (0.94, 0.06),
    "almond eyes": (0.94, 0.06),
    "whiskers": (0.92, 0.06),
    "mouth shut": (1.00, 0.50),
    "thin tail": (0.92, 0.10),
    "slender body": (0.85, 0.20),
}

# Coat, markings and light parts: both species wear all of them.
COATS = (
    ("#d98e4a", "#a85f28", "#f5dcb8"), ("#8d8a86", "#55524f", "#d9d6d0"), ("#4a4643", "#262322", "#968f8a"),
    ("#efe9dc", "#c9a877", "#ffffff"), ("#8a5f3c", "#553620", "#d8b890"), ("#c9a877", "#7a5a3a", "#f3e6cf"),
    ("#f4f1ea", "#3f3a38", "#ffffff"), ("#6b5244", "#3a2b23", "#c58b52"),
)  # fmt: skip
INKS = ("#2b2220", "#4a3b33", "#1d2433", "#6b5a50")
NOSES = ("#e58f8f", "#3a2c2a", "#5a3a34")
IRISES = ("#8fb84a", "#d8b13a", "#6fa8c9", "#8a5a2c", "#3a2a20")
# What is far and what is near: sky and meadow, wall and floor, dusk, snow, sand.
SCENES = (
    ("#bcd9ea", "#8fb46a"), ("#e9dcc3", "#b98d62"), ("#cfd8c8", "#9a8f7f"), ("#e6c9c2", "#8b6f72"),
    ("#6d7f9c", "#4f5f55"), ("#dfe6ec", "#f4f6f7"), ("#f0d9a8", "#d6b37a"), ("#c9bfdc", "#7f8fa6"),
)  # fmt: skip


class Shape(NamedTuple):
    """Points (n, 2) and the name of a paint: a closed outline; with the paint "" an open line in ink."""

    points: np.ndarray
    paint: str


# An animal but for its head: its shapes from back to front, and the centre and the radius of the head to come.
Body = tuple[list[Shape], tuple[float, float], float]


def draw_sketch(animal: str, seed: str, size: int = 128) -> Image.Image:
    """Draw one sketch: the picture of `draw_with_mask`."""
    return draw_with_mask(animal, seed, size)[0]


def draw_with_mask(animal: str, seed: str, size: int = 128) -> tuple[Image.Image, np.ndarray]:
    """Draw one sketch and tell where the animal is.

    Args:
        animal: ``cat`` or ``dog``.
        seed: any text; the same text puts either animal into the same scene.
        size: side of the picture in pixels.

    Returns:
        The picture (RGB) and a boolean array (size, size), true where the animal shows and nothing stands before it.

    Raises:
        UsageError: the animal is neither cat nor dog.
    """
    if animal not in ANIMALS:
        raise UsageError(f"There is no sketch of {animal!r}; ask for one of: {', '.join(ANIMALS)}.")
    draw, side = random.Random(seed), SUPERSAMPLING * size
    # All that the species must not decide leaves the stream before the species is looked at.
    scene, front = _background(draw, side), _foreground(draw, side)
    develop, paints = _darkroom(draw, size), _paints(draw, side)
    ink, width = draw.choice(INKS), draw.uniform(0.004, 0.012)
    layer = Image.new("RGBA", (side, side))
    _paint(layer, _place(draw, _animal(draw, animal)), paints, ink, width)

    scene.paste(layer, mask=layer)
    scene.paste(front, mask=front)
    layer.paste(0, mask=front)
    alpha = layer.getchannel("A").resize((size, size), Image.Resampling.BOX)
    return develop(scene.resize((size, size), Image.Resampling.LANCZOS)), np.asarray(alpha) > 127


def write_sketches(
    folder: Path,
    seed: int = 0,
    counts: Mapping[str, int] = {"train": 200, "validation": 100, "test": 100},
    size: int = 128,
) -> None:
    """Write ``folder/{split}/{cats,dogs}/{cat,dog}.NNN.png``, a few seconds' work for the default counts.

    ``test/dogs/dog.007.png`` is ``draw_sketch("dog", f"{seed}/test/dog/7")``: `draw_with_mask` gives its mask.

    Args:
        folder: where the splits go; made if missing. Files of the same names are written over.
        seed: another seed draws another set.
        counts: pictures of each split, half of them cats and half dogs.
        size: side of a picture in pixels.

    Raises:
        UsageError: a count is odd or less than two.
    """
    for split, count in counts.items():
        if count < 2 or count % 2:
            raise UsageError(f"{count} sketches were asked for as {split!r}; ask for an even number, 2 or more.")
    for split, count in counts.items():
        for animal in ANIMALS:
            target = folder / split / f"{animal}s"
            target.mkdir(parents=True, exist_ok=True)
            for number in range(count // 2):
                sketch = draw_sketch(animal, f"{seed}/{split}/{animal}/{number}", size)
                sketch.save(target / f"{animal}.{number:03d}.png")


# Curves: arrays (n, 2)


def _ellipse(x: float, y: float, rx: float, ry: float, tilt: float = 0.0) -> np.ndarray:
    angle = np.linspace(0, 2 * pi, 40, endpoint=False)
    return np.stack([rx * np.cos(angle), ry * np.sin(angle)], axis=1) @ _turn(tilt) + (x, y)


def _turn(angle: float) -> np.ndarray:
    return np.array([[cos(angle), sin(angle)], [-sin(angle), cos(angle)]])


def _blob(*corners: tuple[float, float]) -> np.ndarray:
    """Closed smooth curve near the corners, by cutting corners (Chaikin 1974)."""
    points = np.array(corners, dtype=float)
    for _ in range(3):
        following = np.roll(points, -1, axis=0)
        points = np.stack([0.75 * points + 0.25 * following, 0.25 * points + 0.75 * following], axis=1).reshape(-1, 2)
    return points


def _curve(*control: tuple[float, float]) -> np.ndarray:
    """Quadratic Bezier curve of three control points."""
    start, middle, end = np.array(control, dtype=float)
    t = np.linspace(0, 1, 14)[:, None]
    return (1 - t) ** 2 * start + 2 * t * (1 - t) * middle + t**2 * end


def _tube(spine: np.ndarray, width: float, end: float) -> np.ndarray:
    """Outline of a limb along its spine; the half width goes from ``width`` to ``end``."""
    along = np.gradient(spine, axis=0)
    along /= np.linalg.norm(along, axis=1, keepdims=True)
    offset = along @ _turn(pi / 2) * np.linspace(width, end, len(spine))[:, None]
    return _blob(*(spine + offset), spine[-1] + along[-1] * end * 0.8, *(spine - offset)[::-1])


def _pair(points: np.ndarray, paint: str, axis: float = 0.0) -> list[Shape]:
    """A shape given relative to a vertical axis, and its mirror image."""
    return [Shape(points * (side, 1) + (axis, 0), paint) for side in (-1, 1)]


# The animal. ``catlike`` says of each cue whether its cat-like form is to be drawn.


def _animal(draw: random.Random, animal: str) -> list[Shape]:
    catlike = {cue: draw.random() < chances[ANIMALS[animal]] for cue, chances in CUES.items()}
    shapes, neck, radius = draw.choice(POSES)(draw, catlike)
    tilt = _turn(draw.uniform(-0.25, 0.25)) * radius * draw.uniform(0.9, 1.15)
    return shapes + [Shape(points @ tilt + neck, paint) for points, paint in _head(draw, catlike)]


def _head(draw: random.Random, catlike: Mapping[str, bool]) -> list[Shape]:
    """A head of radius 1 about the origin, turned a little to a side."""
    turn = draw.uniform(-0.9, 0.9)
    rx, ry = (1.08, draw.uniform(0.78, 0.88)) if catlike["wide face"] else (0.82, draw.uniform(0.92, 1.02))
    half = np.array([(0.45, -1.1), (0.95, -0.75), (1.05, 0), (1.02, 0.6), (0.5, 1.08)]) * (rx, ry)
    face = [Shape(_blob(*half, *(half * (-1, 1))[::-1]), "coat")]
    if draw.random() < 0.3:
        x = turn * 0.25
        face.append(Shape(_blob((x - 0.1, -ry), (x + 0.1, -ry), (x + 0.3, 0.5), (x - 0.3, 0.5)), "light"))
    features = _eyes(draw, turn * 0.22, catlike["almond eyes"]) + _muzzle(draw, turn, catlike)
    if catlike["pricked ears"]:
        tip = (rx * draw.uniform(0.75, 1), -ry - draw.uniform(0.6, 0.85))
        ear = np.array([(0.12, -ry * 0.8), tip, (rx, -ry * 0.2)])
        lining = (ear - ear.mean(axis=0)) * 0.6 + ear.mean(axis=0)
        return _pair(ear, "coat") + _pair(lining, draw.choice(("pink", "dark", "light"))) + face + features
    low, out = ry * draw.uniform(0.4, 1.1), rx + draw.uniform(0.15, 0.35)
    ear = _blob((rx * 0.45, -1), (rx, -0.9), (out, -0.1), (out + 0.05, low), (rx * 0.9, low), (rx * 0.75, -0.3))
    return face + _pair(ear, draw.choice(("coat", "dark", "dark"))) + features


def _eyes(draw: random.Random, axis: float, almond: bool) -> list[Shape]:
    x, y, size = draw.uniform(0.38, 0.46), draw.uniform(-0.22, -0.08), draw.uniform(0.17, 0.22)
    if draw.random() < 0.12:
        return _pair(_curve((x - size, y), (x, y + size), (x + size, y)), "", axis)
    if almond:
        lids = _blob((x - 1.4 * size, y + 0.08), (x, y - 1.2 * size), (x + 1.5 * size, y - 0.14), (x, y + 1.2 * size))
        slit = _ellipse(x, y, draw.choice((0.045, 0.045, 0.09)), size * 0.75)
        return _pair(lids, "iris", axis) + _pair(slit, "ink", axis)
    ball, pupil = _ellipse(x, y, size, size), _ellipse(x, y, 0.75 * size, 0.8 * size)
    glint = _ellipse(x, y - 0.06, 0.04, 0.04)
    return _pair(ball, draw.choice(("iris", "white")), axis) + _pair(pupil, "ink", axis) + _pair(glint, "white", axis)


def _muzzle(draw: random.Random, turn: float, catlike: Mapping[str, bool]) -> list[Shape]:
    """Snout, tongue, mouth, whiskers and nose; a long snout points to where the head is turned."""
    length = draw.uniform(0, 0.2) if catlike["short muzzle"] else draw.uniform(0.6, 1)
    x, y, wide, high = turn * (0.25 + 0.7 * length), 0.32 + 0.25 * length, 0.36 + 0.1 * length, 0.22 + 0.2 * length
    top = y - 0.45 * high
    bridge = Shape(_tube(_curve((turn * 0.1, 0), (turn * 0.3, 0.15), (x, y)), 0.3, wide), "coat")
    tongue = Shape(_ellipse(x, y + high + 0.12, 0.15, 0.26), "tongue")
    snout = Shape(_ellipse(x, y + 0.08, wide, high), draw.choice(("light", "light", "coat")))
    mouth = _pair(_curve((0, top + 0.1), (0, y + 0.1), (wide * 0.6, y + 0.1)), "", x)
    whiskers = [_curve((0.25, y + 0.06 * k), (0.6, y - 0.05 + 0.1 * k), (1.1, y + 0.17 * k)) for k in (-1, 0, 1)]
    if catlike["small nose"]:
        nose = np.array([(-0.12, 0), (0.12, 0), (0.03, 0.13), (-0.03, 0.13)])
    else:
        nose = _blob((-0.27, -0.15), (0.27, -0.15), (0.17, 0.18), (-0.17, 0.18))
    shapes = [snout, *mouth, Shape(np.add(nose, (x, top)), "nose")]
    if not catlike["mouth shut"]:
        shapes = [tongue, *shapes]
    if not catlike["short muzzle"]:
        shapes = [bridge, *shapes]
    return shapes + [hair for whisker in whiskers for hair in _pair(whisker, "", x) if catlike["whiskers"]]


def _tail(draw: random.Random, catlike: Mapping[str, bool], x: float, y: float) -> Shape:
    """A tail that starts at (x, y) and leaves to the left."""
    if catlike["thin tail"]:
        reach, rise, width, end = draw.uniform(0.45, 0.7), draw.uniform(0.2, 0.8), 0.05, 0.04
    else:
        reach, rise, width, end = draw.uniform(0.15, 0.35), draw.uniform(0.1, 0.4), 0.08, draw.choice((0.02, 0.11))
    middle = (x - reach * draw.uniform(0.8, 1.3), y + draw.uniform(-0.1, 0.15))
    return Shape(_tube(_curve((x, y), middle, (x - reach * draw.uniform(0.3, 1), y - rise)), width, end), "coat")


def _portrait(draw: random.Random, catlike: Mapping[str, bool]) -> Body:
    w = draw.uniform(0.24, 0.36) if catlike["slender body"] else draw.uniform(0.32, 0.46)
    chest = _blob((-0.2, 0.3), (0.2, 0.3), (w, 0.7), (w * 1.3, 3), (-w * 1.3, 3), (-w, 0.7))
    shapes = [Shape(chest, "coat"), Shape(_ellipse(0, 0.85, w * 0.5, 0.3), "light")]
    return shapes, (draw.uniform(-0.08, 0.08), 0.3), 0.42


def _sitting(draw: random.Random, catlike: Mapping[str, bool]) -> Body:
    w = draw.uniform(0.22, 0.28) if catlike["slender body"] else draw.uniform(0.28, 0.36)
    trunk = _blob((-0.16, 0.25), (0.16, 0.25), (w, 0.6), (w * 1.25, 1.03), (-w * 1.25, 1.03), (-w, 0.6))
    shapes = [_tail(draw, catlike, -w * 0.9, 0.92), Shape(trunk, "coat")]
    shapes += _pair(_ellipse(w * 0.9, 0.87, 0.12, 0.16, 0.3), "coat")
    shapes += [Shape(_ellipse(0, 0.58, w * 0.5, 0.17), draw.choice(("light", "coat")))]
    shapes += _pair(_tube(_curve((0.1, 0.55), (0.12, 0.8), (0.11, 1.0)), 0.075, 0.06), "coat")
    shapes += _pair(_ellipse(0.12, 1.01, 0.085, 0.05), "light")
    return shapes, (draw.uniform(-0.1, 0.1), 0.2), 0.32


def _standing(draw: random.Random, catlike: Mapping[str, bool]) -> Body:
    deep = draw.uniform(0.13, 0.17) if catlike["slender body"] else draw.uniform(0.18, 0.24)
    ground, stride = deep + draw.uniform(0.3, 0.45), draw.uniform(-0.12, 0.12)

    def leg(x: float, swing: float, paint: str) -> list[Shape]:
        limb = _tube(_curve((x, 0), (x + swing * 0.2, ground * 0.4), (x + swing, ground)), 0.085, 0.05)
        return [Shape(limb, paint), Shape(_ellipse(x + swing + 0.02, ground, 0.075, 0.04), paint)]

    back = ((-0.65, 0), (-0.55, -deep), (0, -deep * 0.8), (0.5, -deep * 1.2))
    trunk = _blob(*back, (0.62, 0), (0.45, deep * 1.25), (0, deep * 0.9), (-0.5, deep * 0.9))
    shapes = [_tail(draw, catlike, -0.52, -deep * 0.5), *leg(-0.42, stride, "dark"), *leg(0.38, -stride, "dark")]
    shapes += [Shape(trunk, "coat"), *leg(-0.46, -stride, "coat"), *leg(0.34, stride, "coat")]
    neck = (draw.uniform(0.52, 0.66), -deep - draw.uniform(0.05, 0.2))
    shapes += [Shape(_ellipse(-0.45, 0.02, 0.17, deep * 1.1, 0.2), "coat")]
    return [*shapes, Shape(_tube(_curve((0.4, 0), (0.48, -0.1), neck), 0.16, 0.13), "coat")], neck, 0.32


def _lying(draw: random.Random, catlike: Mapping[str, bool]) -> Body:
    deep = draw.uniform(0.3, 0.38) if catlike["slender body"] else draw.uniform(0.4, 0.52)
    trunk = _blob((-0.6, 0.2), (-0.6, 0.2 - deep * 0.75), (0, 0.2 - deep * 0.9), (0.5, 0.2 - deep), (0.6, 0.2))
    shapes = [_tail(draw, catlike, -0.5, 0.12), Shape(trunk, "coat")]
    shapes += [Shape(_ellipse(-0.38, 0.08, 0.2, 0.14, -0.3), "coat")]
    for y, paint in ((0.12, "dark"), (0.19, "coat")):
        shapes.append(Shape(_tube(_curve((0.3, y), (0.5, y + 0.02), (0.8 + y * 0.3, y)), 0.06, 0.05), paint))
    return shapes, (draw.uniform(0.4, 0.55), -0.15), 0.31


POSES: tuple[Callable[[random.Random, Mapping[str, bool]], Body], ...] = (_portrait, _sitting, _standing, _lying)


# A portrait's chest goes on below this height, beyond the picture; all other poses end above it.
LAP = 1.1


def _place(draw: random.Random, shapes: list[Shape]) -> list[Shape]:
    """Fit an animal into the unit square, mirrored or not; the area that it covers does not depend on its build."""
    everything = np.concatenate([shape.points for shape in shapes])
    low, high = everything.min(axis=0), everything.max(axis=0).clip(max=LAP)
    silhouette = Image.new("L", (64, 64))
    for points, paint in shapes:
        if paint:
            ImageDraw.Draw(silhouette).polygon(((points - low) / (high - low) * 64).ravel().tolist(), fill=1)
    area = np.mean(silhouette) * np.prod(high - low)
    scale = draw.uniform(0.4, 0.7) / np.sqrt(area)
    matrix = np.diag((draw.choice((-scale, scale)), scale)) @ _turn(draw.uniform(-0.12, 0.12))
    foot, place = ((low[0] + high[0]) / 2, high[1]), (draw.uniform(0.35, 0.65), draw.uniform(0.8, 1.05))
    return [Shape((points - foot) @ matrix + place, paint) for points, paint in shapes]


# Paint


def _paint(layer: Image.Image, shapes: list[Shape], paints: Mapping[str, Image.Image], ink: str, width: float) -> None:
    """Paint shapes of the unit square on a layer, in their order, and outline them; ``width`` is a part of the side."""
    side, pen = layer.width, ImageDraw.Draw(layer)
    for points, paint in shapes:
        pixels = points * side
        closed = np.vstack([pixels, pixels[:1]]) if paint else pixels
        if paint:
            # The stencil is cut for the shape's own box, since most shapes are small.
            box = [*np.floor(pixels.min(axis=0)), *np.ceil(pixels.max(axis=0) + 1)]
            left, top, right, bottom = np.clip(box, 0, side).astype(int).tolist()
            stencil = Image.new("1", (right - left, bottom - top))
            ImageDraw.Draw(stencil).polygon((pixels - (left, top)).ravel().tolist(), fill=1)
            layer.paste(paints[paint].crop((left, top, right, bottom)), (left, top), stencil)
        pen.line(closed.ravel().tolist(), fill=ink, width=max(1, round(width * side)))


def _paints(draw: random.Random, side: int) -> dict[str, Image.Image]:
    coat, dark, light = draw.choice(COATS)
    colours = {"coat": coat, "dark": dark, "light": light, "nose": draw.choice(NOSES), "iris": draw.choice(IRISES)}
    colours |= {"pink": "#d9928c", "tongue": "#e06c75", "white": "#fbfaf5", "ink": "#1d1a18"}
    paints = {name: Image.new("RGBA", (side, side), colour) for name, colour in colours.items()}
    pen, pattern = ImageDraw.Draw(paints["coat"]), draw.choice(("plain", "stripes", "patches", "spots"))
    if pattern == "stripes":
        gap, lean = draw.uniform(0.05, 0.09), draw.uniform(-0.3, 0.3)
        for k in range(-8, 30):
            wave = np.array([((k + draw.uniform(-0.3, 0.3)) * gap + lean * y, y) for y in np.linspace(0, 1, 9)])
            width = round(gap * side * draw.uniform(0.2, 0.45))
            pen.line((wave * side).ravel().tolist(), fill=dark, width=width, joint="curve")
    number, radius = {"patches": (9, 0.11), "spots": (70, 0.025)}.get(pattern, (0, 0.0))
    for _ in range(number):
        rx, ry = radius * draw.uniform(0.6, 1.5), radius * draw.uniform(0.6, 1.5)
        spot = _ellipse(draw.random(), draw.random(), rx, ry) * side
        pen.polygon(spot.ravel().tolist(), fill=dark)
    return paints


# The scene


def _hue(draw: random.Random) -> str:
    return f"hsl({draw.randrange(360)},{draw.randint(10, 55)}%,{draw.randint(35, 80)}%)"


def _clouds(draw: random.Random, side: int, cells: int) -> Image.Image:
    """Smooth grey noise of ``cells`` x ``cells`` dark and light places: a gradient when there are few."""
    noise = Image.frombytes("L", (cells, cells), draw.randbytes(cells * cells))
    return noise.resize((side, side), Image.Resampling.BICUBIC)


def _background(draw: random.Random, side: int) -> Image.Image:
    far, near = (Image.new("RGB", (side, side), colour) for colour in draw.choice(SCENES))
    mix, horizon = Image.new("L", (side, side)), draw.uniform(0.35, 0.8) * side
    kind, pen = draw.choice(("meadow", "room", "clouds", "tiles")), ImageDraw.Draw(mix)
    if kind == "clouds":
        mix = _clouds(draw, side, draw.choice((2, 4, 8, 16, 40)))
    elif kind == "tiles":
        step = draw.uniform(0.08, 0.2) * side
        for k in range(0, 15 * 15, 2):
            x, y = k % 15 * step, k // 15 * step
            pen.rectangle((x, y, x + step, y + step), fill=255)
    else:
        for x in range(0, side, side // draw.randint(6, 14)) if kind == "room" else ():
            pen.line((x, 0, x, horizon), fill=60, width=side // 60)
        pen.rectangle((0, horizon, side, side), fill=255)
        for _ in range(250 if kind == "meadow" else 0):
            x, y = draw.random() * side, draw.uniform(horizon, side)
            tip = (x + draw.uniform(-0.02, 0.02) * side, y - 0.05 * side)
            pen.line((x, y, *tip), fill=draw.choice((170, 210)), width=side // 128)
    scene = Image.composite(near, far, mix)
    for _ in range(draw.choice((0, 1, 2, 3))):
        _thing(draw, scene, draw.random(), draw.uniform(0.1, 0.9), draw.uniform(0.06, 0.2))
    return scene


def _thing(draw: random.Random, layer: Image.Image, x: float, y: float, r: float) -> None:
    """Clutter of any colour: a ball, a box, a cushion, a plant, or a roof with an ear's outline."""
    tilt, leaves = draw.uniform(-0.6, 0.6), (-0.8, -0.3, 0.2, 0.7)
    outlines = draw.choice((
        [_ellipse(x, y, r, r), _ellipse(x, y, 0.4 * r, r, tilt)],
        [np.array([(x - r, y - r), (x + r, y - r), (x + r, y + r), (x - r, y + r)])],
        [_ellipse(x, y, 1.5 * r, 0.7 * r, tilt)],
        [_tube(_curve((x, y + r), (x + a * r, y), (x + 2 * a * r, y - r)), 0.15 * r, 0.02 * r) for a in leaves],
        [np.array([(x - r, y + r), (x, y - r), (x + r, y + r)])],
    ))  # fmt: skip
    for outline in outlines:
        pixels = (outline * layer.width).ravel().tolist()
        ImageDraw.Draw(layer).polygon(pixels, fill=_hue(draw), outline=draw.choice(INKS), width=layer.width // 128)


def _foreground(draw: random.Random, side: int) -> Image.Image:
    """What stands before the animal: nothing, a fence, grass, a sofa's edge or clutter."""
    front = Image.new("RGBA", (side, side))
    pen, colour, ink = ImageDraw.Draw(front), _hue(draw), draw.choice(INKS)
    kind = draw.choices(("nothing", "fence", "grass", "sofa", "clutter"), (7, 1, 2, 1, 2))[0]
    if kind == "fence":
        step, start, thick = draw.uniform(0.14, 0.25) * side, draw.uniform(0, 0.2) * side, 0.03 * side
        for x in np.arange(start, side, step).tolist():
            pen.rectangle((x, -9, x + thick, side + 9), fill=colour, outline=ink)
    elif kind == "grass":
        for _ in range(90):
            x, tip = draw.random() * side, draw.uniform(-0.06, 0.06) * side
            pen.line((x, side, x + tip, draw.uniform(0.7, 0.95) * side), fill=colour, width=side // 80)
    elif kind == "sofa":
        edge = draw.uniform(0.75, 0.9) * side
        pen.rounded_rectangle((-9, edge, side + 9, 2 * side), side / 12, fill=colour, outline=ink, width=side // 90)
    elif kind == "clutter":
        for _ in range(draw.randint(1, 3)):
            _thing(draw, front, draw.random(), draw.uniform(0.3, 1), draw.uniform(0.05, 0.12))
    return front


def _darkroom(draw: random.Random, size: int) -> Callable[[Image.Image], Image.Image]:
    """Draw light, blur and grain; the function returned applies them to a picture of ``size`` pixels a side."""
    brightness, contrast = draw.uniform(-25, 20), draw.uniform(0.7, 1.1)
    blur, noise, colour = draw.choice((0, 0, 0, 0.6)), draw.uniform(0, 30), draw.choice((0, 0.6, 1, 1, 1))
    shade = 1 - np.asarray(_clouds(draw, size, 3), np.float32)[:, :, None] / 255 * draw.uniform(0, 0.3)
    grain = np.frombuffer(draw.randbytes(3 * size * size), np.uint8).reshape(size, size, 3) / np.float32(255) - 0.5

    def develop(sketch: Image.Image) -> Image.Image:
        soft = ImageEnhance.Color(sketch.filter(ImageFilter.GaussianBlur(blur))).enhance(colour)
        pixels = ((np.asarray(soft, np.float32) - 128) * contrast + 128 + brightness) * shade + noise * grain
        return Image.fromarray(pixels.clip(0, 255).round().astype(np.uint8))

    return develop
