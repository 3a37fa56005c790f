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
    need_keras,
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
    from finetune.recipe.recipe import load

    chosen = {"data": data, "backbone": backbone, "weights": weights, "image_size": image_size}
    chosen |= {"strategy": "cached-features", "skip_bad": skip_bad or None}
    resolved = load(None, plain(chosen), settings)
    need_keras()
    from finetune.commands import extract_features as features

    result = features.extract_features(
        resolved, cut, pooling.value, out or Path("features"), reporter()
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
