"""Geometry of the report's figures, in the units of their SVG view boxes; the template draws and colours them.

Hand-made SVG rather than matplotlib's: that one carries style attributes, which the report's content security policy
forbids, and cannot follow the reader's light or dark colours.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.ticker import MaxNLocator

from finetune.evaluation.metrics import reliability_curve

_DURATIONS = [x * unit for unit in (0.01, 0.1, 1.0) for x in (1, 3)]
_DURATIONS += [
    10,
    30,
    60,
    180,
    600,
    1800,
    3600,
    3 * 3600,
    10 * 3600,
    24 * 3600,
    72 * 3600,
    240 * 3600,
]
_LEAST_LOSS = 1e-4
_CHARACTER, _LINE = 6.6, 13  # mean width and height of 12 px text
_SPOTS = [
    (8, 4, "start"),
    (-8, 4, "end"),
    (0, 18, "middle"),
    (0, -9, "middle"),
    (8, 16, "start"),
    (-8, 16, "end"),
]
PANEL = {"width": 180, "height": 132, "left": 30, "right": 172, "top": 8, "bottom": 112}


def duration(seconds: float) -> str:
    """``0.3 s``, ``45 s``, ``1.5 min``, ``12 h``."""
    for unit, size, limit in (("s", 1, 60), ("min", 60, 3600), ("h", 3600, np.inf)):
        if seconds < limit:
            return f"{round(seconds / size, 0 if seconds / size >= 9.95 else 1):g} {unit}"
    raise ValueError(
        f"a duration of {seconds} seconds; allowed: a number; leave out what is not known"
    )


def front(cost: Sequence[float] | np.ndarray, accuracy: Sequence[float] | np.ndarray) -> np.ndarray:
    """bool (n,): whether nothing is both as cheap and as accurate, and better in one of the two."""
    c, a = np.asarray(cost), np.asarray(accuracy)
    no_worse = (c[:, None] <= c) & (a[:, None] >= a)
    better = (c[:, None] < c) | (a[:, None] > a)
    return np.asarray(~(no_worse & better).any(axis=0))


def pareto(points: Sequence[Mapping[str, Any]], width: int, height: int) -> dict[str, Any]:
    """Accuracy over cost (logarithmic).

    Args:
        points: dicts with recipe, number (its rank), cost_seconds (finite) and accuracy (fraction).
        width, height: of the view box.

    Returns:
        width, height, plot (left, right, top, bottom), x_ticks and y_ticks ((position, text) each), front (the points
        of its polyline) and points, each with x, y, front, label (x, y, anchor) and text.
    """
    plot = {"left": 44, "right": width - 14, "top": 34, "bottom": height - 40}
    seconds = np.maximum([point["cost_seconds"] for point in points], 0.01)
    percent = 100 * np.array([point["accuracy"] for point in points])
    xs, x_ticks = _time_axis(seconds, plot)
    ys, y_ticks = _percent_axis(percent, plot)
    placed = [
        {**point, "x": float(x), "y": float(y), "front": bool(best)}
        for point, x, y, best in zip(points, xs, ys, front(seconds, percent), strict=True)
    ]
    _place_labels(placed, plot)
    steps = _steps(
        sorted((point for point in placed if point["front"]), key=lambda point: point["x"]), plot
    )
    ticks = {"x_ticks": x_ticks, "y_ticks": y_ticks}
    return {
        "width": width,
        "height": height,
        "plot": plot,
        **ticks,
        "front": steps,
        "points": placed,
    }


def curves(
    entries: Mapping[str, tuple[pd.DataFrame, Sequence[pd.DataFrame]]],
) -> dict[str, Any] | None:
    """Loss by epoch, one small panel per recipe, all with the same logarithmic y axis.

    Args:
        entries: recipe -> (history of the model shown, histories of all seeds); empty ones are left out.

    Returns:
        ticks ((y, text) each) and panels: name, epochs, validation (polylines of all seeds), shown and train (that of
        the model shown), kept (x, y: the epoch with the lowest validation loss). None if no recipe has a history.
    """
    entries = {name: entry for name, entry in entries.items() if len(entry[0])}
    if not entries:
        return None
    tables = [table[["loss", "val_loss"]] for _, seeds in entries.values() for table in seeds]
    values = pd.concat(tables).to_numpy(dtype=float)
    values = np.maximum(values[np.isfinite(values)], _LEAST_LOSS)
    ends = np.log10([values.min() / 1.15, values.max() * 1.15])
    decades = np.array([factor * 10.0**power for power in range(-4, 4) for factor in (1, 3)])
    ticks = decades[(np.log10(decades) >= ends[0]) & (np.log10(decades) <= ends[1])]
    ticks = ticks if len(ticks) <= 4 else ticks[::-2]
    return {
        "ticks": [
            (float(y), f"{value:g}")
            for value, y in zip(ticks, _loss_height(ticks, ends), strict=True)
        ],
        "panels": [
            _curve_panel(name, shown, seeds, ends) for name, (shown, seeds) in entries.items()
        ],
    }


def reliability(
    probabilities: np.ndarray, scaled: np.ndarray, labels: np.ndarray
) -> dict[str, Any]:
    """A reliability diagram: confidence from 1/classes to 1 against accuracy 0 to 1.

    Args:
        probabilities, scaled: float (n, classes), before and after temperature scaling.
        labels: int (n,).

    Returns:
        raw and scaled, lists of (x, y, radius; area by number of photos); diagonal (x1, y1, x2, y2); floor (1/classes).
    """
    floor = 1 / probabilities.shape[1]
    xs, ys = (
        ([floor, 1], [PANEL["left"], PANEL["right"]]),
        ([0, 1], [PANEL["bottom"], PANEL["top"]]),
    )

    def bubbles(values: np.ndarray) -> list[tuple[float, float, float]]:
        curve = reliability_curve(values, labels)
        radius = 1.8 + 6 * np.sqrt(curve["n"] / len(labels))
        return list(
            zip(
                np.interp(curve["confidence"], *xs),
                np.interp(curve["accuracy"], *ys),
                radius,
                strict=True,
            )
        )

    diagonal = (PANEL["left"], float(np.interp(floor, *ys)), PANEL["right"], PANEL["top"])
    return {
        "raw": bubbles(probabilities),
        "scaled": bubbles(scaled),
        "diagonal": diagonal,
        "floor": floor,
    }


def _time_axis(
    seconds: np.ndarray, plot: Mapping[str, float]
) -> tuple[np.ndarray, list[tuple[float, str]]]:
    """Positions of the points and ticks on a logarithmic axis."""
    ends = np.log([seconds.min() / 1.3, seconds.max() * 1.3])

    def x(values: Any) -> np.ndarray:
        return np.interp(np.log(values), ends, [plot["left"], plot["right"]])

    def inside(values: Sequence[float]) -> list[float]:
        return [value for value in values if np.exp(ends[0]) <= value <= np.exp(ends[1])]

    ticks = inside(_DURATIONS)
    ticks = ticks if len(ticks) > 1 else inside(_ticks(seconds.min(), seconds.max(), 4))
    return x(seconds), [(float(x(value)), duration(value)) for value in ticks]


def _percent_axis(
    percent: np.ndarray, plot: Mapping[str, float]
) -> tuple[np.ndarray, list[tuple[float, str]]]:
    """Positions of the points and ticks on a linear axis."""
    pad = max(0.05 * np.ptp(percent), 0.05)
    ticks = _ticks(percent.min() - pad, min(percent.max() + pad, 100), 6)
    digits = max(len(f"{value:g}".partition(".")[2]) for value in ticks)
    ends = [min(ticks[0], percent.min()), max(ticks[-1], percent.max())]

    def y(values: Any) -> np.ndarray:
        return np.interp(values, ends, [plot["bottom"], plot["top"]])

    return y(percent), [(float(y(value)), f"{value:.{digits}f}") for value in ticks]


def _curve_panel(
    name: str, shown: pd.DataFrame, seeds: Sequence[pd.DataFrame], ends: np.ndarray
) -> dict[str, Any]:
    last = max(1, *(len(table) - 1 for table in seeds))

    def line(table: pd.DataFrame, column: str) -> np.ndarray:
        loss = table[column].to_numpy(dtype=float)
        x = np.interp(np.arange(len(loss)), [0, last], [PANEL["left"], PANEL["right"]])
        return np.column_stack([x, _loss_height(loss, ends)])[np.isfinite(loss)]

    validation = line(shown, "val_loss")
    return {
        "name": name,
        "epochs": last,
        "validation": [_polyline(line(table, "val_loss")) for table in seeds],
        "shown": _polyline(validation),
        "train": _polyline(line(shown, "loss")),
        "kept": validation[validation[:, 1].argmax()].round(1).tolist(),
    }


def _loss_height(loss: np.ndarray, ends: np.ndarray) -> np.ndarray:
    return np.interp(np.log10(np.maximum(loss, _LEAST_LOSS)), ends, [PANEL["bottom"], PANEL["top"]])


def _ticks(low: float, high: float, at_most: int) -> list[float]:
    """Round numbers that enclose the range."""
    return [
        round(float(value), 10)
        for value in MaxNLocator(at_most, steps=[1, 2, 5, 10]).tick_values(low, high)
    ]


def _polyline(points: Any) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)


def _steps(points: Sequence[Mapping[str, Any]], plot: Mapping[str, float]) -> str:
    """The front as stairs: up to each point there is nothing better for that money."""
    corners = [(points[0]["x"], plot["bottom"])]
    for before, point in zip([None, *points], points, strict=False):
        corners += ([(point["x"], before["y"])] if before else []) + [(point["x"], point["y"])]
    corners.append((plot["right"], points[-1]["y"]))
    return _polyline(corners)


def _place_labels(points: list[dict[str, Any]], plot: Mapping[str, float]) -> None:
    """Give each point text (number; on the front also the name) where it covers least; the front chooses first."""
    taken = [(point["x"] - 5, point["y"] - 5, point["x"] + 5, point["y"] + 5) for point in points]
    for point in sorted(points, key=lambda point: not point["front"]):
        point["text"] = (
            f"{point['number']} {point['recipe']}" if point["front"] else str(point["number"])
        )
        # On the front the upper left is empty by definition.
        spots = [(-8, -7, "end"), (-6, -9, "start"), *_SPOTS] if point["front"] else _SPOTS
        boxes = [_box(point, spot) for spot in spots]
        covered = [
            sum(_overlap(box, other) for other in taken) + 1e3 * _outside(box, plot)
            for box in boxes
        ]
        best = int(np.argmin(np.round(covered)))
        taken.append(boxes[best])
        dx, dy, anchor = spots[best]
        point["label"] = {"x": point["x"] + dx, "y": point["y"] + dy, "anchor": anchor}


def _box(
    point: Mapping[str, Any], spot: tuple[float, float, str]
) -> tuple[float, float, float, float]:
    dx, dy, anchor = spot
    width = _CHARACTER * len(point["text"])
    left = point["x"] + dx - {"start": 0, "middle": width / 2, "end": width}[anchor]
    return left, point["y"] + dy - _LINE + 3, left + width, point["y"] + dy + 3


def _overlap(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))


def _outside(box: tuple[float, ...], plot: Mapping[str, float]) -> float:
    sides = (
        plot["left"] - box[0],
        box[2] - plot["right"] - 12,
        plot["top"] - 14 - box[1],
        box[3] - plot["bottom"],
    )
    return max(0.0, *sides)
