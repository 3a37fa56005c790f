"""Methods of training that a recipe names: which of them make no sense together, and why."""

from collections.abc import Iterator
from itertools import pairwise
from typing import TYPE_CHECKING

from finetune.model.backbones import backbone
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
    named += [] if finished else _regularizers(recipe)
    if named and learns == "head" and recipe.head.solver == "lbfgs":
        yield (
            f"{', '.join(named)} changes training by epochs, and L-BFGS fits this head at once. "
            "Leave it out, set head.solver: keras, or strategy: top-blocks"
        )
    elif learns == "head":
        for key in [key for key in named if key in _OF_BLOCKS]:
            yield f"{key} needs blocks that learn: {_OF_BLOCKS[key]}. Set strategy: top-blocks"
    yield from _schedule_problems(recipe)
    if len(recipe.stages) > 1 and learns != "blocks":
        yield f"blocks: {recipe.blocks} thaws blocks in turn, which only strategy: top-blocks does"
    if any(below >= above for below, above in pairwise(recipe.stages)):
        yield f"blocks is {recipe.blocks}; each training takes more blocks, as in blocks: [1, 2, 3]"


def _regularizers(recipe: "Recipe") -> list[str]:
    """Those that are set, and of dropout not as the backbone's published head has it."""
    published = backbone(recipe.backbone, recipe.alpha).head.get("dropout", 0.0)
    named = ["head.dropout"] if recipe.head.dropout not in (0.0, published) else []
    return named + (["weight_decay"] if recipe.weight_decay else [])


def _schedule_problems(recipe: "Recipe") -> Iterator[str]:
    if recipe.warmup >= 1 and recipe.warmup % 1:
        yield (
            f"warmup is {recipe.warmup:g}; below 1 it is a share of all steps, and from 1 on a "
            "whole number of steps"
        )
    if recipe.warmup and recipe.schedule == "one-cycle":
        yield "schedule: one-cycle has a warm-up of its own; leave warmup out, or set cosine"
