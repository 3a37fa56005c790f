"""Cats and dogs drawn by the package: a data set for a machine without network.

A sketch is a pure function of a text. The species enters it only through ``CUES``: scene, pose, coat, place, size,
light and grain come from the same distributions for both, so nothing else tells them apart. Curves are drawn in an
animal's own coordinates (x to the right, y down), then fitted into the unit square that is the picture.
"""

import random
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from finetune.data.animals import Shape, animal_shapes
from finetune.data.curves import ellipse, rotation
from finetune.data.scene import INKS, background, darkroom, foreground
from finetune.errors import UsageError

# Raise it when any pixel that a sketch is made of changes, here or in animals, curves or scene.
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
NOSES = ("#e58f8f", "#3a2c2a", "#5a3a34")
IRISES = ("#8fb84a", "#d8b13a", "#6fa8c9", "#8a5a2c", "#3a2a20")


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
    scene, front = background(draw, side), foreground(draw, side)
    develop, paints = darkroom(draw, size), _paints(draw, side)
    ink, width = draw.choice(INKS), draw.uniform(0.004, 0.012)
    layer = Image.new("RGBA", (side, side))
    catlike = {cue: draw.random() < chances[ANIMALS[animal]] for cue, chances in CUES.items()}
    _paint(layer, _place(draw, animal_shapes(draw, catlike)), paints, ink, width)

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


# A portrait's chest goes on below this height, beyond the picture; all other poses end above it.
LAP = 1.1


def _place(draw: random.Random, shapes: list[Shape]) -> list[Shape]:
    """Fit an animal into the unit square, mirrored or not; the area that it covers does not depend on its build."""
    everything = np.concatenate([shape.points for shape in shapes])
    low, high = everything.min(axis=0), everything.max(axis=0).clip(max=LAP)
    silhouette = Image.new("L", (64, 64))
    for points, paint in shapes:
        if paint:
            ImageDraw.Draw(silhouette).polygon(
                ((points - low) / (high - low) * 64).ravel().tolist(), fill=1
            )
    area = np.asarray(silhouette).mean() * np.prod(high - low)
    scale = draw.uniform(0.4, 0.7) / np.sqrt(area)
    matrix = np.diag((draw.choice((-scale, scale)), scale)) @ rotation(draw.uniform(-0.12, 0.12))
    foot, place = (
        ((low[0] + high[0]) / 2, high[1]),
        (draw.uniform(0.35, 0.65), draw.uniform(0.8, 1.05)),
    )
    return [Shape((points - foot) @ matrix + place, paint) for points, paint in shapes]


def _paint(
    layer: Image.Image,
    shapes: list[Shape],
    paints: Mapping[str, Image.Image],
    ink: str,
    width: float,
) -> None:
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
    colours = {
        "coat": coat,
        "dark": dark,
        "light": light,
        "nose": draw.choice(NOSES),
        "iris": draw.choice(IRISES),
    }
    colours |= {"pink": "#d9928c", "tongue": "#e06c75", "white": "#fbfaf5", "ink": "#1d1a18"}
    paints = {name: Image.new("RGBA", (side, side), colour) for name, colour in colours.items()}
    pen, pattern = (
        ImageDraw.Draw(paints["coat"]),
        draw.choice(("plain", "stripes", "patches", "spots")),
    )
    if pattern == "stripes":
        gap, lean = draw.uniform(0.05, 0.09), draw.uniform(-0.3, 0.3)
        for k in range(-8, 30):
            wave = np.array(
                [((k + draw.uniform(-0.3, 0.3)) * gap + lean * y, y) for y in np.linspace(0, 1, 9)]
            )
            width = round(gap * side * draw.uniform(0.2, 0.45))
            pen.line((wave * side).ravel().tolist(), fill=dark, width=width, joint="curve")
    number, radius = {"patches": (9, 0.11), "spots": (70, 0.025)}.get(pattern, (0, 0.0))
    for _ in range(number):
        rx, ry = radius * draw.uniform(0.6, 1.5), radius * draw.uniform(0.6, 1.5)
        spot = ellipse(draw.random(), draw.random(), rx, ry) * side
        pen.polygon(spot.ravel().tolist(), fill=dark)
    return paints
