"""Does the heat lie on the animal? The pointing game (Zhang et al., Top-down Neural Attention by
Excitation Backprop, ECCV 2016).

A drawn test picture is hit if the hottest pixel of its true class lies where the animal shows.
Animals fill a good part of a picture and tend to stand in its middle, so there are three blind
players: one points anywhere (the mean area of the animals), one at the middle, and one, for each
layer, where the heat of another picture points.

FINETUNE_WEIGHTS_DIR=... python benchmarks/pointing_game.py [--json]
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from finetune.backend import load_keras
from finetune.data import catalog
from finetune.data.sketches import draw_with_mask
from finetune.evaluation.overlays import peak, spread

HEADS = ("gap", "gmp", "flatten")
LAYERS = ("block4_conv3", "block5_conv3", "block5_pool")
SIZE = 128  # at which the sketches are drawn


def main(as_json: bool) -> None:
    """Train the heads, play, and print the shares of test pictures that were hit."""
    load_keras()
    pictures, masks, labels = _test_pictures()
    middle = slice(SIZE // 2 - 1, SIZE // 2 + 1)
    found: dict[str, Any] = {
        "pictures": len(pictures),
        "anywhere": float(masks.mean()),
        "middle": float(masks[:, middle, middle].mean()),
        "heads": {head: _play(head, pictures, masks, labels) for head in HEADS},
    }
    print(json.dumps(found) if as_json else _table(found))


def _test_pictures() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The test sketches uint8 (n, size, size, 3), where their animals show bool (n, size, size),
    and labels int (n,).
    """
    photos = catalog.resolve("sketches").split("test")
    masks = []
    for photo in photos:
        animal, number = photo.path.stem.split(".")  # named as `write_sketches` documents
        drawn, mask = draw_with_mask(animal, f"0/test/{animal}/{int(number)}", SIZE)
        assert np.array_equal(np.asarray(drawn), np.asarray(Image.open(photo.path))), (
            f"{photo.path} is another sketch than its name says"
        )
        masks.append(mask)
    pictures = np.stack([np.asarray(Image.open(photo.path)) for photo in photos])
    return pictures, np.stack(masks), np.array([photo.label for photo in photos])


def _play(head: str, pictures: np.ndarray, masks: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """By layer the shares of hits and of hits by other pictures' heat; and the head's test
    accuracy.
    """
    from finetune.commands.run import run
    from finetune.evaluation.gradcam import grad_cam
    from finetune.runs.classifier import Classifier

    values = {"data": "sketches", "strategy": "cached-features", "image_size": SIZE, "head": head}
    with tempfile.TemporaryDirectory() as folder:
        accuracy = run(values, out=Path(folder, "run")).test["accuracy"]
        model = Classifier.open(Path(folder, "run")).model
    batches = [slice(start, start + 10) for start in range(0, len(pictures), 10)]
    heats = [grad_cam(model, pictures[batch], LAYERS, labels[batch]) for batch in batches]
    shares = {
        layer: _shares(np.concatenate(found), masks)
        for layer, *found in zip(LAYERS, *heats, strict=True)
    }
    return {"accuracy": accuracy, **shares}


def _shares(heats: np.ndarray, masks: np.ndarray) -> dict[str, float]:
    places = [peak(spread(heat, (SIZE, SIZE), "squash")) for heat in heats]
    nowhere = np.zeros(len(masks), bool)
    on_animal = np.stack(
        [masks[:, place[1], place[0]] if place else nowhere for place in places]
    )  # (heat, picture)
    own, pictures = on_animal.trace(), len(masks)
    return {"hits": own / pictures, "others": (on_animal.sum() - own) / (pictures * (pictures - 1))}


def _table(found: dict[str, Any]) -> str:
    lines = [f"{found['pictures']} test sketches: % hit by the heat (by that of other pictures)"]
    lines += [f"anywhere {100 * found['anywhere']:.0f}, middle {100 * found['middle']:.0f}"]
    lines += [f"{'head':<10}{'accuracy':>8}" + "".join(f"{name:>16}" for name in LAYERS)]
    for head, row in found["heads"].items():
        cells = [
            f"{100 * row[layer]['hits']:.0f} ({100 * row[layer]['others']:.0f})" for layer in LAYERS
        ]
        lines.append(
            f"{head:<10}{100 * row['accuracy']:>8.0f}" + "".join(f"{cell:>16}" for cell in cells)
        )
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    main(parser.parse_args().json)
