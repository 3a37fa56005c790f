"""What there is to choose from: backbones, strategies, and the keys of a recipe."""

from typing import Any


def backbones() -> dict[str, dict[str, Any]]:
    """List the backbones: size, cuts, licence, and where their weights would come from."""
    from finetune.model.backbones import alphas, backbone, known_backbones

    rows = {name: backbone(name) for name in known_backbones()}
    return {
        name: {
            "parameters": row.parameters,
            "min_size": row.min_size,
            "alphas": alphas(name),
            "cuts": row.blocks,
            "weights": row.weights_file,
            "licence": row.licence,
            "citation": row.citation,
        }
        for name, row in rows.items()
    }


def strategies() -> dict[str, dict[str, Any]]:
    """List the strategies: where the cut lies, what crosses it, and what learns."""
    from finetune.recipe.strategies import LEARNS, STRATEGIES

    return {
        name: {
            "cut": LEARNS[row.learns][0],
            "crosses": row.crosses,
            "learns": LEARNS[row.learns][1],
            "summary": row.summary,
            "defaults": row.defaults,
        }
        for name, row in STRATEGIES.items()
    }


def schema() -> dict[str, Any]:
    """Print the JSON Schema of recipes, for editors."""
    from finetune.recipe.schema import schema

    return schema()
