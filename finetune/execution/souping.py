"""Greedy soup: the weights of runs of one architecture averaged into one model, which costs no more
than any of them. Wortsman et al., Model Soups, ICML 2022, algorithm 1; needs TensorFlow.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from finetune.activations.rows import closing_shards
from finetune.errors import DataError, UsageError
from finetune.evaluation.metrics import per_photo
from finetune.execution.bench import Bench, StoredRows, gather, read_dataset
from finetune.execution.members import Member, Mixed, changed_files
from finetune.execution.sharing import Need, settled, shown_views
from finetune.model.network import Network, frozen_digests
from finetune.progress import Reporter, count
from finetune.recipe.recipe import Recipe
from finetune.runs.classifier import Classifier
from finetune.runs.predictions import Predictions

# Recipes may differ in how they learn, and in nothing that the network is made of.
_ARCHITECTURE = (
    *("backbone", "alpha", "weights", "preprocessing", "strategy", "blocks", "features"),
    *("precision", "engine", "store", "tta"),
)
_Weights = dict[str, list[np.ndarray]]  # layer -> its weights


def greedy_soup(members: Sequence[Member], reporter: Reporter) -> Mixed:
    """Average the weights of runs, the best on validation first, each only if that lowers the
    validation loss.

    Args:
        members: from ``read_members``.
        reporter: of progress.

    Raises:
        UsageError: the runs are of different architectures, or nothing above a trunk was trained.
        DataError: their photos are not those of the recipe any more.
    """
    _check_architecture(members)
    recipe = settled(members[0].recipe)
    network, cache = Bench().prepare(recipe, len(members[0].classes), reporter)
    views = shown_views(recipe)
    needs = [Need(recipe.cut, split, view) for split in members[0].splits for view in views]
    dataset, rows = gather(recipe, read_dataset(recipe), cache, needs)
    changed = changed_files(members[0], dataset)
    for name, split in members[0].splits.items():
        files = [photo.file for photo in dataset.split(name)]
        if files != list(split.files) or changed.intersection(files):
            raise DataError(
                f"The {name} photos of {recipe.data} are not those of the runs any more. Put them "
                "back, or choose --blend mean."
            )
    with closing_shards():
        return _stirred(members, network, recipe, rows, reporter)


def _stirred(
    members: Sequence[Member],
    network: Network,
    recipe: Recipe,
    rows: StoredRows,
    reporter: Reporter,
) -> Mixed:
    by_loss = sorted(range(len(members)), key=lambda i: members[i].result["validation"]["loss"])
    held_out = members[0].splits["validation"]
    taken: list[int] = []
    total: _Weights = {}
    best = np.inf
    for index in by_loss:
        more = _added(total, _learned(members[index], network))
        _set(network, more, len(taken) + 1)
        loss = _loss(_predicted(network, recipe, rows, "validation", held_out))
        is_better = loss < best
        reporter.say(
            f"{members[index].name}: {'taken' if is_better else 'left out'}, validation loss "
            f"{loss:.4f} with {count(len(taken) + 1, 'run')}"
        )
        if is_better:
            taken, total, best = [*taken, index], more, loss
    _set(network, total, len(taken))
    splits = {
        name: _predicted(network, recipe, rows, name, split)
        for name, split in members[0].splits.items()
    }
    weights = [1 / len(taken) if index in taken else 0.0 for index in range(len(members))]
    return Mixed(network.final, weights, splits, None)


def _check_architecture(members: Sequence[Member]) -> None:
    first = members[0]
    for member in members[1:]:
        different = [
            key
            for key in _ARCHITECTURE
            if getattr(member.recipe, key) != getattr(first.recipe, key)
        ]
        shapes = [m.recipe.head.model_dump(include={"pool", "hidden"}) for m in (first, member)]
        if shapes[0] != shapes[1]:
            different.append("head")
        if different:
            raise UsageError(
                f"{member.name} differs from {first.name} in {', '.join(different)}. A soup "
                "averages the weights of one architecture: runs that differ in seed, learning rate "
                "and the like. `--blend mean` combines any runs."
            )


def _learned(member: Member, network: Network) -> _Weights:
    """A run's weights above the cut; below it must be the same network."""
    model = Classifier.open(member.path).model
    names = {layer.name for layer in network.whole.layers if layer.trainable and layer.weights}
    for layer in model.layers:
        layer.trainable = layer.name in names
    if frozen_digests(model) != network.frozen:
        raise UsageError(
            f"{member.name} stands on another frozen network than its recipe makes now. Run its "
            "recipe again."
        )
    return {name: model.get_layer(name).get_weights() for name in names}


def _added(total: _Weights, more: _Weights) -> _Weights:
    if not total:
        return more
    return {
        name: [a + b for a, b in zip(arrays, more[name], strict=True)]
        for name, arrays in total.items()
    }


def _set(network: Network, total: _Weights, runs: int) -> None:
    for name, arrays in total.items():
        network.whole.get_layer(name).set_weights([array / runs for array in arrays])


def _predicted(
    network: Network, recipe: Recipe, rows: StoredRows, name: str, split: Predictions
) -> Predictions:
    """What the network gives of a split's photos, from their stored activations."""
    found = [
        np.concatenate(
            [
                network.tail.predict_on_batch(_float32(batch))
                for batch in rows[Need(recipe.cut, name, view)].batches(recipe.batch_size)
            ]
        )
        for view in shown_views(recipe)
    ]
    return replace(split, probabilities=np.stack(found).mean(axis=0, dtype=np.float64))


def _float32(batch: np.ndarray) -> np.ndarray:
    return batch.astype(np.float32) if batch.dtype == np.float16 else batch


def _loss(split: Predictions) -> float:
    return float(per_photo(split.probabilities, split.labels)["loss"].mean())
