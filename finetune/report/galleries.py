"""The report's galleries: which test photos tell something about the recipes, as thumbnails in the page."""

import base64
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from finetune.data.decode import FORMATS
from finetune.data.photos import BadPhoto, decode
from finetune.evaluation.overlays import percent
from finetune.report.sections import Section

_SIDE = 160  # the longer one, pixels


def galleries(section: Section, root: Path | None, limit: int) -> list[dict[str, Any]]:
    """Photos that every recipe gets wrong, that only one gets right, and the most confident mistakes.

    Args:
        section: at least one recipe.
        root: the data set's folder, or None if it is not at hand; then the photos are named but not shown.
        limit: photos per gallery.

    Returns:
        One dict per gallery: title, note, found (photos in all) and photos, each with src (data URI or None), width,
        height, file, true (class name) and text. The first two are left out where there is only one recipe.
    """
    correct = np.array([entry.photos["correct"] for entry in section.entries])
    chosen = [_confident_mistakes(section, correct)]
    if len(section.entries) > 1:
        chosen = [_all_wrong(section, correct), _one_right(section, correct), *chosen]
    files, labels = section.entries[0].test.files, section.entries[0].test.labels
    for gallery in chosen:
        texts = gallery.pop("texts")
        gallery["found"] = len(texts)
        gallery["photos"] = [
            {
                "file": files[i],
                "true": section.classes[labels[i]],
                "text": text,
                **_thumbnail(root, files[i]),
            }
            for i, text in list(texts.items())[:limit]
        ]
    return chosen


def explanations(run: Path, root: Path | None) -> Mapping[str, Any] | None:
    """The sheet that a run explains itself with (``explanations.png``).

    Args:
        run: the run folder.
        root: as for ``galleries``; None shows no photos, and so no sheet.

    Returns:
        src (data URI), width and height; None if there is no sheet, or none is to be shown.
    """
    sheet = run / "explanations.png"
    if root is None or not sheet.exists():
        return None
    with Image.open(sheet) as picture:
        return {"src": _data_uri(picture, 90), "width": picture.width, "height": picture.height}


def _all_wrong(section: Section, correct: np.ndarray) -> dict[str, Any]:
    """texts: photo -> caption, the highest mean log loss first."""
    predicted = np.array([entry.photos["predicted"] for entry in section.entries])
    loss = np.mean([entry.photos["loss"] for entry in section.entries], axis=0)
    wrong = np.flatnonzero(~correct.any(axis=0))
    texts = {}
    for i in wrong[np.argsort(-loss[wrong], kind="stable")]:
        names = [section.classes[label] for label in dict.fromkeys(predicted[:, i])]
        texts[i] = f"taken for {' or '.join(names)}"
    return {
        "title": "Every recipe gets these wrong",
        "note": "Highest mean log loss first.",
        "texts": texts,
    }


def _one_right(section: Section, correct: np.ndarray) -> dict[str, Any]:
    """texts: photo -> caption, the recipes by turns, each with its most confident hit first."""
    single = np.flatnonzero(correct.sum(axis=0) == 1)
    owner = correct[:, single].argmax(axis=0)
    confidence = np.array(
        [section.entries[e].photos["confidence"][i] for e, i in zip(owner, single, strict=True)]
    )
    turn = np.zeros(len(single), dtype=int)
    for entry in np.unique(owner):
        mine = np.flatnonzero(owner == entry)
        turn[mine[np.argsort(-confidence[mine], kind="stable")]] = np.arange(len(mine))
    order = np.lexsort((owner, turn))
    names = [section.entries[k].name for k in owner]
    texts = {single[k]: f"only {names[k]} is right, {percent(confidence[k])} sure" for k in order}
    return {
        "title": "Only one recipe gets these right",
        "note": "The recipes take turns.",
        "texts": texts,
    }


def _confident_mistakes(section: Section, correct: np.ndarray) -> dict[str, Any]:
    """texts: photo -> caption, by the confidence of the recipe that is surest of a wrong class."""
    confidence = np.where(correct, 0.0, [entry.photos["confidence"] for entry in section.entries])
    surest = confidence.argmax(axis=0)
    wrong = np.flatnonzero(~correct.all(axis=0))
    texts = {}
    for i in wrong[np.argsort(-confidence.max(axis=0)[wrong], kind="stable")]:
        entry = section.entries[surest[i]]
        name = section.classes[entry.photos["predicted"][i]]
        texts[i] = (
            f"taken for {name} by {entry.name}, {percent(entry.photos['confidence'][i])} sure"
        )
    return {
        "title": "The most confident mistakes",
        "note": "Each photo once, with its surest recipe.",
        "texts": texts,
    }


def _thumbnail(root: Path | None, file: str) -> Mapping[str, Any]:
    """src, width and height; src is None for a photo that is gone or cannot be decoded, and the page says so."""
    if root is None:
        return {"src": None}
    try:
        data = (root / file).read_bytes()
        with Image.open(io.BytesIO(data), formats=FORMATS) as photo:
            width, height = ImageOps.exif_transpose(photo).size
        pixels = decode(data, 2 * _SIDE, "squash")
    except (BadPhoto, OSError):
        return {"src": None}
    scale = _SIDE / max(width, height)
    width, height = max(1, round(width * scale)), max(1, round(height * scale))
    thumbnail = Image.fromarray(pixels).resize((width, height), Image.Resampling.LANCZOS)
    return {"src": _data_uri(thumbnail, 80), "width": width, "height": height}


def _data_uri(picture: Image.Image, quality: int) -> str:
    file_like = io.BytesIO()
    picture.save(file_like, "JPEG", quality=quality, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(file_like.getvalue()).decode()
