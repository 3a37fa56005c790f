"""What the saved model is beside the network that was measured: how far it is off, and its form
without TensorFlow.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from finetune.activations.engine import resolve_engine
from finetune.data.photos import Photo, read_photos
from finetune.errors import IntegrityError
from finetune.evaluation.fidelity import PHOTOS, fidelity
from finetune.execution.learning import Learner
from finetune.execution.sharing import shown_views
from finetune.model.backbones import INPUT
from finetune.model.heads import pool_maps
from finetune.progress import count
from finetune.runs.ir import write_int8, write_ir

_CHECKED = 4  # photos that the network is compared on as OpenVINO and as Keras compute it


def check_fidelity(learner: Learner, probabilities: np.ndarray) -> dict[str, Any] | None:
    """How far the saved float32 model is from what was measured on a reduced trunk."""
    if learner.network.precision == "float32" or learner.recipe.cut == INPUT:
        return None
    photos = learner.dataset.split("validation")
    picked = _spread(len(photos), PHOTOS)
    exact = _exact(learner, [photos[index] for index in picked])
    found = fidelity(exact, probabilities[picked])
    learner.reporter.say(
        f"fidelity audit: probabilities of {count(len(exact), 'validation photo')} from the "
        f"saved float32 model differ by at most {found['max']:.2g}, {found['mean']:.2g} on "
        "average"
    )
    if found["changed"]:
        learner.reporter.warn(
            f"the saved float32 model decides {found['changed']} of {len(exact)} validation "
            f"photos otherwise than the run in {learner.network.precision}."
        )
    return found


def _spread(photos: int, at_most: int) -> np.ndarray:
    """Indexes over all of a split, which is sorted by class."""
    return np.unique(np.linspace(0, photos - 1, min(photos, at_most)).astype(int))


def _exact(learner: Learner, photos: Sequence[Photo]) -> np.ndarray:
    """What the saved float32 model gives of a few photos; its trunk has not moved."""
    views = [_exact_view(learner, photos, view) for view in shown_views(learner.recipe)]
    return np.mean(views, axis=0)


def _exact_view(learner: Learner, photos: Sequence[Photo], view: int) -> np.ndarray:
    rows = learner.cache.exact(photos, learner.recipe.cut, view)
    if not learner.linear:
        return learner.network.tail.predict(rows, learner.recipe.batch_size, verbose=0)
    above = learner.cache.trunk.engine(learner.recipe.cut, learner.network.top, precision="float32")
    maps = np.concatenate(list(above([rows])))
    return learner.linear.probabilities(pool_maps(maps, learner.network.pool))


def write_openvino(learner: Learner) -> None:
    """Leave the network in a form that predicts without TensorFlow, see ``runs.ir``."""
    cut = learner.recipe.cut
    network = learner.network
    if learner.out is None or resolve_engine(learner.recipe.engine) != "openvino":
        return
    validation = learner.dataset.split("validation")
    photos = [validation[index] for index in _spread(len(validation), _CHECKED)]
    stream = read_photos(learner.cache.pixels(0), photos)
    arrays = np.stack([found for _, found in stream if not isinstance(found, str)])
    trunk = None if cut == INPUT else learner.cache.trunk.graph(cut, "float32")
    try:
        write_ir(network.final, learner.out, arrays, trunk, network.tail, network.is_mirrored)
    except IntegrityError as error:
        learner.warnings.add(str(error))
    if network.precision == "int8" and cut != INPUT:
        trunk = learner.cache.trunk.graph(cut, "int8")
        write_int8(trunk, network.tail, learner.out, network.is_mirrored)
