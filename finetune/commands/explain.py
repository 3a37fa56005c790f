"""`finetune explain`: where in a photo a classifier finds its evidence."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.backend import load_keras
from finetune.files import commit, locked
from finetune.progress import SILENT, Reporter

if TYPE_CHECKING:
    import keras
    import numpy as np
    from PIL import Image

    from finetune.evaluation.overlays import Tile
    from finetune.runs.classifier import Classifier

_ROWS = 10  # photos on a page of a contact sheet
_BYTES = 70  # of each part of a picture's name: a file system allows 255, a temporary file needs 14


def explain(
    model: "Path | str | Classifier",
    photos: Sequence[Path | str] | Path | str,
    *,
    layers: Sequence[str] = (),
    class_name: str | None = None,
    maps_of: Sequence[str] = (),
    channels: int = 64,
    out: Path | str = Path("explained"),
    precision: str = "auto",
    reporter: Reporter = SILENT,
) -> dict[str, Any]:
    """Show where in photos a classifier finds its evidence (Grad-CAM).

    Args:
        model: a run folder, a ``.keras`` file or an open Classifier.
        photos: photos, and folders of photos.
        layers: names of layers with maps; none means the one that is pooled.
        class_name: the class whose evidence is sought; None means the predicted one of each photo.
        maps_of: layers whose maps are drawn, too.
        channels: how many channels of them at most, the most active ones.
        out: the folder of the pictures: one per photo and layer, and contact sheets of them all.
        precision: of the predictions: auto, float32, bfloat16 or int8; the heat is float32's.
        reporter: gets progress, and a warning for each bad photo.

    Returns:
        What ``explain --json`` prints; ``bad`` lists the photos that cannot be decoded, each with
        its reason.

    Raises:
        DataError: there is no photo.
        UsageError: there is no such class or layer, or the model does not end in a Dense layer.
        BusyError: another process works in ``out``.
    """
    from finetune.data.photos import Pixels, printable, read_photos
    from finetune.data.places import find_photos
    from finetune.runs.classifier import opened

    files = list(find_photos(photos))
    classifier = opened(model)
    load_keras()  # before all that imports it: it keeps TensorFlow quiet
    from finetune.evaluation.gradcam import default_layer
    from finetune.model.mirror import unmirrored

    network = unmirrored(classifier.model)
    label = None if class_name is None else classifier.index(class_name)
    layers = layers or [default_layer(network)]
    how = (label, maps_of, channels, Path(out), precision)
    question = _Question(classifier, network, layers, *how)
    answers = []
    bad = []
    pixels = Pixels(classifier.image_size, classifier.resize)
    with locked(Path(out)), reporter.stage("photos explained", len(files)) as advance:
        stream: Iterator[tuple[Any, np.ndarray | str]] = read_photos(pixels, files)
        for file, found in stream:
            advance(1)
            if not isinstance(found, str):
                shown = _pictures(file)
                if not isinstance(shown, str):
                    answers.append(question.ask(file, found, *shown))
                    continue
                found = shown
            bad.append({"file": printable(file), "reason": found})
            reporter.warn(f"{printable(file)}: {found}")
        question.turn_page()
    return {
        "run": str(classifier.path),
        "out": str(out),
        "contact": question.pages,
        "photos": answers,
        "bad": bad,
    }


@dataclass
class _Question:
    """What is asked of every photo, and the contact sheet that its answers fill."""

    classifier: "Classifier"
    network: "keras.Model"
    layers: Sequence[str]
    label: int | None
    maps_of: Sequence[str]
    channels: int
    out: Path
    precision: str
    pages: list[str] = field(default_factory=list)
    _rows: list[list["Tile"]] = field(default_factory=list)
    _stems: set[str] = field(default_factory=set)

    def ask(
        self, file: Path, pixels: "np.ndarray", photo: "Image.Image", small: "Image.Image"
    ) -> dict[str, Any]:
        """Explain one photo: draw its pictures and its row of the contact sheet."""
        from finetune.data.photos import printable
        from finetune.evaluation.gradcam import grad_cam
        from finetune.evaluation.overlays import Tile, overlay, peak, spread

        resize = self.classifier.resize
        probabilities = self._probabilities(pixels)
        label = int(probabilities.argmax()) if self.label is None else self.label
        heats = grad_cam(self.network, pixels[None], self.layers, label)
        maps = self._maps(pixels)
        name, share = self.classifier.classes[label], float(probabilities[label])
        shown = printable(Path(file.name))
        stem = _unlike(_short(shown.removesuffix(file.suffix)), self._stems)
        drawn = {}
        row = [Tile(small, [_one_line(shown)])]
        for layer, (heat,) in zip(self.layers, heats, strict=True):
            wide = spread(heat, photo.size, resize)
            picture = self._save(overlay(photo, wide), stem, layer, name)
            drawn[layer] = {"overlay": picture, "peak": peak(wide)}
            lines = _lines(name, share, layer, seen=heat.any())
            row.append(Tile(overlay(small, spread(heat, small.size, resize)), lines))
        self._add(row)
        return {
            "file": printable(file),
            "class": name,
            "probability": share,
            "layers": drawn,
            "feature_maps": {
                layer: self._draw(values, shown, stem, layer) for layer, values in maps
            },
        }

    def turn_page(self) -> None:
        """Write the page that is under way, if it holds anything."""
        from finetune.evaluation.overlays import contact_sheet

        if self._rows:
            name = f"contact-{len(self.pages) + 1}.png" if self.pages else "contact.png"
            self.pages.append(_save(contact_sheet(self._rows), self.out / name))
            self._rows = []

    def _add(self, row: list["Tile"]) -> None:
        self._rows.append(row)
        if len(self._rows) == _ROWS:
            self.turn_page()

    def _probabilities(self, pixels: "np.ndarray") -> "np.ndarray":
        (rows,) = self.classifier.predict([pixels[None]], self.precision)
        return rows[0]

    def _maps(self, pixels: "np.ndarray") -> list[tuple[str, "np.ndarray"]]:
        from finetune.evaluation.gradcam import feature_maps

        if not self.maps_of:
            return []
        found = feature_maps(self.network, pixels, self.maps_of)
        return list(zip(self.maps_of, found, strict=True))

    def _draw(self, values: "np.ndarray", shown: str, stem: str, layer: str) -> str:
        from finetune.evaluation.overlays import maps_grid

        size = " x ".join(map(str, values.shape))
        channels = min(self.channels, values.shape[-1])
        title = f"{_one_line(shown)}, {layer}: {channels} most active channels of {size}"
        return self._save(maps_grid(values, self.channels, title), stem, layer, "maps")

    def _save(self, picture: "Image.Image", stem: str, *parts: str) -> str:
        """Names of classes and layers may hold what a file's name may not."""
        name = ".".join([stem, *map(_short, parts)]).translate(
            dict.fromkeys(map(ord, '/\\:*?"<>|\0'), "_")
        )
        return _save(picture, self.out / f"{name}.png")


