"""Cats and dogs drawn by the package: a data set for a machine without network.

A sketch is a pure function of a text. The species enters only through ``CUES``: scene, coat, place,
size, light and grain come from the same distributions for both. Outlines are complex numbers.
"""

import itertools
import random
from collections.abc import Mapping
from math import pi
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from finetune.errors import UsageError

# Raise it when any pixel that a sketch is made of changes.
SKETCHES_VERSION = 2
ANIMALS = {"cat": 0, "dog": 1}
# How often a cat, and how often a dog, shows the cat-like form: the difficulty of the set.
CUES = {"pricked ears": (0.85, 0.20), "short muzzle": (0.97, 0.04), "small nose": (0.93, 0.07),
        "wide face": (0.88, 0.12), "almond eyes": (0.90, 0.10), "whiskers": (0.85, 0.15),
        "thin tail": (0.85, 0.15), "slender body": (0.80, 0.25)}  # fmt: skip
# Coat, markings and light parts, and what is far and near: both species wear and visit them all.
COATS = (("#d98e4a", "#a85f28", "#f5dcb8"), ("#8d8a86", "#55524f", "#d9d6d0"),
         ("#4a4643", "#262322", "#968f8a"), ("#efe9dc", "#c9a877", "#ffffff"),
         ("#8a5f3c", "#553620", "#d8b890"), ("#c9a877", "#7a5a3a", "#f3e6cf"))  # fmt: skip
SCENES = ("#bcd9ea", "#8fb46a", "#e9dcc3", "#b98d62", "#9a8f7f", "#6d7f9c", "#4f5f55", "#dfe6ec")
MARKINGS = ((0, 0.0, 0.0), (9, 0.11, 0.11), (70, 0.02, 0.02), (26, 0.012, 0.5))  # number, rx, ry
INK = "#2b2220"
COUNTS = {"train": 200, "validation": 100, "test": 100}


def draw_with_mask(animal: str, seed: str, size: int = 128) -> tuple[Image.Image, np.ndarray]:
    """Draw one sketch (RGB) and a mask, bool (size, size), true where the animal shows.

    ``animal`` is cat or dog, anything else a UsageError; ``seed`` is any text, the same of which
    puts either animal into the same scene; ``size`` is the picture's side in pixels.
    """
    if animal not in ANIMALS:
        raise UsageError(f"There is no sketch of {animal!r}; ask for one of: {', '.join(ANIMALS)}.")
    # Whatever the species must not decide is drawn from a stream that does not know it.
    draw = random.Random(seed)
    scene = _scene(draw, 2 * size)
    paints = _paints(draw, scene.size)
    zoom = draw.uniform(0.11, 0.24) * np.exp(1j * draw.uniform(-0.2, 0.2))
    place = complex(draw.uniform(0.3, 0.7), draw.uniform(0.2, 0.55))
    noise = np.frombuffer(draw.randbytes(3 * size * size), np.uint8).reshape(size, size, 3)
    grain = (noise - 127.5) * draw.uniform(0, 0.3) + draw.uniform(100, 150)
    contrast = draw.uniform(0.4, 1.1)
    catlike = {cue: draw.random() < chances[ANIMALS[animal]] for cue, chances in CUES.items()}
    layer = Image.new("RGBA", scene.size)
    for outline, paint in _animal(draw, catlike):
        stencil = Image.new("1", scene.size)
        _fill(stencil, outline * zoom + place, 1, 1)
        layer.paste(paints[paint], mask=stencil)
        _fill(layer, outline * zoom + place, None, INK)
    scene.paste(layer, mask=layer)
    picture = scene.resize((size, size), Image.Resampling.LANCZOS)
    pixels = ((np.asarray(picture) - 128.0) * contrast + grain).clip(0, 255).round()
    alpha = layer.getchannel("A").resize((size, size), Image.Resampling.BOX)
    return Image.fromarray(pixels.astype(np.uint8)), np.asarray(alpha) > 127


