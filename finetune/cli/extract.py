"""`finetune extract-features`."""

from pathlib import Path
from typing import Annotated

import typer

from finetune.cli.options import (
    BackboneOption,
    DataOption,
    JsonOption,
    Pooling,
    SetOption,
    SizeOption,
    SkipOption,
    WeightsOption,
    plain,
    print_json,
    reporter,
)


def extract_features(
    data: DataOption = None,
    backbone: BackboneOption = None,
    weights: WeightsOption = None,
    image_size: SizeOption = None,
    cut: Annotated[
        str | None, typer.Option(help="Name of the cut (default: above the last block).")
    ] = None,
    pooling: Annotated[
        Pooling, typer.Option(help="What is written: whole maps or pooled features.")
    ] = Pooling["gap"],
    settings: SetOption = None,
    skip_bad: SkipOption = False,
    out: Annotated[
        Path | None, typer.Option(help="Where features.npy and index.csv go (default: features/).")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Run the photos through the backbone once; write features.npy and index.csv."""
    from finetune.commands import extract_features as features

    chosen = {"data": data, "backbone": backbone, "weights": weights, "image_size": image_size}
    result = features.extract_features(
        **plain(chosen),
        cut=cut,
        pooling=pooling.value,
        settings=settings or (),
        skip_bad=skip_bad,
        out=out or Path("features"),
        reporter=reporter(),
    )
    shape = " x ".join(map(str, result["shape"]))
    speed = (
        "from the store"
        if result["cached"]
        else f"{result['images_per_second']:.1f} photos per second"
    )
    print_json(result) if as_json else print(
        f"{result['out']}: features.npy ({shape}), index.csv; {speed}"
    )
