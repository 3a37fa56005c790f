"""advise.html: what stored features say before any training, on one page that loads nothing."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from finetune import __version__
from finetune.files import commit_text
from finetune.report.galleries import thumbnail
from finetune.report.page import page

_SHOWN = 24  # thumbnails of each kind of suspect
_KINDS = {
    "label": ("Likely label errors", "Another class is as probable as its own photos usually are."),
    "outlier": ("Outliers", "Far from all other photos: perhaps of nothing that is sought."),
    "near-duplicate": (
        "Near-duplicates across splits",
        "Hints: a scene in two splits flatters figures.",
    ),
}
_MARGINS = (52, 12, 12, 34)  # of the curve, in pixels: left, right, top, bottom


def write_advice(out: Path, result: Mapping[str, Any], root: Path | None) -> None:
    """Write ``advise.html``.

    Args:
        out: its folder.
        result: what ``finetune.commands.advise`` returns.
        root: the data set's folder, for the thumbnails.
    """
    galleries = []
    for kind, (title, note) in _KINDS.items():
        found = [row for row in result["suspects"] if row["kind"] == kind]
        shown = [{**row, "pictures": _pictures(row, root)} for row in found[:_SHOWN]]
        galleries.append({"title": title, "note": note, "found": len(found), "photos": shown})
    context = {
        "result": result,
        "galleries": galleries,
        "curves": [curve(result["learning_curve"], *size) for size in ((900, 320), (358, 280))],
        "version": __version__,
    }
    commit_text(out / "advise.html", page("advise.html", context))


def _pictures(row: Mapping[str, Any], root: Path | None) -> list[Mapping[str, Any]]:
    return [thumbnail(root, row[key]) for key in ("file", "other") if key in row]


def curve(points: list[dict[str, Any]], width: int, height: int) -> dict[str, Any]:
    """The learning curve as a picture: places in pixels, photos on a logarithmic scale."""
    left, right, top, bottom = _MARGINS
    photos = np.log2([point["photos"] for point in points])
    bounds = np.array([point["interval"] for point in points])
    low = np.floor(20 * bounds.min()) / 20
    high = min(1.0, np.ceil(20 * bounds.max()) / 20)
    span = max(np.ptp(photos), 1.0)
    x = left + (photos - photos[0]) / span * (width - left - right)

    def y(share: Any) -> Any:
        return top + (high - share) / max(high - low, 0.05) * (height - top - bottom)

    steps = np.linspace(low, high, 5)
    return {
        "width": width,
        "height": height,
        "floor": height - bottom,
        "left": left,
        "right": width - right,
        "steps": [(y(share), share) for share in steps],
        "points": [
            {
                **point,
                "x": x[i],
                "y": y(point["accuracy"]),
                "low": y(bounds[i, 0]),
                "high": y(bounds[i, 1]),
            }
            for i, point in enumerate(points)
        ],
    }
