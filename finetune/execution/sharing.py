"""What a recipe needs from the store of activations, and what trials share. Needs no TensorFlow."""

import itertools
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Any, NamedTuple

from finetune.activations.engine import resolve_precision
from finetune.activations.store import entry_fields
from finetune.data.catalog import NAMES
from finetune.data.hugging_face import PREFIX
from finetune.data.photos import MIRRORED, Pixels
from finetune.files import digest_of, expanded
from finetune.model.backbones import INPUT, NEEDS_FLOAT32, preprocessing_of
from finetune.model.remote_weights import is_remote
from finetune.recipe.matrix import Trial
from finetune.recipe.recipe import Recipe
from finetune.recipe.strategies import STRATEGIES


class Need(NamedTuple):
    """The rows of one view of a split at a cut; view 0 is the photos themselves, ``MIRRORED`` their
    mirror images.
    """

    cut: str
    split: str
    view: int


def settled(recipe: Recipe) -> Recipe:
    """The recipe as it is written to a run folder: its paths absolute, its precision resolved.

    So its file can be run from any folder, and says what was computed.

    Raises:
        UsageError: the precision or the engine is not on this machine.
    """
    needs_float32 = recipe.precision == "auto" and recipe.backbone in NEEDS_FLOAT32
    wanted = "float32" if needs_float32 else recipe.precision
    changes = {"precision": resolve_precision(wanted, recipe.engine)}
    if recipe.data not in NAMES and not recipe.data.startswith(PREFIX):
        changes["data"] = str(expanded(recipe.data).absolute())
    is_named = recipe.weights in ("imagenet", "random") or is_remote(recipe.weights)
    if not is_named and expanded(recipe.weights).exists():
        changes["weights"] = str(expanded(recipe.weights).absolute())
    return recipe.model_copy(update=changes)


def tail_precision(recipe: Recipe) -> str:
    """What the tail is trained in: bfloat16 under int8 where the processor computes it natively."""
    wanted = "auto" if recipe.precision == "int8" else recipe.precision
    return resolve_precision(wanted, recipe.engine)


def stored_views(recipe: Recipe) -> int:
    """Number of augmented views per training photo that are stored."""
    return 0 if recipe.views == "fresh" else int(recipe.views)


def shown_views(recipe: Recipe) -> tuple[int, ...]:
    """The views of a validation or test photo whose mean probabilities count."""
    return (0, MIRRORED) if recipe.tta == "flip" else (0,)


def pixels(recipe: Recipe) -> Pixels:
    """How the recipe's views are loaded."""
    augment = recipe.augment.model_dump() if recipe.views else None
    return Pixels(recipe.image_size, recipe.resize, augment)


def starts_head(recipe: Recipe) -> bool:
    """Whether the head is fitted on features before, or instead of, training by epochs.

    Not where everything learns from random weights and BatchNorm moves: its first batch would
    rescale the features that the head was fitted on, and there is nothing in them to protect.
    """
    if is_from_scratch(recipe):
        return False
    return recipe.head.solver == "lbfgs" or STRATEGIES[recipe.strategy].streams


def is_from_scratch(recipe: Recipe) -> bool:
    """Whether everything is trained from random weights, BatchNorm's statistics included."""
    learns_all = STRATEGIES[recipe.strategy].learns == "all"
    return recipe.weights == "random" and learns_all and recipe.batchnorm == "train"


def head_needs(recipe: Recipe) -> list[Need]:
    """Rows that the head is fitted on: views of the training photos, and the validation photos.

    They lie at the recipe's cut where that is stored, else above the last block.
    """
    if not starts_head(recipe):
        return []
    top = recipe.top
    validation = top if recipe.cut == INPUT else recipe.cut
    train = top if recipe.views == "fresh" else validation
    views = range(stored_views(recipe) + 1)
    return [*(Need(train, "train", view) for view in views), Need(validation, "validation", 0)]


def tail_needs(recipe: Recipe) -> list[Need]:
    """Rows at the cut: everything that every epoch sees the same."""
    views = range(0 if recipe.views == "fresh" else stored_views(recipe) + 1)
    train = [Need(recipe.cut, "train", view) for view in views]
    shown = itertools.product(("validation", "test"), shown_views(recipe))
    return [*train, *(Need(recipe.cut, split, view) for split, view in shown)]


def fold_needs(recipe: Recipe) -> list[Need]:
    """Stored views of photos that train or are tested in some fold, not in the recipe's split."""
    if not recipe.folds:
        return []
    views = range(1, stored_views(recipe) + 1)
    train = itertools.product(("validation", "test"), views)
    test = [("train", view) for view in shown_views(recipe)]
    return [Need(recipe.cut, split, view) for split, view in [*train, *test]]


def needs(recipe: Recipe) -> list[Need]:
    """All rows that a run reads, once each."""
    return list(dict.fromkeys([*head_needs(recipe), *tail_needs(recipe), *fold_needs(recipe)]))


