"""Cats and dogs drawn by the package: a data set for a machine without network.

A sketch is a pure function of a text. The species enters only through ``CUES``: scene, coat, place,
size, light and grain come from the same distributions for both, so nothing else tells them apart.
"""

import random
from collections.abc import Mapping
from math import cos, pi, sin
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from finetune.errors import UsageError

# Raise it when any pixel that a sketch is made of changes.
SKETCHES_VERSION = 2
ANIMALS = {"cat": 0, "dog": 1}
# How often a cat, and how often a dog, shows the cat-like form: the difficulty of the set.
CUES = {
    "pricked ears": (0.95, 0.08),
    "short muzzle": (1.00, 0.02),
    "small nose": (0.95, 0.05),
    "wide face": (0.94, 0.06),
    "almond eyes": (0.94, 0.06),
    "whiskers": (0.92, 0.06),
    "thin tail": (0.92, 0.10),
    "slender body": (0.85, 0.20),
}
# Coat, markings, light parts; and what is far and near. Both species wear and visit all of them.
COATS = ("#d98e4a #a85f28 #f5dcb8", "#8d8a86 #55524f #d9d6d0", "#4a4643 #262322 #968f8a",
         "#efe9dc #c9a877 #ffffff", "#8a5f3c #553620 #d8b890", "#c9a877 #7a5a3a #f3e6cf")  # fmt: skip
SCENES = ("#bcd9ea #8fb46a", "#e9dcc3 #b98d62", "#cfd8c8 #9a8f7f", "#e6c9c2 #8b6f72",
          "#6d7f9c #4f5f55", "#dfe6ec #f4f6f7", "#f0d9a8 #d6b37a", "#c9bfdc #7f8fa6")  # fmt: skip
# Number, width and height of the markings of a coat.
MARKINGS = ((0, 0.0, 0.0), (9, 0.11, 0.11), (70, 0.02, 0.02), (26, 0.012, 0.5))
INK = "#2b2220"

# Points (n, 2), x to the right and y down, and the name of a paint; "" is an open line in ink.
Shape = tuple[np.ndarray, str]


def draw_sketch(animal: str, seed: str, size: int = 128) -> Image.Image:
    """Draw one sketch: the picture of `draw_with_mask`."""
    return draw_with_mask(animal, seed, size)[0]


def draw_with_mask(animal: str, seed: str, size: int = 128) -> tuple[Image.Image, np.ndarray]:
    """Draw one sketch and show where the animal is.

    Args:
        animal: ``cat`` or ``dog``.
        seed: any text; the same text puts either animal into the same scene.
        size: side of the picture in pixels.

    Returns:
        The picture (RGB) and a boolean array (size, size), true where the animal shows.

    Raises:
        UsageError: the animal is neither cat nor dog.
    """
    if animal not in ANIMALS:
        raise UsageError(f"There is no sketch of {animal!r}; ask for one of: {', '.join(ANIMALS)}.")
    # All that the species must not decide leaves the stream before the species is looked at.
    draw = random.Random(seed)
    side = 2 * size
    scene = _scene(draw, side)
    front = Image.new("RGBA", (side, side))
    _clutter(draw, front, draw.choice((0, 0, 1, 2)))
    paints = _paints(draw, side)
    light = draw.uniform(0.7, 1.1)
    shift = draw.uniform(-25, 20)
    blur = ImageFilter.GaussianBlur(draw.choice((0, 0, 0, 0.6)))
    grain = np.frombuffer(draw.randbytes(3 * size * size), np.uint8).reshape(size, size, 3)
    grain = (grain / np.float32(255) - 0.5) * draw.uniform(0, 40)

    catlike = {cue: draw.random() < chances[ANIMALS[animal]] for cue, chances in CUES.items()}
    layer = _paint(_place(draw, _body(draw, catlike)), paints)
    scene.paste(layer, mask=layer)
    scene.paste(front, mask=front)
    layer.paste(0, mask=front)
    picture = scene.resize((size, size), Image.Resampling.LANCZOS).filter(blur)
    pixels = (np.asarray(picture, np.float32) - 128) * light + 128 + shift + grain
    alpha = layer.getchannel("A").resize((size, size), Image.Resampling.BOX)
    return Image.fromarray(pixels.clip(0, 255).round().astype(np.uint8)), np.asarray(alpha) > 127


