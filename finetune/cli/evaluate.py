"""`finetune evaluate`."""

from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from finetune.cli.options import JsonOption, SkipOption, need_keras, print_json, reporter

Split = Enum(
    "Split", {"test": "test", "validation": "validation", "train": "train", "all": "all"}, type=str
)
_SHOWN = 5  # photos of the highest loss; more are in top_losses.csv


def evaluate(
    model: Annotated[
        Path, typer.Argument(metavar="RUN|MODEL", help="A run folder, or a .keras file.")
    ],
    data: Annotated[
        str,
        typer.Argument(help="Class folders, as such or in split folders; or a data set's name."),
    ],
    split: Annotated[
        Split | None, typer.Option(help="Default: test; all, where there are no splits.")
    ] = None,
    skip_bad: SkipOption = False,
    out: Annotated[
        Path | None, typer.Option(help="Default: evaluations/RUN-DATA.", show_default=False)
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Measure a classifier on other labelled photos of its classes."""
    need_keras()
    from finetune.commands import evaluate as command
    from finetune.runs.classifier import Classifier

    chosen = split.value if split else None
    result = command.evaluate(Classifier.open(model), data, reporter(), chosen, out, skip_bad)
    print_json(result) if as_json else print(_text(result))


def _text(result: dict[str, Any]) -> str:
    percent = [f"{100 * value:.1f}" for value in (result["accuracy"], *result["accuracy_interval"])]
    auc = "undefined: a class is missing" if result["auc"] is None else f"{result['auc']:.4f}"
    width = max(5, *(len(row["class"]) for row in result["per_class"]))
    lines = [
        f"accuracy {percent[0]} % ({percent[1]} to {percent[2]}) on {result['n']:,} photos, log loss {result['loss']:.4f}",
        f"balanced accuracy {100 * result['balanced_accuracy']:.1f} %, calibration error {result['ece']:.4f}, AUC {auc}",
        f"\n{'class':<{width}}  photos  recall  precision  F1",
    ]
    for row in result["per_class"]:
        shares = (
            f"{100 * row['recall']:6.1f}  {100 * row['precision']:9.1f}  {100 * row['f1']:5.1f}"
        )
        lines.append(
            f"{row['class']:<{width}}  {row['n']:>6,}  {shares if row['n'] else '     -          -      -'}"
        )
    lines.append("\nhighest losses")
    lines += [
        f"  {photo['loss']:5.2f}  {photo['class']} → {photo['predicted']}  {photo['file']}"
        for photo in result["top_losses"][:_SHOWN]
    ]
    return "\n".join([*lines, f"\n{result['out']}"])
