"""`finetune describe`: a backbone as a table and a picture, before anything is trained."""

import shutil
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from finetune.backend import load_keras
from finetune.errors import UsageError
from finetune.files import commit
from finetune.model.backbones import backbone as row_of
from finetune.model.base import build_base
from finetune.progress import SILENT, Reporter
from finetune.recipe.strategies import STRATEGIES


def describe(
    backbone: str,
    *,
    image_size: int = 224,
    alpha: float = 1.0,
    layers: bool = False,
    top: bool = False,
    svg: Path | None = None,
    reporter: Reporter = SILENT,
) -> dict[str, Any]:
    """Describe a backbone: shapes, parameters, multiply-adds, memory, receptive fields and cuts.

    Args:
        backbone: a name that `finetune backbones` lists.
        image_size: side of the square photos in pixels.
        alpha: width multiplier, for backbones that have one.
        layers: layer by layer, too.
        top: with the classifier of ImageNet's 1,000 classes.
        svg: where to write a picture of the graph with the cuts drawn in.
        reporter: is told where the picture is.

    Returns:
        ``backbone``, ``image_size``, what ``model.describe.describe_network`` returns, and
        ``trains``: by strategy, how many weights of the backbone would learn (for `top-blocks`, a
        list for 1, 2, ... blocks), BatchNorm left still.

    Raises:
        UsageError: no such backbone, or the photos are too small for it.
    """
    row = row_of(backbone, alpha)
    if image_size < row.min_size:
        raise UsageError(
            f"image_size is {image_size}; {backbone} takes photos of {row.min_size} px and more."
        )
    load_keras()
    from finetune.model.describe import describe_network
    from finetune.model.drawing import draw

    model = build_base(backbone, image_size, alpha=alpha, top=top)
    result = {
        "backbone": backbone,
        "image_size": image_size,
        **describe_network(model, row.blocks, layers),
    }
    result["trains"] = _trains([b["trainable"] for b in result["blocks"] if b["name"] != "top"])
    if svg:
        picture = draw(model, row.blocks, f"{backbone} at {image_size} px").encode()
        commit(svg, lambda file: file.write(picture))
        result["svg"] = str(svg)
        reporter.say(f"picture of the graph: {svg}")
    return result


def _trains(blocks: list[int]) -> dict[str, Any]:
    """Weights of the backbone that learn, by strategy; its blocks are given from the photo
    upwards.
    """
    learns = {
        "head": 0,
        "blocks": [sum(blocks[-count:]) for count in range(1, len(blocks))],
        "all": sum(blocks),
    }
    return {name: learns[strategy.learns] for name, strategy in STRATEGIES.items()}


_NOTE = (
    "memory, training: activations of one photo that live at once, and that training keeps; field: "
    "side of the receptive field in pixels; stored: bytes per photo at this cut (float16), - where "
    "it is none."
)
_HEADER = ("", "shape", "parameters", "multiply-adds", "memory", "training", "field", "stored")


def table(result: Mapping[str, Any], columns: int | None = None) -> str:
    """What the command prints, for a terminal of so many columns; None is this one's."""
    columns = columns or shutil.get_terminal_size().columns
    memory = result["activation_bytes"]
    total = (
        f"{result['backbone']} at {result['image_size']} px: {result['parameters']:,} parameters, "
        f"{_operations(result['multiply_adds'])} multiply-adds; activations of one "
        f"photo in float32: {_size(memory['inference'])} in inference, "
        f"{_size(memory['training'])} in training."
    )
    rows = [_HEADER, *map(_cells, result.get("layers") or result["blocks"])]
    learns = [f"  {name}: {_learning(n)}" for name, n in result["trains"].items()]
    return "\n".join(
        [
            textwrap.fill(total, columns),
            "",
            *_aligned(rows, columns),
            "",
            textwrap.fill(_NOTE, columns),
            "",
            "What learns of the backbone, beside the head (BatchNorm stays still):",
            *(textwrap.fill(line, columns, subsequent_indent="    ") for line in learns),
        ]
    )


def _learning(found: int | list[int]) -> str:
    if isinstance(found, int):
        return f"{found:,}"
    return ", ".join(f"{n:,} with {blocks}" for blocks, n in enumerate(found, 1))


def _aligned(rows: Sequence[Sequence[str]], columns: int) -> list[str]:
    """Columns of equal width; names on lines of their own where the terminal is too narrow."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    is_narrow = sum(widths) + 2 * (len(widths) - 1) > columns
    lines = []
    for name, *rest in rows:
        cells = "  ".join(cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True))
        if is_narrow:
            lines += [name, f"  {cells}"] if name else [f"  {cells}"]
        else:
            lines.append(f"{name.ljust(widths[0])}  {cells}")
    return lines


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    memory = row["activation_bytes"]
    stored = row["bytes_per_photo"]
    return (
        row["name"],
        "x".join(map(str, row["shape"])),
        f"{row['parameters']:,}",
        f"{row['multiply_adds'] / 1e6:,.1f} M",
        _size(memory["inference"]),
        _size(memory["training"]),
        str(row["receptive_field"]),
        _size(stored) if stored else "-",
    )


def _operations(count: int) -> str:
    return f"{count / 1e9:.2f} G" if count >= 1e8 else f"{count / 1e6:.2f} M"


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 1e5 else f"{count / 1e3:.1f} kB"
