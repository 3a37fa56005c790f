"""The pictures of a run, by matplotlib's object interface: no display, no state."""

from collections.abc import Mapping, Sequence
from typing import Any, BinaryIO

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator

_TRAIN, _VALIDATION = "#8a8a8a", "#0b5394"  # apart in grey, too
_DPI = 150
_LARGEST = 10.0  # inches: no picture is wider or higher than 1,500 px
_NUMBERED = 25  # classes; more numbers than 25 x 25 cannot be read
_LABELLED = 40  # class names on an axis
_NAME = 24  # characters of a class name
_EM = 0.7  # width of a wide character, of the font's size


def confusion(
    matrix: np.ndarray, classes: Sequence[str], file: BinaryIO, photos: str = "test photos"
) -> None:
    """Draw a confusion matrix as PNG of at most 1,500 x 1,500 px.

    Beyond 25 classes the cells have no numbers, and beyond 40 not every class is named at the axes;
    see ``metrics.top_confusions`` for a list.

    Args:
        matrix: int (classes, classes), rows are true classes.
        classes: their names.
        file: where the PNG goes.
        photos: what was counted.
    """
    count = len(classes)
    side = float(np.clip(0.5 * count + 2.2, 3.2, _LARGEST))
    figure = _figure(side, side)
    axes = figure.subplots()
    share = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    if count <= _NUMBERED:
        _write_numbers(axes, matrix, share, 10 if count <= 15 else 7)
    left, bottom = _name_classes(axes, classes, side)
    figure.subplots_adjust(left / side, bottom / side, 1 - 0.15 / side, 1 - 0.35 / side)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    axes.set_title(f"{int(matrix.sum()):,} {photos}", fontsize=10, parse_math=False)
    figure.savefig(file, format="png", dpi=_DPI)


