"""What an editor needs to know of recipe files."""

from typing import Any

from finetune.data.augment import PRESETS
from finetune.recipe.parts import Augment, Head, Optimizer
from finetune.recipe.recipe import Recipe
from finetune.recipe.strategies import POOLINGS
from finetune.recipe.words import WORDS


def schema() -> dict[str, Any]:
    """JSON Schema of a recipe file, for editors: short forms and the matrix included."""
    head, augment = Head.model_json_schema(), Augment.model_json_schema()
    properties = dict(Recipe.model_json_schema()["properties"])
    properties["head"] = {"anyOf": [{"enum": list(POOLINGS)}, {**head, "required": []}]}
    properties["augment"] = {"anyOf": [{"enum": list(PRESETS)}, augment]}
    optimizer = {**Optimizer.model_json_schema(), "required": []}
    properties["optimizer"] = {"anyOf": [{"enum": ["adam", "sgd"]}, optimizer]}
    combination = {"type": "object", "description": "a partial combination to leave out"}
    properties["exclude"] = {"type": "array", "items": combination}
    swept = {"type": "object", "additionalProperties": {"type": "array", "minItems": 1}}
    properties["matrix"] = {**swept, "properties": {"exclude": properties["exclude"]}}
    ends = {"type": "array", "items": {"type": "number"}, "minItems": 2, "maxItems": 2}
    domains = [{"type": "object", "properties": {scale: ends}} for scale in ("log", "range")]
    domain = {"anyOf": [{"type": "array", "minItems": 1}, *domains]}
    properties["search"] = {"type": "object", "additionalProperties": domain}
    for key, words in WORDS.items():
        _described(properties, key, words)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "finetune recipe",
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
    }


def _described(properties: dict[str, Any], key: str, words: str) -> None:
    """Add the words of a key, which stands in its table where it is dotted."""
    table, _, inner = key.rpartition(".")
    if not table:
        properties[key] = {**properties[key], "description": words}
        return
    (keys,) = [kind["properties"] for kind in properties[table]["anyOf"] if "properties" in kind]
    keys[inner] = {**keys[inner], "description": words}