def write_sketches(
    folder: Path,
    seed: int = 0,
    counts: Mapping[str, int] = {"train": 200, "validation": 100, "test": 100},
    size: int = 128,
) -> None:
    """Write ``folder/{split}/{cats,dogs}/{cat,dog}.NNN.png``, some seconds' work by default.

    ``test/dogs/dog.007.png`` is ``draw_with_mask("dog", f"{seed}/test/dog/7")``.

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
            raise UsageError(
                f"{count} sketches were asked for as {split!r}; ask for an even number, 2 or more."
            )
    for split, count in counts.items():
        for animal in ANIMALS:
            target = folder / split / f"{animal}s"
            target.mkdir(parents=True, exist_ok=True)
            for number in range(count // 2):
                sketch = draw_sketch(animal, f"{seed}/{split}/{animal}/{number}", size)
                sketch.save(target / f"{animal}.{number:03d}.png")


def _oval(x: float, y: float, rx: float, ry: float, tilt: float = 0.0) -> np.ndarray:
    angle = np.linspace(0, 2 * pi, 40, endpoint=False)
    outline = np.stack([rx * np.cos(angle), ry * np.sin(angle)], axis=1)
    return outline @ _turn(tilt) + (x, y)


def _turn(angle: float) -> np.ndarray:
    return np.array([[cos(angle), sin(angle)], [-sin(angle), cos(angle)]])


def _pair(points: np.ndarray, paint: str, x: float = 0.0) -> list[Shape]:
    """A shape given relative to a vertical axis at x, and its mirror image."""
    return [(points * (side, 1) + (x, 0), paint) for side in (-1, 1)]


def _body(draw: random.Random, cat: Mapping[str, bool]) -> list[Shape]:
    """An animal that sits, or of which the picture shows no more than head and chest."""
    w = draw.uniform(0.55, 0.7) if cat["slender body"] else draw.uniform(0.75, 0.95)
    reach = draw.uniform(0.9, 1.4)
    t = np.linspace(0, 1, 12)[:, None]
    spine = np.hstack([-w - reach * t**0.7, 2.6 - reach * t**2])
    thick = 0.1 if cat["thin tail"] else 0.22
    tail = np.vstack([spine + (0, thick), spine[::-1] - (0, thick)])
    shapes = [(tail, "coat"), (_oval(0, 2, w, 1.2), "coat"), (_oval(0, 1.8, w / 2, 0.8), "light")]
    shapes += _pair(_oval(0.85 * w, 2.75, 0.4, 0.45), "coat") + _pair(
        _oval(0.3, 2.6, 0.2, 0.6), "coat"
    )
    tilt = _turn(draw.uniform(-0.25, 0.25)) * draw.uniform(0.95, 1.15)
    return shapes + [(points @ tilt, paint) for points, paint in _head(draw, cat)]


def _head(draw: random.Random, cat: Mapping[str, bool]) -> list[Shape]:
    """A head of radius 1 about the origin, turned a little to a side."""
    turn = draw.uniform(-0.25, 0.25)
    rx, ry = (1.08, 0.84) if cat["wide face"] else (0.82, 0.98)
    face: list[Shape] = [(_oval(0, 0, rx, ry), "coat")]
    if cat["pricked ears"]:
        ear = np.array([(0.1, -0.8 * ry), (rx * draw.uniform(0.75, 1), -ry - 0.7), (rx, -0.2 * ry)])
        lining = 0.6 * ear + 0.4 * ear.mean(axis=0)
        face = _pair(ear, "coat") + _pair(lining, draw.choice(("pink", "dark"))) + face
    else:
        face += _pair(
            _oval(rx + 0.05, 0, 0.28, draw.uniform(0.6, 0.9), -0.2), draw.choice(("coat", "dark"))
        )
    size = draw.uniform(0.17, 0.22)
    lids = (
        _oval(0.42, -0.15, 1.5 * size, 0.9 * size, -0.3)
        if cat["almond eyes"]
        else _oval(0.42, -0.15, size, size)
    )
    pupil = _oval(
        0.42, -0.15, *((0.05, 0.8 * size) if cat["almond eyes"] else (0.75 * size, 0.75 * size))
    )
    shapes = face + _pair(lids, "iris", turn) + _pair(pupil, "ink", turn)
    length = draw.uniform(0, 0.15) if cat["short muzzle"] else draw.uniform(0.5, 0.8)
    x, y = turn * (1 + 1.5 * length), 0.35 + 0.25 * length
    shapes += (
        [(_oval((x + turn) / 2, y / 2 + 0.1, 0.34, 0.3 + length / 2), "coat")]
        if length > 0.2
        else []
    )
    shapes += [
        (
            _oval(x, y + 0.1, 0.36 + 0.15 * length, 0.24 + 0.25 * length),
            draw.choice(("light", "coat")),
        )
    ]
    shapes += _pair(np.array([(0, y), (0, y + 0.2), (0.25, y + 0.25)]), "", x)
    nose = 0.11 if cat["small nose"] else 0.24
    shapes += [(_oval(x, y - 0.1, nose, 0.7 * nose), "nose")]
    for k in (-1, 0, 1) if cat["whiskers"] else ():
        shapes += _pair(np.array([(0.25, y + 0.06 * k), (1.1, y + 0.17 * k)]), "", x)
    return shapes


def _place(draw: random.Random, shapes: list[Shape]) -> list[Shape]:
    """Put an animal into the unit square; the area that it covers does not depend on its build."""
    points = np.concatenate([outline for outline, _ in shapes])
    low, high = points.min(axis=0), points.max(axis=0)
    silhouette = Image.new("L", (64, 64))
    for outline, paint in shapes:
        if paint:
            ImageDraw.Draw(silhouette).polygon(
                ((outline - low) / (high - low) * 64).ravel().tolist(), 1
            )
    area = np.asarray(silhouette).mean() * np.prod(high - low)
    scale = draw.uniform(0.45, 0.7) * draw.choice((1, 1, 1.5)) / np.sqrt(area)
    matrix = np.diag((draw.choice((-scale, scale)), scale)) @ _turn(draw.uniform(-0.12, 0.12))
    place = (draw.uniform(0.35, 0.65), draw.uniform(0.3, 0.4))
    return [((outline - (0, 0.3)) @ matrix + place, paint) for outline, paint in shapes]


def _paint(shapes: list[Shape], paints: Mapping[str, Image.Image]) -> Image.Image:
    """Paint shapes of the unit square in their order, and outline them."""
    side = paints["coat"].width
    layer = Image.new("RGBA", (side, side))
    for points, paint in shapes:
        outline = (points * side).ravel().tolist()
        if paint:
            stencil = Image.new("1", (side, side))
            ImageDraw.Draw(stencil).polygon(outline, fill=1)
            layer.paste(paints[paint], mask=stencil)
        closed = outline + (outline[:2] if paint else [])
        ImageDraw.Draw(layer).line(closed, fill=INK, width=max(1, side // 128))
    return layer


def _paints(draw: random.Random, side: int) -> dict[str, Image.Image]:
    coat, dark, light = draw.choice(COATS).split()
    colours = {"coat": coat, "dark": dark, "light": light, "ink": INK, "pink": "#d9928c"}
    colours["nose"] = draw.choice(("#e58f8f", "#3a2c2a", "#5a3a34"))
    colours["iris"] = draw.choice(("#8fb84a", "#d8b13a", "#6fa8c9", "#8a5a2c"))
    paints = {name: Image.new("RGBA", (side, side), colour) for name, colour in colours.items()}
    number, rx, ry = draw.choice(MARKINGS)
    for _ in range(number):
        spot = _oval(draw.random(), draw.random(), rx, ry, draw.uniform(-0.3, 0.3)) * side
        ImageDraw.Draw(paints["coat"]).polygon(spot.ravel().tolist(), fill=dark)
    return paints


def _scene(draw: random.Random, side: int) -> Image.Image:
    """A place with a horizon or of clouds, and some clutter."""
    far, near = (Image.new("RGB", (side, side), colour) for colour in draw.choice(SCENES).split())
    cells = draw.choice((2, 4, 8, 16, 40))
    mix = Image.frombytes("L", (cells, cells), draw.randbytes(cells * cells))
    mix = mix.resize((side, side), Image.Resampling.BICUBIC)
    if draw.random() < 0.5:
        mix.paste(255, (0, round(draw.uniform(0.35, 0.8) * side), side, side))
    scene = Image.composite(near, far, mix)
    _clutter(draw, scene, draw.choice((0, 1, 2, 3)))
    return scene


def _clutter(draw: random.Random, layer: Image.Image, number: int) -> None:
    """Balls, boxes, and roofs with an ear's outline, of any colour, low in the picture."""
    for _ in range(number):
        x, y, r = draw.random(), draw.uniform(0.3, 1), draw.uniform(0.05, 0.14)
        ball = _oval(x, y, r, draw.uniform(0.5, 1) * r)
        box = np.array([(x - r, y - r), (x + r, y - r), (x + r, y + r), (x - r, y + r)])
        roof = np.array([(x - r, y + r), (x, y - r), (x + r, y + r)])
        outline = (draw.choice((ball, box, roof)) * layer.width).ravel().tolist()
        hue = f"hsl({draw.randrange(360)},{draw.randint(10, 55)}%,{draw.randint(35, 80)}%)"
        ImageDraw.Draw(layer).polygon(outline, fill=hue, outline=INK)
