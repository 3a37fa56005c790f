"""`finetune explain`: where in a photo a classifier finds its evidence; and the same for a few test photos of a run."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from finetune.data.photos import SUFFIXES, BadPhoto, decode, list_photos
from finetune.errors import DataError
from finetune.evaluation.gradcam import default_layer, feature_maps, grad_cam
from finetune.evaluation.overlays import (
    TILE,
    Tile,
    contact_sheet,
    maps_grid,
    open_photo,
    overlay,
    peak,
    percent,
    spread,
)
from finetune.files import commit
from finetune.progress import Reporter
from finetune.runs.classifier import Classifier, two_columns

_ROWS = 10  # photos on a page of a contact sheet
_SILENT = Reporter(quiet=True)


def explain(
    classifier: Classifier,
    paths: Sequence[Path],
    layers: Sequence[str] = (),
    class_name: str | None = None,
    out: Path = Path("explained"),
    maps_of: Sequence[str] = (),
    channels: int = 64,
    reporter: Reporter = _SILENT,
) -> dict[str, Any]:
    """Draw the heat of a class over photos: one picture per photo and layer, and contact sheets of them all.

    Args:
        classifier: from ``Classifier.open``.
        paths: photos, and folders of photos.
        layers: names of layers with maps; none means the one that is pooled.
        class_name: the class whose evidence is sought; None means the one that is predicted of each photo.
        out: the folder of the pictures.
        maps_of: layers whose maps are drawn, too.
        channels: how many channels of them at most.
        reporter: told of progress.

    Returns:
        What ``explain --json`` prints; ``bad`` lists the photos that cannot be decoded, with the reason.

    Raises:
        DataError: there is no photo, or no such class.
        UsageError: there is no such layer, or the model does not end in a Dense layer.
    """
    files = list(list_photos(paths))
    if not files:
        places = ", ".join(map(str, paths))
        raise DataError(
            f"There are no photos in {places}. Photos in folders end in {', '.join(sorted(SUFFIXES))}."
        )
    label = None if class_name is None else classifier.index(class_name)
    layers = layers or [default_layer(classifier.model)]
    question = _Question(classifier, layers, label, maps_of, channels, out)
    found: dict[str, Any] = {
        "run": str(classifier.path),
        "out": str(out),
        "contact": [],
        "photos": [],
        "bad": [],
    }
    rows: list[list[Tile]] = []
    stems: set[str] = set()
    with reporter.stage("photos explained", len(files)) as advance:
        for file in files:
            advance(1)
            try:
                data = file.read_bytes()
                pixels = decode(data, classifier.image_size, classifier.resize)
            except (BadPhoto, OSError) as error:
                found["bad"].append({"file": str(file), "reason": str(error)})
                continue
            answer, row = question.ask(file, data, pixels, _unlike(file.stem, stems))
            found["photos"].append(answer)
            rows.append(row)
            if len(rows) == _ROWS:
                found["contact"].append(_page(rows, out, len(found["contact"])))
                rows = []
    if rows:
        found["contact"].append(_page(rows, out, len(found["contact"])))
    return found


@dataclass(frozen=True)
class _Question:
    """What is asked of every photo."""

    classifier: Classifier
    layers: Sequence[str]
    label: int | None
    maps_of: Sequence[str]
    channels: int
    out: Path

    def ask(
        self, file: Path, data: bytes, pixels: np.ndarray, stem: str
    ) -> tuple[dict[str, Any], list[Tile]]:
        """Explain one photo: its entry in the result, and its row of a contact sheet."""
        model, resize = self.classifier.model, self.classifier.resize
        probabilities = two_columns(np.asarray(model(pixels[None], training=False), np.float32))[0]
        label = int(probabilities.argmax()) if self.label is None else self.label
        heats = grad_cam(model, pixels[None], self.layers, label)
        maps = feature_maps(model, pixels, self.maps_of) if self.maps_of else []
        photo, small = open_photo(data), open_photo(data, TILE)
        name, share = self.classifier.classes[label], float(probabilities[label])
        drawn, row = {}, [Tile(small, [file.name])]
        for layer, (heat,) in zip(self.layers, heats, strict=True):
            wide = spread(heat, photo.size, resize)
            drawn[layer] = {
                "overlay": self._save(overlay(photo, wide), stem, layer, name),
                "peak": peak(wide),
            }
            lines = [f"{name}, {percent(share)}", layer if heat.any() else f"{layer}: no evidence"]
            row.append(Tile(overlay(small, spread(heat, small.size, resize)), lines))
        grids = {}
        for layer, values in zip(self.maps_of, maps, strict=True):
            size = " x ".join(map(str, values.shape))
            title = f"{file.name}, {layer}: {min(self.channels, values.shape[-1])} most active channels of {size}"
            grids[layer] = self._save(maps_grid(values, self.channels, title), stem, layer, "maps")
        entry = {
            "file": str(file),
            "class": name,
            "probability": share,
            "layers": drawn,
            "feature_maps": grids,
        }
        return entry, row

    def _save(self, picture: Image.Image, *parts: str) -> str:
        """Names of classes and layers may hold what a file's name may not."""
        name = ".".join(parts).translate(dict.fromkeys(map(ord, '/\\:*?"<>|\0'), "_"))
        return _save(picture, self.out / f"{name}.png")


def _page(rows: Sequence[Sequence[Tile]], out: Path, before: int) -> str:
    return _save(
        contact_sheet(rows), out / (f"contact-{before + 1}.png" if before else "contact.png")
    )


def _save(picture: Image.Image, path: Path) -> str:
    commit(path, lambda file: picture.save(file, "PNG"))
    return str(path)


def _unlike(stem: str, taken: set[str]) -> str:
    """The stem, numbered if another photo has it: cat, cat-2, ...; some file systems do not tell A from a."""
    names = (f"{stem}-{number}" if number > 1 else stem for number in itertools.count(1))
    chosen = next(name for name in names if name.casefold() not in taken)
    taken.add(chosen.casefold())
    return chosen
