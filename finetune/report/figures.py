"""Geometry of the report's figures, in the units of their SVG view boxes; the template draws.

Hand-made SVG rather than matplotlib's: that one carries style attributes, which the report's
content security policy forbids, and cannot follow the reader's light or dark colours.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.ticker import MaxNLocator

from finetune.evaluation.metrics import reliability_curve

PANEL = {"width": 180, "height": 132, "left": 30, "right": 172, "top": 8, "bottom": 112}
_DURATIONS = np.concatenate(
    [[0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30], 60 * np.array([1, 3, 10, 30, 60, 180, 600, 1440, 4320])]
)
_LEAST_LOSS = 1e-4


def duration(seconds: float) -> str:
    """``0.3 s``, ``45 s``, ``1.5 min``, ``12 h``."""
    for unit, size, limit in (("s", 1, 60), ("min", 60, 3600), ("h", 3600, np.inf)):
        if seconds < limit:
            return f"{round(seconds / size, 0 if seconds / size >= 9.95 else 1):g} {unit}"
    raise ValueError(
        f"a duration of {seconds} seconds; allowed: a number; leave out what is not known"
    )


def pareto_front(
    cost: Sequence[float] | np.ndarray, accuracy: Sequence[float] | np.ndarray
) -> np.ndarray:
    """bool (n,): whether nothing is both as cheap and as accurate, and better in one of the two."""
    c = np.asarray(cost)
    a = np.asarray(accuracy)
    no_worse = (c[:, None] <= c) & (a[:, None] >= a)
    better = (c[:, None] < c) | (a[:, None] > a)
    return np.asarray(~(no_worse & better).any(axis=0))


def pareto(points: Sequence[Mapping[str, Any]], width: int, height: int) -> dict[str, Any]:
    """Accuracy over cost (logarithmic).

    Args:
        points: dicts with recipe, number (its rank), cost_seconds (finite) and accuracy (fraction).
        width, height: of the view box.

    Returns:
        width, height, plot (left, right, top, bottom), x_ticks and y_ticks ((position, text) each),
        points with x, y and front added, front (its points, cheapest first) and steps (its
        polyline).
    """
    plot = {"left": 44, "right": width - 14, "top": 34, "bottom": height - 40}
    seconds = np.maximum([point["cost_seconds"] for point in points], 0.01)
    percent = 100 * np.array([point["accuracy"] for point in points])
    xs, x_ticks = _time_axis(seconds, plot)
    ys, y_ticks = _percent_axis(percent, plot)
    best = pareto_front(seconds, percent)
    placed = [
        {**point, "x": float(xs[i]), "y": float(ys[i]), "front": bool(best[i])}
        for i, point in enumerate(points)
    ]
    front = sorted((point for point in placed if point["front"]), key=lambda point: point["x"])
    return {
        "width": width,
        "height": height,
        "plot": plot,
        "x_ticks": x_ticks,
        "y_ticks": y_ticks,
        "points": placed,
        "front": front,
        "steps": _steps(front, plot),
    }


def curves(
    entries: Mapping[str, tuple[pd.DataFrame, Sequence[pd.DataFrame]]],
) -> dict[str, Any] | None:
    """Loss by epoch, one small panel per recipe, all with the same logarithmic y axis.

    Args:
        entries: recipe -> (history of the model shown, histories of all seeds); empty ones are left
            out.

    Returns:
        ticks ((y, text) each) and panels: name, epochs, validation (polylines of all seeds), shown
        and train (that of the model shown), kept (x, y: the epoch with the lowest validation loss).
        None if no recipe has a history.
    """
    entries = {name: entry for name, entry in entries.items() if len(entry[0])}
    if not entries:
        return None
    tables = [table[["loss", "val_loss"]] for _, seeds in entries.values() for table in seeds]
    values = pd.concat(tables).to_numpy(dtype=float)
    values = np.maximum(values[np.isfinite(values)], _LEAST_LOSS)
    ends = np.log10([values.min() / 1.15, values.max() * 1.15])
    ticks = np.outer(10.0 ** np.arange(-4, 4), [1, 2, 5]).ravel()
    ticks = ticks[(np.log10(ticks) >= ends[0]) & (np.log10(ticks) <= ends[1])]
    ticks = ticks[:: -(-len(ticks) // 4) or 1]

    def height(loss: np.ndarray) -> np.ndarray:
        logarithms = np.log10(np.maximum(loss, _LEAST_LOSS))
        return np.interp(logarithms, ends, [PANEL["bottom"], PANEL["top"]])

    panels = [_curve_panel(name, *entry, "loss", height) for name, entry in entries.items()]
    labels = [(float(y), f"{v:g}") for v, y in zip(ticks, height(ticks), strict=True)]
    return {"what": "Loss", "ticks": labels, "panels": panels}


def accuracies(
    entries: Mapping[str, tuple[pd.DataFrame, Sequence[pd.DataFrame]]], test: Mapping[str, float]
) -> dict[str, Any] | None:
    """Accuracy by epoch, as ``curves``, and that on the test photos as a level line.

    Args:
        entries: as ``curves`` takes them.
        test: recipe -> accuracy of the model shown, of the epoch that was kept.

    Returns:
        As ``curves``; each panel also has test, a height.
    """
    entries = {name: entry for name, entry in entries.items() if len(entry[0])}
    if not entries:
        return None
    tables = [
        table[["accuracy", "val_accuracy"]] for _, seeds in entries.values() for table in seeds
    ]
    measured = pd.concat(tables).to_numpy(dtype=float)
    lowest = min(0.99, np.nanmin(measured), *(test[name] for name in entries))
    ticks = _ticks(100 * lowest, 100, 4)
    ticks = ticks[ticks <= 100]

    def height(share: Any) -> np.ndarray:
        return np.interp(100 * share, [ticks[0], 100], [PANEL["bottom"], PANEL["top"]])

    panels = [
        {**_curve_panel(name, *entry, "accuracy", height), "test": float(height(test[name]))}
        for name, entry in entries.items()
    ]
    labels = [(float(height(value / 100)), f"{value:g}") for value in ticks]
    return {"what": "Accuracy", "ticks": labels, "panels": panels}


def reliability(
    probabilities: np.ndarray, scaled: np.ndarray, labels: np.ndarray
) -> dict[str, Any]:
    """A reliability diagram: confidence from 1/classes to 1 against accuracy 0 to 1.

    Args:
        probabilities, scaled: (n, classes), before and after temperature scaling.
        labels: int (n,).

    Returns:
        raw and scaled, lists of (x, y, radius; area by number of photos); diagonal (x1, y1, x2,
        y2); floor (1/classes).
    """
    floor = 1 / probabilities.shape[1]
    xs = ([floor, 1], [PANEL["left"], PANEL["right"]])
    ys = ([0, 1], [PANEL["bottom"], PANEL["top"]])

    def bubbles(values: np.ndarray) -> list[list[float]]:
        curve = reliability_curve(values, labels)
        radius = 1.8 + 6 * np.sqrt(curve["n"] / len(labels))
        x = np.interp(curve["confidence"], *xs)
        y = np.interp(curve["accuracy"], *ys)
        return np.column_stack([x, y, radius]).tolist()

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
    ticks = _DURATIONS
    for candidates in (_DURATIONS, _ticks(seconds.min(), seconds.max(), 4)):
        inside = (candidates >= np.exp(ends[0])) & (candidates <= np.exp(ends[1]))
        ticks = candidates[inside]
        if len(ticks) > 1:
            break

    def x(values: np.ndarray) -> np.ndarray:
        return np.interp(np.log(values), ends, [plot["left"], plot["right"]])

    return x(seconds), [(float(x(value)), duration(value)) for value in ticks]


def _percent_axis(
    percent: np.ndarray, plot: Mapping[str, float]
) -> tuple[np.ndarray, list[tuple[float, str]]]:
    """Positions of the points and ticks on a linear axis."""
    pad = max(0.05 * np.ptp(percent), 0.05)
    ticks = _ticks(percent.min() - pad, min(percent.max() + pad, 100), 6)
    digits = max(len(f"{value:g}".partition(".")[2]) for value in ticks)
    ends = [min(ticks[0], percent.min()), max(ticks[-1], percent.max())]
    heights = [plot["bottom"], plot["top"]]
    labels = [(float(np.interp(v, ends, heights)), f"{v:.{digits}f}") for v in ticks]
    return np.interp(percent, ends, heights), labels


def _curve_panel(
    name: str,
    shown: pd.DataFrame,
    seeds: Sequence[pd.DataFrame],
    column: str,
    height: Callable[[np.ndarray], np.ndarray],
) -> dict[str, Any]:
    last = max(1, *(len(table) - 1 for table in seeds))

    def line(table: pd.DataFrame, column: str) -> np.ndarray:
        values = table[column].to_numpy(dtype=float)
        x = np.interp(np.arange(len(values)), [0, last], [PANEL["left"], PANEL["right"]])
        return np.column_stack([x, height(values)])[np.isfinite(values)]

    validation = line(shown, f"val_{column}")
    return {
        "name": name,
        "epochs": last,
        "validation": [_polyline(line(table, f"val_{column}")) for table in seeds],
        "shown": _polyline(validation),
        "train": _polyline(line(shown, column)),
        "kept": validation[int(shown["val_loss"].argmin())].round(1).tolist(),
    }


def _ticks(low: float, high: float, at_most: int) -> np.ndarray:
    """Round numbers that enclose the range."""
    ticks = MaxNLocator(at_most, steps=[1, 2, 5, 10]).tick_values(low, high)
    return np.asarray(ticks).round(10)


def _polyline(points: Any) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)


def _steps(front: Sequence[Mapping[str, Any]], plot: Mapping[str, float]) -> str:
    """The front as stairs: up to each point there is nothing better for that cost."""
    corners = []
    height = plot["bottom"]
    for point in front:
        corners += [(point["x"], height), (point["x"], point["y"])]
        height = point["y"]
    return _polyline([*corners, (plot["right"], height)])
