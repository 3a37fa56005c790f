"""`finetune run`: train one recipe, from photos to a saved classifier."""

import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from os import PathLike
from pathlib import Path
from typing import Any

from finetune.activations.remote import check_remote
from finetune.backend import load_keras
from finetune.data.catalog import need_here
from finetune.errors import UsageError
from finetune.execution.sharing import settled
from finetune.files import commit
from finetune.progress import SILENT, Reporter
from finetune.recipe.reading import load
from finetune.recipe.recipe import Recipe
from finetune.runs.folder import RunResult, read_recipe, read_run
from finetune.runs.interruption import said_if_interrupted, saved_run

Place = str | PathLike[str]
_KEYS = (
    "data",
    "backbone",
    "strategy",
    "weights",
    "image_size",
    "epochs",
    "seed",
    "precision",
    "track",
    "min_per_class",
)


def run(
    recipe: Place | Mapping[str, Any] | None = None,
    *,
    data: Place | None = None,
    backbone: str | None = None,
    strategy: str | None = None,
    head: str | None = None,
    weights: Place | None = None,
    image_size: int | None = None,
    epochs: int | None = None,
    seed: int | None = None,
    precision: str | None = None,
    track: str | None = None,
    min_per_class: int | None = None,
    settings: Sequence[str] = (),
    skip_bad: bool = False,
    out: Place | None = None,
    resume: Place | None = None,
    reporter: Reporter = SILENT,
) -> RunResult:
    """Train one recipe, from photos to a saved classifier.

    Args:
        recipe: a YAML file, or a mapping of its keys.
        data, backbone, strategy, head, weights, image_size, epochs, seed, precision, track,
            min_per_class: override its keys.
        settings: texts ``KEY=VALUE`` for any other key, dotted (``head.dropout=0.5``).
        skip_bad: leave out photos that cannot be decoded.
        out: the run folder; a new one in ``runs/`` if missing. An unfinished run is gone on with.
        resume: go on with the run in this folder; nothing but ``skip_bad`` can be given beside it.
        reporter: of progress.

    Raises:
        FinetuneError: see its subclasses.
    """
    started = time.perf_counter()
    chosen = _chosen(locals())
    resolved = _resolve(recipe, chosen, head, settings, out, resume)
    _say_default(recipe, data, resume, resolved, reporter)
    finished = read_run(Path(resume)) if resume else None
    if finished:
        reporter.say(f"{resume} is finished already; nothing was done.")
        return finished
    folder = run_folder(resolved, out, resume)
    check_remote()
    with said_if_interrupted(lambda: saved_run(folder), reporter):
        load_keras()
        from finetune.execution.trial import run_trial

        return run_trial(resolved, folder, reporter, started=started, for_use=True)


def plan_run(
    recipe: Place | Mapping[str, Any] | None = None,
    *,
    data: Place | None = None,
    backbone: str | None = None,
    strategy: str | None = None,
    head: str | None = None,
    weights: Place | None = None,
    image_size: int | None = None,
    epochs: int | None = None,
    seed: int | None = None,
    precision: str | None = None,
    track: str | None = None,
    min_per_class: int | None = None,
    settings: Sequence[str] = (),
    skip_bad: bool = False,
    resume: Place | None = None,
    reporter: Reporter = SILENT,
) -> dict[str, Any]:
    """What ``run`` would do and cost, without doing it; takes what ``run`` takes."""
    chosen = _chosen(locals())
    resolved = _resolve(recipe, chosen, head, settings, None, resume)
    _say_default(recipe, data, resume, resolved, reporter)
    need_here(resolved.data)
    load_keras()
    from finetune.execution.plan import plan_trial

    return plan_trial(resolved, reporter)


def find_lr(
    recipe: Place | Mapping[str, Any] | None = None,
    *,
    data: Place | None = None,
    backbone: str | None = None,
    strategy: str | None = None,
    head: str | None = None,
    weights: Place | None = None,
    image_size: int | None = None,
    epochs: int | None = None,
    seed: int | None = None,
    precision: str | None = None,
    min_per_class: int | None = None,
    settings: Sequence[str] = (),
    skip_bad: bool = False,
    out: Place | None = None,
    reporter: Reporter = SILENT,
) -> dict[str, Any]:
    """A learning rate for what ``run`` would train, by a range test; takes what ``run`` takes.

    Returns:
        ``suggested``; ``rates`` and ``changes`` of the loss (nats, smoothed); ``plot``: the PNG in
        ``out``, by default a new folder in ``runs/``; ``seconds`` of the test.

    Raises:
        UsageError: the recipe trains nothing by epochs. FinetuneError: see its subclasses.
    """
    chosen = _chosen(locals())
    resolved = _resolve(recipe, chosen, head, settings, None, None)
    folder = run_folder(resolved, out)
    load_keras()
    from finetune.evaluation import plots
    from finetune.execution.trial import find_rate

    found = find_rate(resolved, reporter)
    plot = folder / "learning_rate.png"
    commit(plot, lambda file: plots.range_test(found, file))
    return {**found, "plot": str(plot)}


def _say_default(
    recipe: Any, data: Place | None, resume: Place | None, resolved: Recipe, reporter: Reporter
) -> None:
    """Whoever names no photos is told which ones are used."""
    if recipe is None and data is None and resume is None:
        reporter.say(f"no --data was given: the photos are {resolved.data}")


def run_folder(recipe: Recipe, out: Place | None = None, resume: Place | None = None) -> Path:
    """The folder that was asked for, or a new one in ``runs/``."""
    name = f"{recipe.strategy}-{recipe.backbone}-{datetime.now():%Y%m%d-%H%M%S-%f}"
    return Path(resume or out or Path("runs", name))


def _chosen(given: Mapping[str, Any]) -> dict[str, Any]:
    """The recipe keys among a command's arguments that were given."""
    chosen = {key: given[key] for key in _KEYS if given.get(key) is not None}
    paths = {key: str(chosen[key]) for key in ("data", "weights") if key in chosen}
    return chosen | paths | ({"skip_bad": True} if given["skip_bad"] else {})


def _resolve(
    recipe: Place | Mapping[str, Any] | None,
    chosen: dict[str, Any],
    head: str | None,
    settings: Sequence[str],
    out: Place | None,
    resume: Place | None,
) -> Recipe:
    if resume and (recipe or out or settings or head or set(chosen) - {"skip_bad"}):
        raise UsageError(
            "--resume takes the recipe of the run folder; give it no recipe, --out or other "
            "settings (but --skip-bad)."
        )
    source = read_recipe(Path(resume)) if resume else recipe
    texts = [*([f"head.pool={head}"] if head else []), *settings]
    if isinstance(source, Mapping):
        return settled(load(None, {**source, **chosen}, texts))
    return settled(load(None if source is None else Path(source), chosen, texts))
