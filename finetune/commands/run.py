"""`finetune run`: train one recipe, from photos to a saved classifier."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from finetune.errors import UsageError
from finetune.progress import SILENT, Reporter
from finetune.recipe.recipe import Recipe, load
from finetune.runs.folder import read_recipe, read_result
from finetune.runs.interruption import said_if_interrupted, saved_run


def run(
    recipe: Path | Mapping[str, Any] | None = None,
    *,
    data: str | None = None,
    backbone: str | None = None,
    strategy: str | None = None,
    head: str | None = None,
    weights: str | None = None,
    image_size: int | None = None,
    epochs: int | None = None,
    seed: int | None = None,
    precision: str | None = None,
    min_per_class: int | None = None,
    settings: Sequence[str] = (),
    skip_bad: bool = False,
    out: Path | None = None,
    resume: Path | None = None,
    reporter: Reporter = SILENT,
) -> dict[str, Any]:
    """Train one recipe, from photos to a saved classifier."""
    if resume and read_result(resume):
        reporter.say(f"{resume} is finished already; nothing was done.")
        return read_result(resume) or {}
    keys = {name: value for name, value in locals().items() if name in KEYS}
    resolved = _resolved(recipe, keys, head, settings, skip_bad, out, resume)
    name = f"{resolved.strategy}-{resolved.backbone}-{datetime.now():%Y%m%d-%H%M%S-%f}"
    folder = resume or out or Path("runs", name)
    from finetune.backend import load_keras

    with said_if_interrupted(lambda: saved_run(folder), reporter):
        load_keras()
        from finetune.execution.trial import run_trial

        return run_trial(resolved, folder, reporter)


def plan_run(
    recipe: Path | Mapping[str, Any] | None = None,
    *,
    data: str | None = None,
    backbone: str | None = None,
    strategy: str | None = None,
    head: str | None = None,
    weights: str | None = None,
    image_size: int | None = None,
    epochs: int | None = None,
    seed: int | None = None,
    precision: str | None = None,
    min_per_class: int | None = None,
    settings: Sequence[str] = (),
    skip_bad: bool = False,
    resume: Path | None = None,
    reporter: Reporter = SILENT,
) -> dict[str, Any]:
    """What ``run --dry-run`` prints: the cut, both sides of it, and what it would cost."""
    keys = {name: value for name, value in locals().items() if name in KEYS}
    resolved = _resolved(recipe, keys, head, settings, skip_bad, None, resume)
    from finetune.backend import load_keras

    load_keras()
    from finetune.execution.trial import plan_trial

    return plan_trial(resolved, reporter)


KEYS = (
    "data", "backbone", "strategy", "weights", "image_size", "epochs", "seed", "precision",
    "min_per_class",
)  # fmt: skip


def _resolved(
    recipe: Path | Mapping[str, Any] | None,
    keys: Mapping[str, Any],
    head: str | None,
    settings: Sequence[str],
    skip_bad: bool,
    out: Path | None,
    resume: Path | None,
) -> Recipe:
    given = {key: value for key, value in keys.items() if value is not None}
    if resume and (recipe or out or settings or head or given):
        raise UsageError(
            "--resume takes the recipe of the run folder; give it no recipe, --out or other "
            "settings."
        )
    given |= {"skip_bad": True} if skip_bad else {}
    heads = [f"head.pool={head}"] if head else []
    if isinstance(recipe, Mapping):
        return load(None, {**recipe, **given}, [*heads, *settings])
    return load(read_recipe(resume) if resume else recipe, given, [*heads, *settings])
