"""Where a run's network looks: the heat of its predictions over the test photos that tell most
about it.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from finetune.data.dataset import Dataset
from finetune.data.photos import BadPhoto
from finetune.evaluation.gradcam import grad_cam
from finetune.evaluation.overlays import (
    TILE,
    Tile,
    contact_sheet,
    open_photo,
    overlay,
    percent,
    spread,
)
from finetune.progress import Reporter

if TYPE_CHECKING:
    import keras

_EACH = 4  # test photos that are shown, of the right and of the wrong


def explain_test(
    network: "keras.Model",
    inputs: Callable[[np.ndarray], np.ndarray],
    dataset: Dataset,
    probabilities: np.ndarray,
    resize: str,
    reporter: Reporter,
) -> Image.Image | None:
    """Heat of the predicted class over a few test photos.

    Args:
        network: to probabilities, as it has learned: the tail, or the whole where the tail takes no
            maps.
        inputs: what the network takes of the test photos of these indexes: stored activations, or
            pixels.
        dataset: whose test photos these are.
        probabilities: float32 (n, classes) of the test photos.
        resize: how they became squares.
        reporter: warned of photos that can no longer be opened.

    Returns:
        A contact sheet: the photos of ``telling``, right ones above, each with file, true ->
        predicted class and the predicted one's probability. None if none of these photos can be
        opened any more, which loses no run.
    """
    photos = dataset.split("test")
    shown = []
    for chosen in filter(len, telling(probabilities, dataset.labels("test"))):
        predicted = probabilities[chosen].argmax(axis=1)
        (heats,) = grad_cam(network, inputs(chosen), (), predicted)
        tiles = []
        for index, label, heat in zip(chosen, predicted, heats, strict=True):
            photo, share = photos[index], float(probabilities[index, label])
            try:
                picture = open_photo(photo.path.read_bytes(), TILE)
            except (BadPhoto, OSError) as error:
                reporter.warn(f"{photo.path} is not explained: {error}")
                continue
            lines = [
                Path(photo.file).name,
                f"{dataset.classes[photo.label]} → {dataset.classes[label]}, {percent(share)}",
            ]
            tiles.append(Tile(overlay(picture, spread(heat, picture.size, resize)), lines))
        shown.append(tiles)
    shown = [tiles for tiles in shown if tiles]
    return contact_sheet(shown) if shown else None


def telling(
    probabilities: np.ndarray, labels: np.ndarray, each: int = _EACH
) -> tuple[np.ndarray, np.ndarray]:
    """Which photos tell most about a classifier.

    Args:
        probabilities: (n, classes).
        labels: int (n,).
        each: how many, at most, of the right and of the wrong.

    Returns:
        Indexes of the surest right photos, the classes taking turns, and of the mistakes with the
        least probability of the true class.
    """
    predicted, surest = probabilities.argmax(axis=1), probabilities.max(axis=1)
    right = np.flatnonzero(predicted == labels)
    right = right[np.argsort(-surest[right], kind="stable")]
    turn = np.array(
        [np.sum(labels[right[:place]] == labels[index]) for place, index in enumerate(right)]
    )
    right = right[np.lexsort((labels[right], turn))][:each] if len(right) else right
    wrong = np.flatnonzero(predicted != labels)
    return right, wrong[np.argsort(probabilities[wrong, labels[wrong]], kind="stable")][:each]
