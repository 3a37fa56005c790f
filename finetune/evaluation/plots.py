"""The two pictures of a run. Drawn with matplotlib's object interface, which needs no display and leaves no state."""

from collections.abc import Mapping, Sequence
from typing import Any, BinaryIO

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

_TRAIN, _VALIDATION = "#8a8a8a", "#0b5394"  # apart in grey, too


def confusion(
    matrix: np.ndarray, classes: Sequence[str], file: BinaryIO, photos: str = "test photos"
) -> None:
    """Draw a confusion matrix as PNG.

    Args:
        matrix: int (classes, classes), rows are true classes.
        classes: their names.
        file: where the PNG goes.
        photos: what was counted.
    """
    side = max(3.2, 0.5 * len(classes) + 2.2)
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.subplots()
    share = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for (row, column), count in np.ndenumerate(matrix):
        color = "white" if share[row, column] > 0.5 else "black"
        axes.text(column, row, f"{count:,}", ha="center", va="center", color=color)
    rotation = 0 if sum(map(len, classes)) < 12 * side / 2 else 90
    axes.set_xticks(range(len(classes)), classes, rotation=rotation)
    axes.set_yticks(range(len(classes)), classes)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    axes.set_title(f"{int(matrix.sum()):,} {photos}", fontsize=10)
    figure.savefig(file, format="png", dpi=150)


def curves(history: Sequence[Mapping[str, Any]], file: BinaryIO) -> None:
    """Draw loss and accuracy by epoch as PNG; epoch 0 is before training.

    Args:
        history: rows of ``fit``, phases one after the other.
        file: where the PNG goes.
    """
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    for axes, name in zip(figure.subplots(1, 2), ("loss", "accuracy"), strict=True):
        axes.set_title(name, fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        if not history:
            axes.text(
                0.5,
                0.5,
                "fitted by L-BFGS:\nno epochs",
                ha="center",
                va="center",
                transform=axes.transAxes,
            )
            axes.set_xticks([])
            axes.set_yticks([])
            continue
        steps = range(len(history))
        trained = [np.nan if row[name] is None else row[name] for row in history]
        axes.plot(steps, trained, color=_TRAIN, linestyle="--", marker=".", label="training")
        axes.plot(
            steps,
            [row[f"val_{name}"] for row in history],
            color=_VALIDATION,
            marker=".",
            label="validation",
        )
        best = int(np.argmin([row["val_loss"] for row in history]))
        axes.axvline(best, color="black", linewidth=0.6, linestyle=":", label="kept")
        axes.legend(frameon=False, fontsize=8)
    figure.savefig(file, format="png", dpi=150)
