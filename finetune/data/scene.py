"""Where an animal is: what lies behind it and stands before it, clutter, light, grain. No species is known here."""

import random
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter

from finetune.data.curves import curve, ellipse, tube

INKS = ("#2b2220", "#4a3b33", "#1d2433", "#6b5a50")
# What is far and what is near: sky and meadow, wall and floor, dusk, snow, sand.
SCENES = (
    ("#bcd9ea", "#8fb46a"), ("#e9dcc3", "#b98d62"), ("#cfd8c8", "#9a8f7f"), ("#e6c9c2", "#8b6f72"),
    ("#6d7f9c", "#4f5f55"), ("#dfe6ec", "#f4f6f7"), ("#f0d9a8", "#d6b37a"), ("#c9bfdc", "#7f8fa6"),
)  # fmt: skip


def _hue(draw: random.Random) -> str:
    return f"hsl({draw.randrange(360)},{draw.randint(10, 55)}%,{draw.randint(35, 80)}%)"


def _clouds(draw: random.Random, side: int, cells: int) -> Image.Image:
    """Smooth grey noise of ``cells`` x ``cells`` dark and light places: a gradient when there are few."""
    noise = Image.frombytes("L", (cells, cells), draw.randbytes(cells * cells))
    return noise.resize((side, side), Image.Resampling.BICUBIC)


def background(draw: random.Random, side: int) -> Image.Image:
    """What lies behind: a place with some clutter. RGB, ``side`` pixels square."""
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
        [ellipse(x, y, r, r), ellipse(x, y, 0.4 * r, r, tilt)],
        [np.array([(x - r, y - r), (x + r, y - r), (x + r, y + r), (x - r, y + r)])],
        [ellipse(x, y, 1.5 * r, 0.7 * r, tilt)],
        [tube(curve((x, y + r), (x + a * r, y), (x + 2 * a * r, y - r)), 0.15 * r, 0.02 * r) for a in leaves],
        [np.array([(x - r, y + r), (x, y - r), (x + r, y + r)])],
    ))  # fmt: skip
    for outline in outlines:
        pixels = (outline * layer.width).ravel().tolist()
        ImageDraw.Draw(layer).polygon(
            pixels, fill=_hue(draw), outline=draw.choice(INKS), width=layer.width // 128
        )


def foreground(draw: random.Random, side: int) -> Image.Image:
    """What stands before: nothing, a fence, grass, a sofa's edge or clutter. RGBA, ``side`` pixels square."""
    front = Image.new("RGBA", (side, side))
    pen, colour, ink = ImageDraw.Draw(front), _hue(draw), draw.choice(INKS)
    kind = draw.choices(("nothing", "fence", "grass", "sofa", "clutter"), (7, 1, 2, 1, 2))[0]
    if kind == "fence":
        step, start, thick = (
            draw.uniform(0.14, 0.25) * side,
            draw.uniform(0, 0.2) * side,
            0.03 * side,
        )
        for x in np.arange(start, side, step).tolist():
            pen.rectangle((x, -9, x + thick, side + 9), fill=colour, outline=ink)
    elif kind == "grass":
        for _ in range(90):
            x, tip = draw.random() * side, draw.uniform(-0.06, 0.06) * side
            pen.line(
                (x, side, x + tip, draw.uniform(0.7, 0.95) * side), fill=colour, width=side // 80
            )
    elif kind == "sofa":
        edge = draw.uniform(0.75, 0.9) * side
        pen.rounded_rectangle(
            (-9, edge, side + 9, 2 * side), side / 12, fill=colour, outline=ink, width=side // 90
        )
    elif kind == "clutter":
        for _ in range(draw.randint(1, 3)):
            _thing(draw, front, draw.random(), draw.uniform(0.3, 1), draw.uniform(0.05, 0.12))
    return front


def darkroom(draw: random.Random, size: int) -> Callable[[Image.Image], Image.Image]:
    """Draw light, blur and grain; the function returned applies them to a picture of ``size`` pixels a side."""
    brightness, contrast = draw.uniform(-25, 20), draw.uniform(0.7, 1.1)
    blur, noise, colour = (
        draw.choice((0, 0, 0, 0.6)),
        draw.uniform(0, 30),
        draw.choice((0, 0.6, 1, 1, 1)),
    )
    shade = 1 - np.asarray(_clouds(draw, size, 3), np.float32)[:, :, None] / 255 * draw.uniform(
        0, 0.3
    )
    grain = (
        np.frombuffer(draw.randbytes(3 * size * size), np.uint8).reshape(size, size, 3)
        / np.float32(255)
        - 0.5
    )

    def develop(sketch: Image.Image) -> Image.Image:
        soft = ImageEnhance.Color(sketch.filter(ImageFilter.GaussianBlur(blur))).enhance(colour)
        pixels = (
            (np.asarray(soft, np.float32) - 128) * contrast + 128 + brightness
        ) * shade + noise * grain
        return Image.fromarray(pixels.clip(0, 255).round().astype(np.uint8))

    return develop