def write_sketches(
    folder: Path, seed: int = 0, counts: Mapping[str, int] = COUNTS, size: int = 128
) -> None:
    """Write ``folder/{split}/{cats,dogs}/{cat,dog}.NNN.png``, some seconds' work by default.

    ``test/dogs/dog.007.png`` is ``draw_with_mask("dog", f"{seed}/test/dog/7")``. ``counts`` are
    pictures of each split, half of them cats and half dogs; an odd one is a UsageError.
    """
    for split, n in counts.items():
        if n < 2 or n % 2:
            raise UsageError(f"{n} sketches were asked for as {split!r}; allowed: 2, 4, 6, ...")
    for split, animal in itertools.product(counts, ANIMALS):
        target = folder / split / f"{animal}s"
        target.mkdir(parents=True, exist_ok=True)
        for number in range(counts[split] // 2):
            sketch, _ = draw_with_mask(animal, f"{seed}/{split}/{animal}/{number}", size)
            sketch.save(target / f"{animal}.{number:03d}.png")


def _oval(corners: int, x: float, y: float, rx: float, ry: float, tilt: float = 0) -> np.ndarray:
    """An ellipse, turned by ``tilt`` radians; of 3 corners it is a triangle, of 2 a line."""
    angle = 2 * pi * np.arange(corners) / corners
    return (rx * np.cos(angle) + 1j * ry * np.sin(angle)) * np.exp(1j * tilt) + complex(x, y)


def _fill(layer: Image.Image, outline: np.ndarray, fill: str | int | None, ink: str | int) -> None:
    pixels = (outline * layer.width).view(float).tolist()
    ImageDraw.Draw(layer).polygon(pixels, fill, ink, width=max(1, layer.width // 100))


def _animal(draw: random.Random, cat: Mapping[str, bool]) -> list[tuple[np.ndarray, str]]:
    """A sitting animal's outlines and paints, back to front; its head has radius 1 about 0."""
    shapes: list[tuple[np.ndarray, str]] = []

    def add(paint: str, *oval: float, axis: float | None = None, corners: int = 40) -> None:
        points = _oval(corners, *oval)
        shapes.append((points + (axis or 0), paint))
        if axis is not None:  # and its mirror image
            shapes.append((axis - points.conj(), paint))

    w = draw.uniform(0.6, 0.75) if cat["slender body"] else draw.uniform(0.7, 0.85)
    add("coat", -w - 0.5, 2, 0.1 if cat["thin tail"] else 0.2, 0.9, draw.uniform(-0.9, -0.4))
    add("coat", 0, 2, w, 1.2)
    add("light", 0, 1.8, w / 2, 0.8)
    add("coat", 0.85 * w, 2.75, 0.4, 0.45, axis=0)
    add("coat", 0.3, 2.6, 0.2, 0.6, axis=0)
    rx, ry = (1.08, 0.84) if cat["wide face"] else (0.82, 0.98)
    if cat["pricked ears"]:
        add("coat", 0.65 * rx, -ry - 0.1, 0.65, 0.55, -1.2, axis=0, corners=3)
        add(draw.choice(("pink", "dark")), 0.65 * rx, -ry - 0.1, 0.4, 0.3, -1.2, axis=0, corners=3)
    add("coat", 0, 0, rx, ry)
    if not cat["pricked ears"]:
        add(draw.choice(("coat", "dark")), rx, 0.1, 0.28, draw.uniform(0.6, 0.9), -0.2, axis=0)
    turn = draw.uniform(-0.25, 0.25)
    eye = draw.uniform(0.17, 0.22)
    add("iris", 0.42, -0.15, 1.5 * eye if cat["almond eyes"] else eye, eye, -0.3, axis=turn)
    add("ink", 0.42, -0.15, 0.05 if cat["almond eyes"] else 0.75 * eye, 0.8 * eye, axis=turn)
    long = draw.uniform(0, 0.15) if cat["short muzzle"] else draw.uniform(0.5, 0.8)
    x = turn * (1 + 1.5 * long)
    y = 0.35 + 0.25 * long
    add("coat", (x + turn) / 2, y / 2 + 0.1, 0.34, 0.25 + long / 2)
    add(draw.choice(("light", "coat")), x, y + 0.1, 0.36 + 0.15 * long, 0.24 + 0.25 * long)
    add("nose", x, y - 0.1, *((0.11, 0.08) if cat["small nose"] else (0.24, 0.17)))
    for k in (-1, 0, 1) if cat["whiskers"] else ():
        add("ink", 0.7, y + 0.11 * k, 0.45, 0, 0.15 * k, axis=x, corners=2)
    return shapes


def _paints(draw: random.Random, size: tuple[int, int]) -> dict[str, Image.Image]:
    coat, dark, light = draw.choice(COATS)
    colours = {"coat": coat, "dark": dark, "light": light, "ink": INK, "pink": "#d9928c"}
    colours["nose"] = draw.choice(("#e58f8f", "#3a2c2a", "#5a3a34"))
    colours["iris"] = draw.choice(("#8fb84a", "#d8b13a", "#6fa8c9", "#8a5a2c"))
    paints = {name: Image.new("RGBA", size, colour) for name, colour in colours.items()}
    number, rx, ry = draw.choice(MARKINGS)
    for _ in range(number):
        spot = _oval(40, draw.random(), draw.random(), rx, ry, draw.uniform(-0.3, 0.3))
        _fill(paints["coat"], spot, dark, dark)
    return paints


def _scene(draw: random.Random, side: int) -> Image.Image:
    """A place with a horizon or of clouds; balls, boxes, and roofs with an ear's outline in it."""
    far, near = (Image.new("RGB", (side, side), draw.choice(SCENES)) for _ in range(2))
    cells = draw.choice((2, 4, 8, 16, 40))
    noise = Image.frombytes("L", (cells, cells), draw.randbytes(cells * cells))
    mix = noise.resize((side, side), Image.Resampling.BICUBIC)
    mix.paste(255, (0, round(draw.uniform(0.35, 1.3) * side), side, 2 * side))
    scene = Image.composite(near, far, mix)
    for _ in range(draw.choice((0, 1, 2, 3, 5))):
        r = draw.uniform(0.05, 0.16)
        thing = _oval(draw.choice((3, 4, 40)), draw.random(), draw.random(), r, r, draw.random())
        hue = f"hsl({draw.randrange(360)},{draw.randint(10, 55)}%,{draw.randint(35, 80)}%)"
        _fill(scene, thing, hue, INK)
    return scene
