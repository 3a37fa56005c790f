"""Photos on disk to features on disk: finetune, plain Keras's predict, and bare OpenVINO as the
limit.

python -m benchmarks.extraction [--backbone NAME]... [--precision P]... [--photos 256] [--repeats 3]
[--out FILE]
"""

import tempfile
from pathlib import Path
from typing import Annotated

import pandas as pd
import typer

from benchmarks.paired import in_turn, ratio, report
from benchmarks.photos import make_folder
from finetune.activations.engine import resolve_precision

PRECISIONS = ["float32", "bfloat16", "int8"]


def main(
    backbone: Annotated[list[str], typer.Option()] = ["vgg16", "resnet50", "densenet121"],  # noqa: B006
    precision: Annotated[list[str], typer.Option()] = PRECISIONS,
    photos: int = 256,
    size: int = 224,
    repeats: int = 3,
    torch: bool = False,
    out: Path | None = None,
) -> None:
    """Ratios end to end, set-up included, and of the stream alone, which grows with the photos.

    ``--torch`` adds the same trunk in torch (extra ``bench``), which has no int8 row.
    """
    table, measured = [], []
    with tempfile.TemporaryDirectory() as folder:
        data = make_folder(
            Path(folder), photos - photos // 2, photos // 4, photos // 2 - photos // 4
        )
        for name in backbone:
            job = (data, "--backbone", name, "--size", size)
            contenders = {"plain": ("plain", "extraction", *job)}
            for kind in precision:
                given = ("--precision", kind)
                contenders[f"ours {kind}"] = ("ours", "extraction", *job, *given)
                bare = resolve_precision(kind) if kind == "auto" else kind
                contenders[f"bare {kind}"] = ("bare", name, size, photos, bare)
                if torch and kind != "int8":
                    contenders[f"torch {kind}"] = ("torch_frozen", *job, *given)
            rows = in_turn(contenders, repeats)
            measured.append(rows.assign(backbone=name))
            table += [_row(rows, name, kind, photos) for kind in precision]
    report("extraction", pd.DataFrame(table), pd.concat(measured), out, photos=photos, size=size)


def _row(rows: pd.DataFrame, backbone: str, precision: str, photos: int) -> dict[str, object]:
    ours, bare, torch = (f"{who} {precision}" for who in ("ours", "bare", "torch"))
    mine = rows[rows.contender == ours]
    seconds = mine["seconds"].median()
    row = {
        "backbone": backbone,
        "precision": precision,
        "plain / ours": _spread(ratio(rows, "plain", ours)),
        "share of bare OpenVINO, whole": _spread(ratio(rows, bare, ours)),
        "streaming": _spread(ratio(rows, bare, ours, "streaming")),
        "set-up s": round(seconds - mine["streaming"].median(), 1),
        "ours photos/s": round(photos / seconds, 1),
        "int8 made in s": round(mine["int8_made"].median(), 1),
    }
    if torch in set(rows.contender):
        row["torch / ours"] = _spread(ratio(rows, torch, ours))
    return row


def _spread(found: dict[str, float]) -> str:
    return f"{found['median']} ({found['low']}-{found['high']})"


if __name__ == "__main__":
    typer.run(main)
