"""A network's graph as SVG, with its blocks as bands and the cuts between them as lines."""

from html import escape
from math import prod

import keras

from finetune.model.cut import sources
from finetune.model.describe import blocks_of

_ROW = 11  # px between two layers on one path
_LANE = 26  # px between two paths
_LEFT = 150
_RIGHT = 260  # px for the cuts' figures
_TITLE = 46
_KINDS = {
    "Conv": ("#2b6cb0", "convolution"),
    "Dense": ("#805ad5", "dense"),
    "Norm": ("#d69e2e", "normalization"),
    "Pool": ("#c53030", "pooling"),
    "Add": ("#2f855a", "join"),
    "Concat": ("#2f855a", "join"),
    "Multiply": ("#2f855a", "join"),
}
_OTHER = ("#718096", "other")


def draw(model: keras.Model, ends: tuple[str, ...], title: str) -> str:
    """Draw a functional model from the photo downwards.

    Args:
        model: what ``build_base`` made.
        ends: the layers that close its blocks; below each a cut is drawn in.
        title: stands above the picture.

    Returns:
        An SVG document; each layer has a tooltip with its name, class and shape.
    """
    names = max(len(name) for name in blocks_of(model, ends))
    places = _places(model, ends, max(_LEFT, 24 + 7 * names))
    height = _TITLE + max(y for _, y in places.values()) + 3 * _ROW
    width = round(max(600, max(x for x, _ in places.values()) + _RIGHT))
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" style="max-width: 100%; height: auto" '
        'font-family="sans-serif" font-size="11">',
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
        f'<text x="12" y="18" font-size="14" font-weight="bold">{escape(title)}</text>',
        _legend(),
        f'<g transform="translate(0 {_TITLE})">',
        *_bands(model, ends, places, width),
        *_edges(model, places),
        *(_node(operation, *places[operation.name]) for operation in model.operations),
        "</g></svg>",
    ]
    return "\n".join(parts) + "\n"


Places = dict[str, tuple[float, float]]


def _places(model: keras.Model, ends: tuple[str, ...], left: int) -> Places:
    """Rows by the longest path from the photo, with a gap at each cut; a side path takes the next
    free lane.
    """
    depth: dict[str, int] = {}
    lanes: dict[str, int] = {}
    taken: set[tuple[int, int]] = set()
    gaps = 0
    for operation in model.operations:
        below = sources(operation)
        row = max((depth[name] for name in below), default=-1) + 1
        row = max(row, gaps)
        lane = min((lanes[name] for name in below), default=0)
        while (row, lane) in taken:
            lane += 1
        taken.add((row, lane))
        depth[operation.name] = row
        lanes[operation.name] = lane
        if operation.name in ends:
            gaps = row + 4
    x = {name: left + 20 + _LANE * lane for name, lane in lanes.items()}
    return {name: (x[name], _ROW * (row + 1)) for name, row in depth.items()}


def _bands(model: keras.Model, ends: tuple[str, ...], places: Places, width: int) -> list[str]:
    """One band per block, its name and shape at the left, and its cut below."""
    parts = []
    for number, (name, operations) in enumerate(blocks_of(model, ends).items()):
        top = min(places[o.name][1] for o in operations) - 8
        bottom = max(places[o.name][1] for o in operations) + 10
        shape = operations[-1].output.shape[1:]
        fill = "#edf2f7" if number % 2 else "#f7fafc"
        sides = "x".join(map(str, shape))
        parts += [
            f'<rect x="8" y="{top}" width="{width - 16}" height="{bottom - top}" fill="{fill}"/>',
            f'<text x="16" y="{top + 15}" font-weight="bold">{escape(name)}</text>',
            f'<text x="16" y="{top + 29}" fill="#4a5568">{sides}</text>',
        ]
        if name in ends:
            y = bottom + 18
            label = f"cut {name}: {2 * prod(shape) / 1000:,.0f} kB per photo"
            parts += [
                f'<path class="cut" d="M8 {y}H{width - 8}" stroke="#c05621" stroke-dasharray="6 '
                '4"/>',
                f'<text x="{width - 14}" y="{y - 4}" text-anchor="end" '
                f'fill="#c05621">{escape(label)}</text>',
            ]
    return parts


def _edges(model: keras.Model, places: Places) -> list[str]:
    """Straight along a path; an edge that skips rows bends around them."""
    parts = []
    for operation in model.operations:
        x, y = places[operation.name]
        for source in sources(operation):
            left, above = places[source]
            bend = min(8 + (y - above) / 3, 70) if left == x and y - above > 4.5 * _ROW else 0
            middle = (above + y) / 2
            control = f"C{left + bend} {middle} {x + bend} {middle} {x} {y}"
            parts.append(f'<path d="M{left} {above}{control}" fill="none" stroke="#a0aec0"/>')
    return parts


def _kind(operation: keras.Operation) -> tuple[str, str]:
    name = type(operation).__name__
    return next((kind for part, kind in _KINDS.items() if part in name), _OTHER)


def _node(operation: keras.Operation, x: float, y: float) -> str:
    shape = "x".join(map(str, operation.output.shape[1:]))
    tip = escape(f"{operation.name}: {type(operation).__name__}, {shape}")
    fill = _kind(operation)[0]
    return f'<circle cx="{x}" cy="{y}" r="4" fill="{fill}"><title>{tip}</title></circle>'


def _legend() -> str:
    kinds = dict.fromkeys([*_KINDS.values(), _OTHER])
    parts = []
    for number, (color, name) in enumerate(kinds):
        x = 18 + 100 * number
        parts.append(
            f'<circle cx="{x}" cy="33" r="4" fill="{color}"/><text x="{x + 8}" y="37">{name}</text>'
        )
    return "".join(parts)
