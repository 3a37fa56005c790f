"""`finetune ensemble`."""

from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from finetune.cli.options import JsonOption, print_json, reporter


class BlendName(str, Enum):
    """Values of ``commands.ensemble.Blend``."""

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

    result = ensembles.ensemble(*runs, blend=blend.value, out=out, reporter=reporter())
    print_json(result) if as_json else print(_text(result))


def _text(result: dict[str, Any]) -> str:
    weights = ", ".join(f"{weight:.2f} {name}" for name, weight in result["weights"].items())
    test = result["test"]
    return "\n".join(
        [
            f"{result['blend']} of {weights}",
            f"test accuracy {100 * test['accuracy']:.1f} % (balanced {100 * test['balanced_accuracy']:.1f} %; always the "
            f"most frequent class: {100 * test['majority_baseline']:.1f} %), log loss {test['loss']:.4f}",
            result["verdict"],
            result["out"],
        ]
    )
