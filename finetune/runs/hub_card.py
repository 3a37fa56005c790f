"""A run as it is shared: without what tells where, and by whose photos, it was made."""

import csv
import io
import re
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from finetune.data.hugging_face import PREFIX, hub_address
from finetune.errors import DataError
from finetune.files import commit_text
from finetune.model.backbones import CONTROLS, backbone
from finetune.recipe.reading import reopen
from finetune.recipe.recipe import Recipe
from finetune.runs.folder import PHOTOS, RunResult, checked, read_run

# Photos, or names of their files, or nothing to anybody else.
PRIVATE = ("explanations.png", "predictions.csv", "folds.csv", "excluded.csv", "log.txt")
# How the licence of a backbone's weights begins -> its name on the hub.
_LICENCES = {
    "CC BY 4.0": "cc-by-4.0",
    "MIT": "mit",
    "BSD 3-Clause": "bsd-3-clause",
    "Apache 2.0": "apache-2.0",
}
_OTHER = "https://keras.io/api/applications/"
_EVIDENCE = re.compile(
    r"\n## What it looks at\n.*?(?=\n## )| `folds\.csv` has every prediction\.", re.DOTALL
)


def stage(run: Path, name: str, folder: Path) -> RunResult:
    """Copy a finished run as it is shared.

    Left out are pictures of photos, the names of the photos' files (their digests stay, by which
    ``evaluate`` knows them) and paths of this machine.

    Args:
        run: the folder of a finished run.
        name: of the repository, ``USER/REPO``.
        folder: an empty one.

    Raises:
        DataError: it is no finished run. IntegrityError: a file is not as the run wrote it.
    """
    result = read_run(run) if run.is_dir() else None
    if result is None:
        raise DataError(f"{run} is no finished run. Give the folder that `finetune run` wrote.")
    checked(run)
    recipe = reopen(run / "recipe.yaml")
    for file in result.files:
        if file not in PRIVATE:
            _copy(run / file, folder / file)
    for network in (manifest.parent for manifest in run.glob("openvino/*/manifest.json")):
        hidden = shutil.ignore_patterns(".*")  # its lock, and what a killed writer left
        place = folder / network.relative_to(run)
        shutil.copytree(network, place, ignore=hidden, dirs_exist_ok=True)
    (folder / PHOTOS).write_text(_nameless(run / PHOTOS), encoding="utf-8")
    places = (str(run), result.run, result.weights["source"], recipe.data, recipe.weights)
    named = {"data": placeless(recipe.data), "weights": placeless(recipe.weights)}
    commit_text(folder / "recipe.yaml", recipe.model_copy(update=named).dump())
    result = replace(
        result,
        run=name,
        weights={**result.weights, "source": placeless(result.weights["source"])},
        warnings=[_without(places, text) for text in result.warnings],
        leaks=_counted(result.leaks),
        near_duplicates=_counted(result.near_duplicates),
    )
    text = _without(places, (run / "README.md").read_text(encoding="utf-8"))
    commit_text(folder / "README.md", card(text, result, recipe, name))
    return result.write(folder)


def card(text: str, result: RunResult, recipe: Recipe, name: str) -> str:
    """A run's model card with the metadata that the hub reads, and without its photos."""
    from huggingface_hub import EvalResult, ModelCardData

    figures = {
        "accuracy": result.test["accuracy"],
        "balanced_accuracy": result.test["balanced_accuracy"],
        "f1": result.test["macro_f1"],
        "log_loss": result.test["loss"],
    }
    task = "image-classification"
    is_on_hub = recipe.data.startswith(PREFIX)
    data = hub_address(recipe.data)[0] if is_on_hub else placeless(recipe.data)
    results = [
        EvalResult(
            task_type=task,
            dataset_type=data,
            dataset_name=f"{data} ({result.split[:16]})",
            dataset_split="test",
            metric_type=kind,
            metric_value=round(value, 6),
        )
        for kind, value in figures.items()
    ]
    metadata = ModelCardData(
        library_name="keras",
        pipeline_tag=task,
        tags=[task, "finetune-cut", recipe.backbone, recipe.strategy],
        metrics=["accuracy", "f1"],
        datasets=[data] if is_on_hub else None,
        model_name=name.partition("/")[2],
        eval_results=results,
        **licence(recipe),
    )
    usage = f"\nOr `finetune predict hf://{name} PHOTO`, which checks every file's digest first.\n"
    text = _EVIDENCE.sub("", text).replace("\n## Sources\n", f"{usage}\n## Sources\n")
    return f"---\n{metadata.to_yaml()}\n---\n\n{text}\n"


def licence(recipe: Recipe) -> dict[str, Any]:
    """The licence of the weights that a run began with, in the hub's words; none of random ones."""
    if recipe.weights == "random" or recipe.backbone in CONTROLS:
        return {}
    text = backbone(recipe.backbone).licence
    known = [found for start, found in _LICENCES.items() if text.startswith(start)]
    if recipe.weights == "imagenet" and known:
        return {"license": known[0]}
    return {
        "license": "other",
        "license_name": "that-of-the-backbone-weights",
        "license_link": _OTHER,
    }


def placeless(place: str) -> str:
    """An address as it is, and of a path its name alone."""
    return place if "://" in place or place.startswith(PREFIX) else Path(place).name


def _without(places: Sequence[str], text: str) -> str:
    """A text in which paths of this machine are but names."""
    paths = [place for place in places if len(Path(place).parts) > 1]  # "." is in every sentence
    for place in sorted(paths, key=len, reverse=True):  # one may lie in another
        text = text.replace(place, placeless(place))
    return text


def _counted(groups: Sequence[Sequence[str]] | None) -> Any:
    """As many files in as many groups, without their names; None if they were not sought."""
    return None if groups is None else [[""] * len(group) for group in groups]


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


def _nameless(table: Path) -> str:
    """``photos.csv`` without the names of the files."""
    text = io.StringIO()
    with table.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        writer = csv.DictWriter(text, reader.fieldnames or [], lineterminator="\n")
        writer.writeheader()
        writer.writerows({**row, "file": "", "group": ""} for row in reader)
    return text.getvalue()
