"""The model card.

README.md of a run or an ensemble, after Mitchell et al., Model Cards for Model Reporting, 2019.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import BaseLoader, Environment, PackageLoader, StrictUndefined

from finetune.data.dataset import SPLITS, Dataset
from finetune.evaluation.caveats import caveats
from finetune.model.backbones import backbone
from finetune.progress import count
from finetune.recipe.recipe import Recipe

_LISTED = 25  # classes
_TITLE = 60  # characters of class names


def render(recipe: Recipe, dataset: Dataset, result: Mapping[str, Any], folder: Path) -> str:
    """The card of a run, as Markdown.

    Args:
        recipe: fully resolved.
        dataset: the photos.
        result: what ``run --json`` prints.
        folder: of the run; pictures that it holds are shown.
    """
    photos = ", ".join(f"{len(dataset.split(name)):,} {name}" for name in SPLITS)
    made_by = f"{recipe.strategy} on {recipe.backbone}"
    return _fill(
        {**result, "photos": photos, "members": ()}, dataset.classes, [recipe], folder, made_by
    )


def render_ensemble(result: Mapping[str, Any], members: Sequence[Any], folder: Path) -> str:
    """The card of an ensemble, as Markdown.

    Args:
        result: what ``ensemble --json`` prints.
        members: its ``commands.ensemble.Member``.
        folder: of the ensemble.
    """
    made_by = f"{result['blend']} of {len(members)} runs"
    recipes = [member.recipe for member in members]
    return _fill({**result, "members": members}, members[0].classes, recipes, folder, made_by)


def cell(text: object) -> str:
    """Text on one line that starts no new column of a Markdown table."""
    return " ".join(str(text).split()).replace("|", r"\|")


def percent(share: float, digits: int = 1) -> str:
    """A fraction in percent, without the sign."""
    return f"{100 * share:.{digits}f}"


def templates(loader: BaseLoader, autoescape: bool = False) -> Environment:
    """Templates whose unknown names are errors.

    Of Markdown, which takes text as it stands, unless ``autoescape``.
    """
    environment = Environment(
        loader=loader,
        autoescape=autoescape,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"cell": cell, "percent": percent}
    return environment


def _fill(
    result: Mapping[str, Any],
    classes: Sequence[str],
    recipes: Sequence[Recipe],
    folder: Path,
    made_by: str,
) -> str:
    names = ", ".join(classes)
    table = result["test"]["per_class"]
    if len(table) > _LISTED:
        table = sorted(table, key=lambda row: row["f1"])[:_LISTED]
    context = {
        "made_by": made_by,
        "title": names if len(names) <= _TITLE else f"{len(classes)} classes",
        "recipe": recipes[0],
        "backbones": [backbone(name) for name in dict.fromkeys(r.backbone for r in recipes)],
        "warnings": result.get("warnings", caveats(result["test"])),
        "unseen": result.get("unseen"),
        "folds": result.get("folds"),
        "count": count,
        "table": table,
        "pictures": [path.name for path in folder.glob("*.png")],
    }
    template = templates(PackageLoader("finetune.runs", ".")).get_template("card.md")
    return template.render({**result, **context})
