"""`finetune explain`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from finetune.cli.options import JsonOption, need_keras, print_json, reporter
from finetune.errors import DataError


def explain(
    run: Annotated[
        Path, typer.Argument(metavar="RUN|MODEL", help="A run folder, or a .keras file.")
    ],
    photos: Annotated[
        list[Path], typer.Argument(metavar="PHOTO|DIR...", help="Photos, and folders of photos.")
    ],
    layers: Annotated[
        list[str] | None,
        typer.Option(
            "--layer", metavar="NAME", help="Whose maps are weighed (default: the last ones)."
        ),
    ] = None,
    class_name: Annotated[
        str | None,
        typer.Option(
            "--class", metavar="NAME", help="Whose evidence is sought (default: the predicted one)."
        ),
    ] = None,
    maps_of: Annotated[
        list[str] | None,
        typer.Option("--feature-maps", metavar="LAYER", help="Draw this layer's maps, too."),
    ] = None,
    channels: Annotated[
        int, typer.Option(min=1, help="Channels of feature maps at most, the most active ones.")
    ] = 64,
    out: Annotated[Path, typer.Option(help="The folder of the pictures.")] = Path("explained"),
    as_json: JsonOption = False,
) -> None:
    """Show where in photos a classifier finds its evidence (Grad-CAM)."""
    need_keras()
    from finetune.commands import explain as command
    from finetune.runs.classifier import Classifier

    told = reporter()
    result = command.explain(
        Classifier.open(run), photos, layers or (), class_name, out, maps_of or (), channels, told
    )
    print_json(result) if as_json else print(_text(result))
    if bad := result["bad"]:
        for row in bad:
            told.warn(f"{row['file']}: {row['reason']}")
        raise DataError(
            f"{len(bad)} of {len(bad) + len(result['photos'])} photos could not be decoded; the others are done."
        )


def _text(result: dict[str, Any]) -> str:
    lines = [
        f"{row['file']}: {row['class']} {100 * row['probability']:.1f} %"
        for row in result["photos"]
    ]
    return "\n".join([*lines, *result["contact"]])
