"""`finetune advise`: which strategy and backbone, and what more photos would buy."""

from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.activations.rows import closing_shards
from finetune.backend import load_keras
from finetune.execution.sharing import settled
from finetune.files import commit_json, locked
from finetune.progress import SILENT, Reporter
from finetune.recipe.reading import load
from finetune.recipe.recipe import Recipe

if TYPE_CHECKING:
    from finetune.data.dataset import Dataset
    from finetune.execution.advising import Looked

Place = str | PathLike[str]

_MANY = 1_000  # training photos of a class from which on more than the head pays
_SIMILAR = 0.5  # share of what random features leave open that ImageNet's close
_SOLVED = 0.995  # accuracy of a linear probe that leaves nothing to train for
# (many photos, similar to ImageNet) -> strategy: the classical guide, as in Stanford's CS231n
# (cs231n.github.io/transfer-learning) and Yosinski et al. 2014, arXiv:1411.1792.
_GUIDE = {
    (False, True): "cached-features",
    (False, False): "top-blocks",
    (True, True): "top-blocks",
    (True, False): "full",
}
_SHOWN_SUSPECTS = 100  # of each kind


def advise(
    data: Place,
    *,
    backbone: Sequence[str] = ("vgg16",),
    weights: Place | None = None,
    image_size: int | None = None,
    blocks: int = 1,
    precision: str | None = None,
    settings: Sequence[str] = (),
    skip_bad: bool = False,
    out: Place = "advice",
    reporter: Reporter = SILENT,
) -> dict[str, Any]:
    """Advise on strategy, backbone and photos from stored features, before any training.

    The training and validation photos are looked at, the test photos only for near-duplicates.

    Args:
        data, weights, image_size, precision, settings, skip_bad: as for ``run``.
        backbone: names; the best is recommended.
        blocks: the cut below so many top blocks is scored, too, and every cut above it.
        out: folder of ``advise.html`` and ``advise.json``.
        reporter: of progress.

    Returns:
        ``recommendation`` (strategy, backbone, why), ``similarity`` (see ``similarity_of``),
        ``scores`` (one per backbone and cut, the best first), ``scores_checked`` (how well they
        ranked cuts where both were measured), ``learning_curve`` (of the
        recommended backbone), ``suspects`` (likely label errors, outliers and near-duplicates) and
        ``page``.

    Raises:
        UsageError, DataError, IntegrityError, BusyError: see ``run``.
    """
    recipes = [
        _recipe(data, name, weights, image_size, precision, settings, skip_bad)
        for name in dict.fromkeys(backbone)
    ]
    load_keras()
    from finetune.execution.bench import read_dataset

    dataset = read_dataset(recipes[0])
    # what cannot be written is said before the work
    with locked(Path(out)), closing_shards():
        return _advised(recipes, dataset, blocks, Path(out), reporter)


def _advised(
    recipes: Sequence[Recipe], dataset: "Dataset", blocks: int, out: Path, reporter: Reporter
) -> dict[str, Any]:
    from finetune.execution import advising
    from finetune.report.advice import write_advice

    looks = [advising.look(recipe, dataset, blocks, reporter) for recipe in recipes]
    best = max(looks, key=lambda look: look.top["linear_probe"]["accuracy"])
    similarity = advising.similarity(best, reporter)
    curve = advising.curve(best, reporter)
    scores = [row for look in looks for row in look.scores]
    result = {
        "data": recipes[0].data,
        "recommendation": recommended(best, similarity, curve, dataset),
        "similarity": similarity,
        "scores": sorted(scores, key=lambda row: -row["linear_probe"]["accuracy"]),
        "scores_checked": advising.CHECKED,
        "learning_curve": curve,
        "suspects": advising.suspects(best, dataset, _SHOWN_SUSPECTS, reporter),
        "photos": len(best.labels),
        "page": str(out / "advise.html"),
    }
    commit_json(out / "advise.json", result)
    write_advice(out, result, dataset.root)
    return result


def _recipe(
    data: Place,
    backbone: str,
    weights: Place | None,
    image_size: int | None,
    precision: str | None,
    settings: Sequence[str],
    skip_bad: bool,
) -> Recipe:
    chosen = {
        "data": str(data),
        "backbone": backbone,
        "weights": None if weights is None else str(weights),
        "image_size": image_size,
        "precision": precision,
        "strategy": "cached-features",
        "head": "gap",
        "skip_bad": skip_bad or None,
    }
    return settled(load(None, chosen, list(settings)))


def recommended(
    look: "Looked",
    similarity: Mapping[str, Any],
    curve: Sequence[Mapping[str, Any]],
    dataset: "Dataset",
) -> dict[str, str]:
    """The classical guide, with what was measured: ``strategy``, ``backbone`` and ``why``."""
    counts = [dataset.labels("train").tolist().count(c) for c in range(len(dataset.classes))]
    photos = sorted(counts)[len(counts) // 2]
    accuracy = look.top["linear_probe"]["accuracy"]
    is_similar = similarity["value"] >= _SIMILAR
    is_many = photos >= _MANY
    strategy = _GUIDE[is_many, is_similar]
    why = (
        f"{photos:,} training photos of a class are {'many' if is_many else 'few'} (from {_MANY:,} "
        f"on they are many), and the photos are {'similar to' if is_similar else 'unlike'} "
        f"ImageNet's: features of {look.recipe.backbone} close {100 * similarity['value']:.0f} % "
        f"of what features of random weights leave wrong. A linear probe on them has "
        f"{100 * accuracy:.1f} % accuracy."
    )
    if accuracy >= _SOLVED:
        strategy = "cached-features"
        why += " That leaves next to nothing for training below the head."
    if curve[-1]["extrapolated"]:
        low, high = (100 * share for share in curve[-1]["interval"])
        why += (
            f" Twice the photos would bring the probe to {low:.1f}-{high:.1f} %, if its error goes "
            "on falling as a power of their number."
        )
    return {"strategy": strategy, "backbone": look.recipe.backbone, "why": why}
