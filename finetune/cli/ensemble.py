"""`finetune ensemble`."""

from datetime import datetime
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from finetune.cli.options import JsonOption, need_keras, print_json, reporter


class BlendName(str, Enum):
    """Keys of ``results.blend.BLENDS``, which takes long to import."""

    mean = "mean"
    weighted = "weighted"


def ensemble(
    runs: Annotated[
        list[Path], typer.Argument(help="Two or more finished runs on the same photos.")
    ],
    blend: Annotated[BlendName, typer.Option(help="Which one becomes the model.")] = BlendName.mean,
    out: Annotated[
        Path | None, typer.Option(help="Its folder (default: a new one in runs/).")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Combine finished runs into one model, and say whether that pays."""
    from finetune.commands import ensemble as ensembles
    from finetune.runs.members import read_members

    members = read_members(runs, reserved=list(ensembles.ROWS.values()))
    need_keras()
    folder = out or Path("runs", f"ensemble-{datetime.now():%Y%m%d-%H%M%S-%f}")
    result = ensembles.ensemble(members, folder, reporter(), blend.value)
    print_json(result) if as_json else print(_text(result))


def _text(result: dict[str, Any]) -> str:
    lines = [
        f"{row['name']}: test accuracy {100 * row['test']['accuracy']:.1f} %, log loss {row['test']['loss']:.4f}; "
        f"validation {100 * row['validation']['accuracy']:.1f} %, {row['validation']['loss']:.4f}"
        for row in result["rows"]
    ]
    weights = ", ".join(f"{weight:.2f} {name}" for name, weight in result["weights"].items())
    return "\n".join(
        [*lines, f"model: {result['blend']} of {weights}", result["verdict"], result["report"]]
    )
