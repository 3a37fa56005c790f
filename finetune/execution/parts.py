"""What the trials of a comparison need from the store, cut into parts of a few hundred photos.

Each photo goes through a trunk once for each of its views, however many trials want its rows.
Needs no TensorFlow.
"""

from collections.abc import Sequence
from typing import NamedTuple

from finetune.data.dataset import Dataset
from finetune.data.photos import Photo, chunks
from finetune.execution.sharing import Need, needs, trunk_pass
from finetune.execution.worker import Job
from finetune.model.backbones import INPUT
from finetune.recipe.recipe import Recipe

PHOTOS = 256  # of a part: 12 to 40 s of a trunk on two cores
_CALIBRATION = 200  # twice what sets the scales of an int8 trunk, for some may be bad

PassKey = tuple[str, int]  # the photos' pass through a trunk, and the number of their view


class Part(NamedTuple):
    """Photos that go through a trunk, as one view, for all cuts that any trial needs of them.

    Attributes:
        recipe: of one of the trials; below the cuts they agree.
        classes: of its data set.
        cuts: names of the trunk's outputs.
        view: number of the view.
        calibration: training photos from which an int8 trunk is made, if there is none.
        photos: hundreds.
    """

    recipe: Recipe
    classes: int
    cuts: tuple[str, ...]
    view: int
    calibration: tuple[Photo, ...]
    photos: tuple[Photo, ...] = ()


def parts(jobs: Sequence[Job], size: int = PHOTOS) -> dict[PassKey, list[Part]]:
    """All passes that trials need, each in parts of ``size`` photos."""
    found: dict[PassKey, Part] = {}
    photos: dict[PassKey, dict[str, Photo]] = {}
    for job in jobs:
        for need in needs(job.trial.recipe):
            key = pass_key(job.trial.recipe, need)
            found.setdefault(key, _part(job, need))
            own = {photo.sha256: photo for photo in _dataset(job).split(need.split)}
            photos[key] = own | photos.get(key, {})
    return {
        key: [part._replace(photos=tuple(chunk)) for chunk in chunks(photos[key].values(), size)]
        for key, part in found.items()
    }


def pass_key(recipe: Recipe, need: Need) -> PassKey:
    """The pass that computes a recipe's rows."""
    return trunk_pass(recipe, need), need.view


def _part(job: Job, need: Need) -> Part:
    recipe, dataset = job.trial.recipe, _dataset(job)
    together = (job.together or {}).get(min(need.view, 1), (need.cut,))
    cuts = (INPUT,) if need.cut == INPUT else together
    train = dataset.split("train") if recipe.precision == "int8" else ()
    first = sorted(train, key=lambda photo: photo.sha256)[:_CALIBRATION]
    return Part(recipe, len(dataset.classes), cuts, need.view, tuple(first))


def _dataset(job: Job) -> Dataset:
    assert job.dataset
    return job.dataset