class Entry(NamedTuple):
    """A cache entry that a recipe's trunk fills: the pass of photos that fills it, and its cut."""

    trunk_pass: str
    cut: str
    view: int  # 0, MIRRORED, or 1 for all random views


def entries(recipe: Recipe) -> list[Entry]:
    """Cache entries that a recipe's trunk fills."""
    wanted = [need for need in needs(recipe) if need.cut != INPUT]
    found = [Entry(trunk_pass(recipe, need), need.cut, min(need.view, 1)) for need in wanted]
    return list(dict.fromkeys(found))


def trunk_pass(recipe: Recipe, need: Need) -> str:
    """The pass of photos that fills a cache entry: a digest of all its fields but the cut.

    The weights go by their name, since their digest is known only when they are loaded.
    """
    mirrored = need.view == MIRRORED
    plain = Pixels(recipe.image_size, recipe.resize, is_mirrored=mirrored)
    views = pixels(recipe) if need.view > 0 else plain
    before = preprocessing_of(recipe.backbone, recipe.weights, recipe.preprocessing)
    fields = entry_fields(
        recipe.backbone, recipe.weights, need.cut, recipe.precision, views, before
    )
    shared = {"data": recipe.data, "dtype": recipe.store, "alpha": recipe.alpha}
    return digest_of({**shared, **fields, "cut": None})


def extractions(recipes: Iterable[Recipe]) -> int:
    """Number of passes through a trunk that these recipes share, whatever their cuts are."""
    return len({entry.trunk_pass for recipe in recipes for entry in entries(recipe)})


def cuts_together(trials: Iterable[Trial]) -> dict[str, dict[int, tuple[str, ...]]]:
    """The cuts at which any trial needs rows of the photos that a trial sends through its trunk.

    Returns:
        Name of the trial -> of its photos (0), of their views (1) and of mirrored photos the cuts.
    """
    own = {trial.name: entries(trial.recipe) for trial in trials}
    cuts: dict[str, dict[str, None]] = {}
    for entry in chain.from_iterable(own.values()):
        cuts.setdefault(entry.trunk_pass, {})[entry.cut] = None
    return {
        name: {entry.view: tuple(cuts[entry.trunk_pass]) for entry in found}
        for name, found in own.items()
    }


def in_order(trials: Sequence[Trial]) -> list[Trial]:
    """Trials of one extraction one after the other, otherwise as they came."""
    own = {trial.name: [entry.trunk_pass for entry in entries(trial.recipe)] for trial in trials}
    first: dict[str, int] = {}
    for place, passes in enumerate(own.values()):
        for each in passes:
            first.setdefault(each, place)
    # one from scratch has no pass through a trunk, and stays where it came
    places = {
        name: min((first[each] for each in passes), default=place)
        for place, (name, passes) in enumerate(own.items())
    }
    return sorted(trials, key=lambda trial: places[trial.name])


def sharing(results: Iterable[Mapping[str, Any] | None]) -> Counter[str]:
    """How many of these results used each pass of photos through a trunk."""
    used = [{pass_of(key, entry) for key, entry in r["entries"].items()} for r in results if r]
    return Counter(chain.from_iterable(used))


def pass_of(key: str, entry: Mapping[str, Any]) -> str:
    """The pass that filled an entry of a result; older results name none."""
    return entry.get("pass", key)


def trial_row(trial: Trial, result: Mapping[str, Any], shared: Counter[str]) -> dict[str, Any]:
    """What the report and ``compare --json`` say of a finished trial.

    Args:
        trial: its recipe.
        result: see ``RunResult.to_json``.
        shared: see ``sharing``; the cost of an extraction is divided among those that used it.
    """
    train = result["seconds"]["train"]
    own = sum(entry["seconds"] for entry in result["entries"].values())
    share = sum(
        entry["seconds"] / shared[pass_of(key, entry)] for key, entry in result["entries"].items()
    )
    cost = {
        "seconds": round(share + train, 3),
        "seconds_alone": round(own + train, 3),
        "parameters": result["parameters"]["total"],
        "trainable": result["parameters"]["trainable"],
        **{name: result["cost"][name] for name in ("stored_bytes", "peak_memory", "multiply_adds")},
    }
    kept = ("split", "test", "validation", "seconds", "extracted", "unseen", "warnings")
    folds = {"folds": result["folds"]} if "folds" in result else {}
    return {**trial_settings(trial), "cost": cost, **{name: result[name] for name in kept}, **folds}


def trial_settings(trial: Trial) -> dict[str, Any]:
    """What the report says of any trial, finished or not."""
    recipe = trial.recipe
    augment = json.dumps(recipe.augment.model_dump(exclude_defaults=True))
    return {
        "name": trial.name,
        "recipe": trial.group,
        "seed": recipe.seed,
        "run": f"cells/{trial.name}",
        "backbone": recipe.backbone,
        "strategy": recipe.strategy,
        "head": recipe.head.pool,
        "cut": recipe.cut,
        "views": recipe.views,
        "augment": augment if recipe.views else "none",
        "settings": trial.settings,
        "status": "done",
        "reason": None,
    }