def curves(history: Sequence[Mapping[str, Any]], file: BinaryIO) -> None:
    """Draw loss and accuracy by epoch as PNG; epoch 0 is before training.

    Args:
        history: rows of ``fit``, phases one after the other; at least one.
        file: where the PNG goes.
    """
    figure = _figure(8, 3.2)
    figure.subplots_adjust(0.07, 0.16, 0.98, 0.9, wspace=0.16)
    best = int(np.argmin([row["val_loss"] for row in history]))
    for axes, name in zip(figure.subplots(1, 2), ("loss", "accuracy"), strict=True):
        _bare(axes, name, "epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        trained = [np.nan if row[name] is None else row[name] for row in history]
        held_out = [row[f"val_{name}"] for row in history]
        axes.plot(trained, color=_TRAIN, linestyle="--", marker=".", label="training")
        axes.plot(held_out, color=_VALIDATION, marker=".", label="validation")
        axes.axvline(best, color="black", linewidth=0.6, linestyle=":", label="kept")
        axes.legend(frameon=False, fontsize=8)
    figure.savefig(file, format="png", dpi=_DPI)


def penalty_path(path: Sequence[Mapping[str, float]], file: BinaryIO) -> None:
    """Draw validation loss by strength of the penalty as PNG: how L-BFGS's head was chosen.

    Args:
        path: dicts with c (inverse strength of the L2 penalty, above 0) and validation_loss (nats);
            at least one.
        file: where the PNG goes.
    """
    tried = sorted(path, key=lambda step: -step["c"])
    strengths = [1 / step["c"] for step in tried]
    losses = [step["validation_loss"] for step in tried]
    figure = _figure(5, 3.2)
    figure.subplots_adjust(0.13, 0.16, 0.97, 0.9)
    axes = figure.subplots()
    _bare(axes, "validation loss", "strength of the L2 penalty, 1/C")
    axes.set_xscale("log")
    # A hundred ticks and the setting of powers of ten would be most of the drawing.
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(lambda strength, _: f"{strength:g}")
    axes.plot(strengths, losses, color=_VALIDATION, marker=".")
    kept = strengths[int(np.argmin(losses))]
    axes.axvline(kept, color="black", linewidth=0.6, linestyle=":", label="kept")
    axes.legend(frameon=False, fontsize=8)
    figure.savefig(file, format="png", dpi=_DPI)


def range_test(found: Mapping[str, Any], file: BinaryIO) -> None:
    """Draw the range test of learning rates as PNG.

    Args:
        found: see ``training.range_test``.
        file: where the PNG goes.
    """
    figure = Figure(figsize=(5, 3.2), layout="constrained")
    axes = figure.subplots()
    _bare(axes, "change of the loss (nats, smoothed)", "learning rate")
    axes.set_xscale("log")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(lambda rate, _: f"{rate:g}")
    axes.axhline(0, color="black", linewidth=0.6)
    axes.plot(found["rates"], found["changes"], color=_VALIDATION)
    # what lies far above the beginning would press the rest flat
    depth = -min(*found["changes"], 0)
    axes.set_ylim(top=min(max(found["changes"]), max(3 * depth, 0.1)), bottom=-1.3 * depth - 0.01)
    label = f"suggested: {found['suggested']:g}"
    axes.axvline(found["suggested"], color="black", linewidth=0.6, linestyle=":", label=label)
    axes.legend(frameon=False, fontsize=8, loc="upper left")
    figure.savefig(file, format="png", dpi=_DPI)


def importance(shares: Mapping[str, float], file: BinaryIO) -> None:
    """Draw how much each setting of a search matters as PNG, the most important one on top.

    Args:
        shares: setting -> its share of the variance of validation loss, fractions; at least one.
        file: where the PNG goes.
    """
    names = sorted(shares, key=lambda name: shares[name])[-_LABELLED:]
    figure = Figure(figsize=(6, min(1.2 + 0.3 * len(names), _LARGEST)), layout="constrained")
    axes = figure.subplots()
    _bare(axes, "what validation loss depended on", "share of its variance between trials")
    axes.barh(range(len(names)), [shares[name] for name in names], color=_VALIDATION)
    axes.set_yticks(range(len(names)), [_shortened(name) for name in names], parse_math=False)
    axes.set_xlim(0, 1)
    figure.savefig(file, format="png", dpi=_DPI)


def _figure(width: float, height: float) -> Figure:
    """A figure (inches) that keeps the margins it is given, whatever a notebook's settings are."""
    with rc_context({"figure.constrained_layout.use": False, "figure.autolayout": False}):
        return Figure(figsize=(width, height))


def _write_numbers(axes: Axes, matrix: np.ndarray, share: np.ndarray, size: int) -> None:
    few = len(matrix) <= 10  # in a larger matrix the zeros hide the mistakes
    for row, column in np.argwhere((matrix > 0) | few):
        color = "white" if share[row, column] > 0.5 else "black"
        text = f"{matrix[row, column]:,}"
        axes.text(column, row, text, ha="center", va="center", color=color, fontsize=size)


def _name_classes(axes: Axes, classes: Sequence[str], side: float) -> tuple[float, float]:
    """Every class, or every second, third, ...; names as they stand: a $ starts no formula.

    Returns:
        Inches that the names take at the left and below, with the axes' titles. To let matplotlib
        lay them out takes it four times as long as to draw.
    """
    step = -(-len(classes) // _LABELLED)
    places = range(0, len(classes), step)
    names = [_shortened(classes[place]) for place in places]
    flat = sum(map(len, names)) < 12 * side / 2
    style: dict[str, Any] = {"parse_math": False, "fontsize": 10 if len(names) <= 20 else 7}
    axes.set_xticks(places, names, rotation=0 if flat else 90, **style)
    axes.set_yticks(places, names, **style)
    longest = max(map(len, names)) * style["fontsize"] * _EM / 72
    return 0.4 + longest, 0.45 + (0.15 if flat else longest)


def _shortened(name: str) -> str:
    name = " ".join(name.split())
    return name if len(name) <= _NAME else f"{name[: _NAME - 1]}…"


def _bare(axes: Axes, title: str, below: str) -> None:
    axes.set_title(title, fontsize=10)
    axes.set_xlabel(below)
    axes.spines[["top", "right"]].set_visible(False)
