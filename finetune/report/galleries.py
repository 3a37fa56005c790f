"""The report's galleries: test photos that tell something about the recipes, as thumbnails."""

import base64
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from finetune.data.decode import BadPhoto, decode, upright_sides
from finetune.data.photos import read_bytes, unprintable
from finetune.evaluation.overlays import percent
from finetune.report.sections import Section

_SIDE = 160  # the longer one, pixels


def galleries(section: Section, root: Path | None, limit: int) -> list[dict[str, Any]]:
    """Photos that every recipe gets wrong, that one gets right, and the most confident mistakes.

    Args:
        section: at least one recipe.
        root: the data set's folder, or None if it is not at hand; then the photos are named but not
            shown.
        limit: photos per gallery.

    Returns:
        One dict per gallery: title, note, found (photos in all) and photos, each with src (data URI
        or None), width, height, file, true (class name) and text. The first two are left out where
        there is only one recipe.
    """
    correct = np.array([entry.photos["correct"] for entry in section.entries])
    chosen = [
        ("The most confident mistakes", "Each photo once, with its surest recipe.", _confident)
    ]
    if len(section.entries) > 1:
        chosen = [
            ("Every recipe gets these wrong", "Highest mean log loss first.", _all_wrong),
            ("Only one recipe gets these right", "The recipes take turns.", _one_right),
            *chosen,
        ]
    test = section.entries[0].test
    found = []
    for title, note, choose in chosen:
        texts = choose(section, correct)
        photos = [
            {
                "file": test.files[i],
                "true": section.classes[test.labels[i]],
                "text": text,
                **thumbnail(root, test.files[i]),
            }
            for i, text in list(texts.items())[:limit]
        ]
        found.append({"title": title, "note": note, "found": len(texts), "photos": photos})
    return found


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


def _all_wrong(section: Section, correct: np.ndarray) -> dict[int, str]:
    """Photo -> caption, the highest mean log loss first."""
    predicted = np.array([entry.photos["predicted"] for entry in section.entries])
    loss = np.mean([entry.photos["loss"] for entry in section.entries], axis=0)
    wrong = np.flatnonzero(~correct.any(axis=0))
    texts = {}
    for i in wrong[np.argsort(-loss[wrong], kind="stable")]:
        names = [section.classes[label] for label in dict.fromkeys(predicted[:, i])]
        texts[i] = f"taken for {' or '.join(names)}"
    return texts


def _one_right(section: Section, correct: np.ndarray) -> dict[int, str]:
    """Photo -> caption, the recipes by turns, each with its most confident hit first."""
    found = []
    single = correct.sum(axis=0) == 1
    for number, entry in enumerate(section.entries):
        mine = np.flatnonzero(single & correct[number])
        confidence = entry.photos["confidence"].to_numpy()
        order = mine[np.argsort(-confidence[mine], kind="stable")]
        for turn, i in enumerate(order):
            text = f"only {entry.name} is right, {percent(confidence[i])} sure"
            found.append((turn, number, i, text))
    return {i: text for _, _, i, text in sorted(found)}


def _confident(section: Section, correct: np.ndarray) -> dict[int, str]:
    """Photo -> caption, by the confidence of the recipe that is surest of a wrong class."""
    confidence = np.where(correct, 0.0, [entry.photos["confidence"] for entry in section.entries])
    surest = confidence.argmax(axis=0)
    wrong = np.flatnonzero(~correct.all(axis=0))
    texts = {}
    for i in wrong[np.argsort(-confidence.max(axis=0)[wrong], kind="stable")]:
        entry = section.entries[surest[i]]
        name = section.classes[entry.photos["predicted"][i]]
        sure = percent(confidence[surest[i], i])
        texts[i] = f"taken for {name} by {entry.name}, {sure} sure"
    return texts


def thumbnail(root: Path | None, file: str) -> Mapping[str, Any]:
    """src, width and height; src is None for a photo that is gone or cannot be decoded."""
    if root is None:
        return {"src": None}
    try:
        data = read_bytes(root / unprintable(file))
        pixels = decode(data, 2 * _SIDE, "squash")  # which refuses what costs too much
        width, height = upright_sides(data)
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
