"""Greedy soup: one model whose weights are the mean of runs that help, and no other runs."""

import csv

import keras
import numpy as np
import pytest
from conftest import paint

from finetune.commands.ensemble import ensemble
from finetune.data.photos import decode
from finetune.errors import DataError, UsageError
from finetune.execution import trial as runs
from finetune.progress import Reporter
from finetune.recipe.reading import load
from finetune.runs.folder import read_result

QUIET = Reporter(quiet=True)
SIZE = 32


@pytest.fixture
def members(photos, tmp_path) -> list:
    """Two runs that have learned, and one whose steps were far too long."""
    values = {
        "data": str(photos),
        "weights": "random",
        "image_size": SIZE,
        "batch_size": 8,
        "precision": "float32",
        "store": "float32",
        "strategy": "frozen-base",
        "augment": "none",
        "head": {"solver": "keras", "hidden": 4},
        "epochs": 2,
    }
    out = []
    for seed, rate in ((0, 1e-3), (0, 2e-3), (7, 5.0)):
        out.append(tmp_path / f"seed{seed}-rate{rate:g}")
        recipe = load(None, {**values, "seed": seed, "learning_rate": rate}, [])
        runs.run_trial(recipe, out[-1], QUIET)
    return out


@pytest.mark.slow  # half a minute
def test_soup_averages_the_weights_of_the_runs_that_lower_validation_loss(
    members, photos, tmp_path
):
    folder = tmp_path / "soup"
    result = ensemble(*members, blend="soup", out=folder)
    losses = [read_result(run)["validation"]["loss"] for run in members]
    assert result["validation"]["loss"] <= min(losses) + 1e-6
    taken = [run for run, weight in zip(members, result["weights"].values(), strict=True) if weight]
    assert sum(result["weights"].values()) == pytest.approx(1)
    soup = keras.saving.load_model(folder / "model.keras")
    parts = [keras.saving.load_model(run / "model.keras") for run in taken]
    for name in ("hidden", "classifier"):
        mean = np.mean([part.get_layer(name).get_weights()[0] for part in parts], axis=0)
        np.testing.assert_allclose(soup.get_layer(name).get_weights()[0], mean, rtol=1e-5)
    assert soup.count_params() == parts[0].count_params(), "no inference cost"
    with (folder / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    pixels = np.stack([decode((photos / row["file"]).read_bytes(), SIZE) for row in rows])
    expected = [[float(row["apples"]), float(row["plums"])] for row in rows]
    np.testing.assert_allclose(soup.predict(pixels, verbose=0), expected, atol=1e-4)
    other = tmp_path / "other"
    values = {"data": str(photos), "weights": "random", "image_size": SIZE, "store": "float32"}
    values |= {"strategy": "frozen-base", "augment": "none", "epochs": 0, "precision": "float32"}
    runs.run_trial(load(None, values, []), other, QUIET)
    with pytest.raises(UsageError, match="differs from .* in head"):
        ensemble(members[0], other, blend="soup", out=tmp_path / "refused")
    paint(photos / "validation/apples/0.png", (200, 60, 50), seed=99)
    with pytest.raises(DataError, match="validation photos of .* are not those of the runs any"):
        ensemble(*members, blend="soup", out=tmp_path / "changed")
