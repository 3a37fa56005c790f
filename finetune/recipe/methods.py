"""Methods of training that a recipe names: which of them make no sense together, and why."""

from collections.abc import Iterator
from itertools import pairwise
from typing import TYPE_CHECKING

from finetune.model.backbones import INPUT, backbone
from finetune.recipe.strategies import STRATEGIES

if TYPE_CHECKING:
    from finetune.recipe.recipe import Recipe

# What only a training by epochs can do, with the value that leaves it out.
_OF_EPOCHS = {
    "layer_decay": 1.0,
    "warmup": 0.0,
    "anchor": 0.0,
    "label_smoothing": 0.0,
    "mixup": 0.0,
    "cutmix": 0.0,
    "average": "none",
}
# What needs blocks that learn, with the reason.
_OF_BLOCKS = {
    "layer_decay": "the rate falls from block to block",
    "anchor": "it pulls blocks towards their first weights",
    "cutmix": "above the last block a pasted patch is only averaged, which mixup does as well",
}


def method_problems(recipe: "Recipe", finished: bool = False) -> Iterator[str]:
    """What is wrong with the methods of a recipe, one sentence each without its full stop.

    Of a ``finished`` recipe, what had no effect is no mistake: earlier versions ran it.
    """
    learns = STRATEGIES[recipe.strategy].learns
    named = [key for key, off in _OF_EPOCHS.items() if getattr(recipe, key) != off]
    named += ["schedule"] if recipe.schedule == "one-cycle" else []
    named += ["weight_decay"] if recipe.weight_decay and not finished else []
    if named and _is_fitted_at_once(recipe):
        yield (
            f"{', '.join(named)} changes training by epochs, and L-BFGS fits this head at once. "
            "Leave it out, set head.solver: keras, or strategy: top-blocks"
        )
    elif learns == "head":
        for key in [key for key in named if key in _OF_BLOCKS]:
            yield f"{key} needs blocks that learn: {_OF_BLOCKS[key]}. Set strategy: top-blocks"
    elif learns == "blocks" and recipe.features and not finished:
        yield from _blocks_without_effect(recipe)
    yield from _schedule_problems(recipe)
    if len(recipe.stages) > 1 and learns != "blocks":
        yield f"blocks: {recipe.blocks} thaws blocks in turn, which only strategy: top-blocks does"
    if any(below >= above for below, above in pairwise(recipe.stages)):
        yield f"blocks is {recipe.blocks}; each training takes more blocks, as in blocks: [1, 2, 3]"


def _blocks_without_effect(recipe: "Recipe") -> Iterator[str]:
    """The model ends at the highest of the features: blocks above it are not there to learn."""
    cuts = (INPUT, *backbone(recipe.backbone, recipe.alpha).blocks)
    below = STRATEGIES[recipe.strategy].cut(recipe.backbone, recipe.stages[-1])
    needed = cuts[-1] if len(recipe.stages) > 1 else cuts[cuts.index(below) + 1]
    if cuts.index(recipe.features[-1]) < cuts.index(needed):
        yield (
            f"features ends at {recipe.features[-1]}, so that no block above it is in the model, "
            f"and of those that a training thaws none learns; add {needed}, or set strategy: "
            "cached-features"
        )


def dropout_warning(recipe: "Recipe") -> str | None:
    """A sentence if the head's dropout has no effect; recipes of other strategies may share it."""
    published = backbone(recipe.backbone, recipe.alpha).head.get("dropout", 0.0)
    if not _is_fitted_at_once(recipe) or recipe.head.dropout in (0.0, published):
        return None
    return (
        f"head.dropout is {recipe.head.dropout:g} and has no effect, for L-BFGS fits this head at "
        "once; head.solver=keras trains it by epochs, with dropout."
    )


def _is_fitted_at_once(recipe: "Recipe") -> bool:
    learns_head = STRATEGIES[recipe.strategy].learns == "head"
    return learns_head and recipe.head.solver == "lbfgs"


def _schedule_problems(recipe: "Recipe") -> Iterator[str]:
    if recipe.warmup >= 1 and recipe.warmup % 1:
        yield (
            f"warmup is {recipe.warmup:g}; below 1 it is a share of all steps, and from 1 on a "
            "whole number of steps"
        )
    if recipe.warmup and recipe.schedule == "one-cycle":
        yield "schedule: one-cycle has a warm-up of its own; leave warmup out, or set cosine"
