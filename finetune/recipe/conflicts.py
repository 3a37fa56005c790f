"""Settings of head, loss and sampling that do not go together, and what to set in their place."""

from typing import TYPE_CHECKING

from finetune.model.backbones import INPUT, backbone
from finetune.recipe.strategies import STRATEGIES

if TYPE_CHECKING:
    from finetune.recipe.recipe import Recipe


def conflicts(recipe: "Recipe") -> list[str]:
    """One sentence without full stop for each; empty where all is well."""
    return [
        problem for check in (_of_features, _of_loss, _of_sampling) for problem in check(recipe)
    ]


def _of_features(recipe: "Recipe") -> list[str]:
    cuts = backbone(recipe.backbone, recipe.alpha).blocks
    features = recipe.features
    if not features:
        return []
    if unknown := [name for name in features if name not in cuts]:
        return [
            f"features names {', '.join(unknown)}; {recipe.backbone} has the cuts {', '.join(cuts)}"
        ]
    if features != sorted(set(features), key=cuts.index):
        wanted = sorted(set(features), key=cuts.index)
        return [f"features lists cuts once each and from below: [{', '.join(wanted)}]"]
    if recipe.head.pool == "flatten":
        return ["features joins pooled maps, and head.pool is flatten; set head.pool: gap or gmp"]
    strategy = STRATEGIES[recipe.strategy]
    below = strategy.cut(recipe.backbone, recipe.stages[-1])
    if (
        strategy.learns == "blocks"
        and below != INPUT
        and cuts.index(features[0]) < cuts.index(below)
    ):
        allowed = ", ".join(cuts[cuts.index(below) :])
        return [
            f"features names {features[0]}, which lies below the cut {below} of {recipe.strategy}; "
            f"allowed are {allowed}, or more blocks"
        ]
    return []


def _of_loss(recipe: "Recipe") -> list[str]:
    learns_head_only = STRATEGIES[recipe.strategy].learns == "head"
    if recipe.loss == "focal" and learns_head_only and recipe.head.solver == "lbfgs":
        return [
            "solver lbfgs minimizes cross-entropy, and loss is focal, which is trained by epochs; "
            "set head.solver: keras"
        ]
    return []


def _of_sampling(recipe: "Recipe") -> list[str]:
    if recipe.sampling == "balanced" and recipe.class_weight == "balanced":
        return [
            "sampling: balanced and class_weight: balanced each make every class count alike, and "
            "together they would turn the imbalance round; set one of them"
        ]
    return []