def _pictures(file: Path) -> "tuple[Image.Image, Image.Image] | str":
    """A photo large and small, or why it cannot be shown: that may cost more than a network's
    input does.
    """
    from finetune.data.decode import BadPhoto
    from finetune.evaluation.overlays import TILE, open_photo

    try:
        data = file.read_bytes()
        return open_photo(data), open_photo(data, TILE)
    except (BadPhoto, OSError) as error:
        return str(error)


def _lines(name: str, share: float, layer: str, seen: bool) -> list[str]:
    from finetune.evaluation.overlays import percent

    return [f"{name}, {percent(share)}", layer if seen else f"{layer}: no evidence"]


def _one_line(name: str) -> str:
    """A name as a picture's text can hold it: Pillow's Raqm layout fails at line ends."""
    return name if name.isprintable() else repr(name)


def _save(picture: "Image.Image", path: Path) -> str:
    commit(path, lambda file: picture.save(file, "PNG"))
    return str(path)


def _short(name: str) -> str:
    return name.encode()[:_BYTES].decode(errors="ignore")


def _unlike(stem: str, taken: set[str]) -> str:
    """The stem, numbered if another photo has it: cat, cat-2, ...; A is a to some file systems."""
    names = (f"{stem}-{number}" if number > 1 else stem for number in itertools.count(1))
    chosen = next(name for name in names if name.casefold() not in taken)
    taken.add(chosen.casefold())
    return chosen
