"""Ensembles: one model that says what its members say together, weights that validation chose, and
an honest verdict.
"""

import csv
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pandas as pd
import pytest
import yaml
from conftest import finetune_here, paint
from scipy.special import softmax

from finetune.cli.options import OPTIONS
from finetune.commands.ensemble import Blend, ensemble
from finetune.commands.run import run as train
from finetune.data.photos import decode
from finetune.errors import DataError, IntegrityError, UsageError
from finetune.evaluation.metrics import per_photo, summarize
from finetune.execution.ensembling import paired_test, verdict
from finetune.execution.members import read_members
from finetune.files import sha256_of
from finetune.model.base import build_base
from finetune.model.cut import split
from finetune.model.ensemble import LEAST_WEIGHT, audit, fit_weights, join
from finetune.model.heads import add_head
from finetune.model.weights import load_weights
from finetune.progress import Reporter
from finetune.runs.classifier import Classifier
from finetune.runs.folder import read_result, write_result
from finetune.runs.predictions import Predictions

QUIET = Reporter(quiet=True)
SIZE = 64
# float32 stores: float16 activations would put predictions.csv 1e-4 off the saved model, member by
# member.
SETTINGS = {
    "weights": "random",
    "image_size": SIZE,
    "resize": "crop",
    "store": "float32",
    "batch_size": 8,
    "precision": "float32",
}
MEMBERS: dict[str, dict[str, Any]] = {
    "gap": {"strategy": "cached-features"},
    "gmp": {"strategy": "cached-features", "head": "gmp"},
    # Steps so small that the loss on validation falls with that on training: otherwise epoch 0 is
    # kept, and block 5 with it.
    "top": {"strategy": "top-blocks", "epochs": 1, "learning_rate": 1e-7},
}


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """Two classes that overlap: the colours of their photos scatter."""
    root, rng = tmp_path_factory.mktemp("data") / "fruit", np.random.default_rng(0)
    for part, count in {"train": 14, "validation": 13, "test": 14}.items():
        for name, color in {"apples": (150, 90, 90), "plums": (130, 90, 110)}.items():
            for i in range(count):
                red, green, blue = np.clip(rng.normal(color, 20), 0, 255).astype(int)
                paint(
                    root / part / name / f"{i}.png",
                    (red, green, blue),
                    int(rng.integers(2**32)),
                    size=(60, 40),
                )
    return root


@pytest.fixture(scope="module")
def made(photos, tmp_path_factory) -> dict[str, Path]:
    """Three finished runs that share a store."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FINETUNE_CACHE", str(tmp_path_factory.mktemp("store")))
        for name, values in MEMBERS.items():
            train({"data": str(photos), **SETTINGS, **values}, out=folder / name)
    return {name: folder / name for name in MEMBERS}


@pytest.fixture(scope="module")
def ensembled(made, tmp_path_factory) -> dict[str, tuple[Path, dict]]:
    """Folder and result of each blend."""
    folder = tmp_path_factory.mktemp("ensemble")
    return {
        name: (folder / name, ensemble(*made.values(), blend=name, out=folder / name))
        for name in ("mean", "weighted")
    }


def table(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "predictions.csv")


def pixels(photos: Path, files: list[str]) -> np.ndarray:
    return np.stack([decode((photos / file).read_bytes(), SIZE, "crop") for file in files])


def loss(values: np.ndarray, labels: np.ndarray) -> float:
    return per_photo(values, labels)["loss"].mean()


def draw(
    rng: np.random.Generator, sharpness: float, noise: float, labels: np.ndarray, classes: int = 3
) -> np.ndarray:
    """Probabilities of a classifier: too sure of itself for a large sharpness."""
    evidence = np.eye(classes)[labels] + noise * rng.normal(size=(len(labels), classes))
    return softmax(sharpness * evidence, axis=1)


# The joined model


def test_a_precision_scores_the_joined_model_anew(made, ensembled, tmp_path):
    members = [made["gap"], made["gmp"]]
    exact = ensemble(*members, precision="float32", out=tmp_path / "exact")
    ensemble(*members, out=tmp_path / "blended")
    exact_rows = table(tmp_path / "exact")
    blended = table(tmp_path / "blended")
    columns = ["apples", "plums"]
    assert exact["precision"] == "float32"
    assert list(exact_rows["file"]) == list(blended["file"])
    np.testing.assert_allclose(exact_rows[columns], blended[columns], atol=1e-4)
    assert not np.array_equal(exact_rows[columns], blended[columns]), "it was scored, not copied"
    with pytest.raises(UsageError, match="float64"):
        ensemble(*members, precision="float64", out=tmp_path / "wrong")


def test_a_photo_that_is_another_one_now_is_not_scored(made, photos, tmp_path):
    file = photos / "test/apples/3.png"
    kept = file.read_bytes()
    paint(file, (150, 90, 90), seed=99, size=(60, 40))
    try:
        with pytest.raises(DataError, match="1 of 54 photos .* or are other .* test/apples/3.png"):
            ensemble(made["gap"], made["gmp"], precision="float32", out=tmp_path / "out")
    finally:
        file.write_bytes(kept)


def test_int8_is_refused_with_what_to_choose():
    with pytest.raises(UsageError, match="Allowed are auto, float32 and bfloat16"):
        ensemble("a", "b", precision="int8")


def test_tensorflow_is_loaded_quietly_before_anything_else_imports_it(monkeypatch):
    late = "finetune.execution.ensembling"
    monkeypatch.delitem(sys.modules, late, raising=False)
    monkeypatch.setattr("finetune.commands.ensemble.load_keras", lambda: sys.modules[late])
    with pytest.raises(KeyError, match="ensembling"):
        ensemble("a", "b")


def test_auto_is_float32_where_all_members_are(made, ensembled, tmp_path):
    """As for a run: a MobileNet loses too much in bfloat16, which auto may mean."""
    found = ensemble(made["gap"], made["gmp"], precision="auto", out=tmp_path / "auto")
    assert found["precision"] == "float32"
    out, _ = ensembled["mean"]
    assert Classifier.open(out).precision("auto") == "float32"


@pytest.mark.parametrize("blend", ["mean", "weighted"])
def test_the_model_says_what_predictions_csv_of_its_members_say_blended(
    blend, ensembled, made, photos
):
    out, result = ensembled[blend]
    rows = table(out)
    parts = [
        table(path).set_index("file").loc[rows["file"], ["apples", "plums"]].to_numpy()
        for path in made.values()
    ]
    expected = np.tensordot(list(result["weights"].values()), parts, axes=1)
    np.testing.assert_allclose(rows[["apples", "plums"]], expected, atol=1e-6)
    assert expected.std(axis=0).min() > 0.01, (
        "probabilities that do not depend on the photo prove nothing"
    )
    classifier = Classifier.open(out)
    assert (classifier.classes, classifier.resize, classifier.recipe) == (
        ("apples", "plums"),
        "crop",
        None,
    )
    batches = [pixels(photos, list(rows["file"]))]
    found = np.concatenate(list(classifier.predict(batches, "float32")))
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_the_model_opens_without_finetune(ensembled, photos, tmp_path):
    out, _ = ensembled["weighted"]
    rows = table(out)
    np.save(tmp_path / "photos.npy", pixels(photos, list(rows["file"])))
    script = f"""
import sys, keras, numpy
model = keras.saving.load_model({str(out / "model.keras")!r})
photos = numpy.load({str(tmp_path / "photos.npy")!r})
numpy.save({str(tmp_path / "found.npy")!r}, model.predict(photos, verbose=0))
assert not [name for name in sys.modules if name.startswith("finetune")]
"""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    np.testing.assert_allclose(
        np.load(tmp_path / "found.npy"), rows[["apples", "plums"]], atol=1e-5
    )


def test_what_members_share_is_there_once(made):
    gap, gmp, top = (Classifier.open(path).model for path in made.values())
    two = join([gap, gmp], (0.5, 0.5))
    assert two.count_params() == gap.count_params() + 1026, "one trunk and a second head"
    three = join([gap, gmp, top], (0.2, 0.3, 0.5))
    above = split(top, "block4_pool").tail.count_params()
    assert three.count_params() == two.count_params() + above, (
        "block 5 was trained and is there twice, the rest once"
    )
    assert len({layer.name for layer in three.layers}) == len(three.layers)


def test_a_member_without_weight_is_left_out(made):
    gap, _, top = (Classifier.open(path).model for path in made.values())
    alone = join([gap, top], (1.0, 0.0))
    assert alone.count_params() == gap.count_params()


@pytest.mark.slow  # two networks of 50 layers and more
@pytest.mark.parametrize("backbone", ["resnet50", "densenet121"])
def test_members_of_other_backbones_share_with_whom_they_can(backbone):
    """A stranger comes first: what the second and the third share must be found between them."""
    models = []
    for name, pools in (("vgg16", ["gap"]), (backbone, ["gap", "flatten"])):
        base = build_base(name, 32)
        load_weights(base, name, "random")
        models += [add_head(base, 3, pool, dropout=0.5) for pool in pools]
    for model in models:
        kernel, bias = model.get_layer("classifier").get_weights()
        model.get_layer("classifier").set_weights(
            [kernel / 50, bias + np.array([0.3, 0.0, -0.3], np.float32)]
        )
    stranger, first, second = models
    weights = (0.2, 0.5, 0.3)
    joined = join(models, weights)
    same = {
        "resnet50": stranger.get_layer("preprocess").count_params(),
        "densenet121": 0,
    }  # as VGG16's, or another
    parts = [stranger, first, second.get_layer("classifier")]
    assert joined.count_params() == sum(part.count_params() for part in parts) - same[backbone]
    assert audit(joined, models, weights) <= 1e-5
    with pytest.raises(IntegrityError, match="differs from its members"):
        audit(joined, models, (0.2, 0.3, 0.5))


# Weights


@pytest.mark.parametrize("sharpness", [1.0, 3.0, 6.0])
def test_fitted_weights_are_the_best_on_the_simplex(sharpness):
    rng, labels = np.random.default_rng(3), np.arange(300) % 3
    likely = np.column_stack(
        [draw(rng, sharpness, noise, labels)[range(300), labels] for noise in (0.8, 0.9)]
    )
    weights = fit_weights(likely)
    assert weights.sum() == pytest.approx(1)
    assert (weights >= 0).all()
    grid = np.linspace(0, 1, 1001)
    losses = [-np.log(likely @ [weight, 1 - weight]).mean() for weight in grid]
    assert weights[0] == pytest.approx(grid[np.argmin(losses)], abs=2e-3)
    assert 0.05 < weights[0] < 0.95, "a corner would not show that the weights are fitted"


def test_a_member_that_adds_nothing_gets_no_weight():
    rng, labels = np.random.default_rng(0), np.arange(600) % 3
    parts = [draw(rng, 3, 0.6, labels), draw(rng, 3, 0.7, labels), np.full((600, 3), 1 / 3)]
    weights = fit_weights(np.column_stack([part[range(600), labels] for part in parts]))
    assert weights[2] == 0.0
    assert weights.sum() == pytest.approx(1)
    assert (weights[:2] > LEAST_WEIGHT).all()


@pytest.mark.parametrize(("photos", "kept"), [(60, True), (70, False)])
def test_a_weight_under_one_percent_is_none(photos, kept):
    """The second member is better on a single photo; with more others its best weight falls from
    2.7 to 0.5 %.
    """
    likely = np.tile([0.9, 0.8], (photos, 1))
    likely[0] = [0.1, 0.9]
    # Where the derivative of the log loss is 0: (photos - 1) * 0.1 / (0.9 - 0.1 w) = 0.8 / (0.1 +
    # 0.8 w).
    best = (0.72 / (0.1 * (photos - 1)) - 0.1) / (0.8 + 0.08 / (0.1 * (photos - 1)))
    assert (best > LEAST_WEIGHT) == kept
    np.testing.assert_allclose(fit_weights(likely), [1 - best, best] if kept else [1, 0], atol=1e-5)


def test_weights_are_fitted_on_validation_alone(ensembled, made, tmp_path):
    """Other test predictions change the test figures and no weight."""
    doctored = tmp_path / "top"
    shutil.copytree(made["top"], doctored)
    rows = table(doctored)
    test = rows["split"] == "test"
    rows.loc[test, ["apples", "plums"]] = rows.loc[test, ["plums", "apples"]].to_numpy()
    rows.to_csv(doctored / "predictions.csv", index=False)
    sign(doctored)
    first = ensembled["weighted"][1]
    second = ensemble(made["gap"], made["gmp"], doctored, blend="weighted", out=tmp_path / "out")
    for key in ("weights", "validation"):
        assert first[key] == second[key]
    assert first["weights"]["top"] > 0
    assert first["test"]["loss"] != second["test"]["loss"]


def test_a_member_without_weight_costs_nothing_and_is_named(made, tmp_path):
    """Weights 1, 0, 0: the cost is that of the one member that is left, and the command prints the
    weights.
    """
    useless = {}
    for name in ("gmp", "top"):
        useless[name] = tmp_path / name
        shutil.copytree(made[name], useless[name])
        rows = table(useless[name])
        right = rows["class"] == "apples"
        rows["apples"] = np.where(right, 0.01, 0.99)
        rows["plums"] = 1 - rows["apples"]
        rows.to_csv(useless[name] / "predictions.csv", index=False)
        sign(useless[name])
    done = finetune_here(
        *("ensemble", made["gap"], *useless.values(), "--blend", "weighted"),
        *("--out", tmp_path / "out"),
    )
    assert done.returncode == 0, done.stderr
    assert "1.00 gap, 0.00 gmp, 0.00 top" in done.stdout
    result = json.loads((tmp_path / "out" / "metrics.json").read_text())
    alone = json.loads((made["gap"] / "metrics.json").read_text())
    assert result["weights"] == {"gap": 1.0, "gmp": 0.0, "top": 0.0}
    assert result["parameters"]["total"] == alone["parameters"]["total"]
    assert result["parameters"]["trainable"] == alone["parameters"]["trainable"]
    assert result["cost"] == {
        "train_seconds": alone["seconds"]["train"],
        "multiply_adds": alone["cost"]["multiply_adds"],
    }


# The verdict


def guesses(correct: np.ndarray) -> Predictions:
    """Predictions of photos of class 0."""
    values = np.where(correct[:, None], [0.9, 0.1], [0.1, 0.9])
    return Predictions([], np.zeros(len(correct), dtype=int), values)


@pytest.mark.parametrize(
    ("right", "difference", "words", "better"),
    [
        (range(5, 395), 0.05, "Combining pays", "ensemble"),
        (range(28, 394), -0.01, "Combining does not measurably pay", None),
        (range(70, 390), -0.125, "Combining does harm", "member"),
    ],
)
def test_the_verdict_follows_the_paired_test(right, difference, words, better):
    member, own = np.arange(400) >= 30, np.isin(np.arange(400), right)
    pair = paired_test(guesses(own), guesses(member), ("ensemble", "member"))
    assert pair["difference"] == pytest.approx(difference)
    assert pair["low"] <= difference <= pair["high"]
    assert pair["only_ensemble"] - pair["only_member"] == pytest.approx(400 * difference)
    assert pair["better"] == better
    assert (pair["low"] > 0 or pair["high"] < 0) == (pair["p"] < 0.05), "interval and p agree"
    sentence = verdict(pair, 400)
    assert sentence.startswith(words)
    assert f"{100 * difference:+.1f} points" in sentence


@pytest.mark.parametrize(("gained", "lost"), [(0, 0), (1, 0), (5, 0), (6, 0), (9, 2), (40, 25)])
def test_the_interval_excludes_nothing_exactly_where_p_is_small(gained, lost):
    photos = np.arange(200)
    own, member = photos >= lost, (photos < 200 - gained)
    pair = paired_test(guesses(own), guesses(member), ("ensemble", "member"))
    assert (pair["only_ensemble"], pair["only_member"]) == (gained, lost)
    assert (pair["low"] > 0) == (pair["p"] < 0.05)


def test_photos_of_one_group_are_no_evidence_of_their_own():
    """Twenty photos more are right, all of one animal: one draw, and not twenty."""
    member = np.arange(200) % 10 > 0
    own = member | (np.arange(200) < 20)
    own[:20] = True
    member[:20] = False
    alone = paired_test(guesses(own), guesses(member), ("ensemble", "member"))
    groups = np.array([f"animal {i // 20}" for i in range(200)])
    grouped = replace(guesses(own), groups=groups)
    found = paired_test(grouped, guesses(member), ("ensemble", "member"))
    assert alone["p"] < 0.001
    assert found["p"] > 0.05
    assert found["low"] <= 0 <= found["difference"] <= found["high"]
    assert (alone["difference"], alone["only_ensemble"]) == (0.1, 20)
    assert found["better"] is None


# The folder and the command


def test_json_and_folder(made, tmp_path):
    out = tmp_path / "out"
    done = finetune_here("ensemble", *made.values(), "--blend", "weighted", "--out", out, "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)  # one object and nothing else
    assert (result["run"], result["out"], result["blend"]) == (str(out), str(out), "weighted")
    assert result["members"] == list(MEMBERS) == list(result["weights"])
    assert sum(result["weights"].values()) == pytest.approx(1)
    members = {name: json.loads((path / "metrics.json").read_text()) for name, path in made.items()}
    losses = {name: member["validation"]["loss"] for name, member in members.items()}
    assert result["validation"]["loss"] <= min(losses.values()) + 1e-4
    assert result["best_member"] == min(losses, key=losses.get) == result["against_best"]["member"]
    assert read_result(out) == result
    rows = table(out).query("split == 'test'")
    labels = (rows["class"] == "plums").to_numpy().astype(int)
    measured = summarize(rows[["apples", "plums"]].to_numpy(), labels)
    assert result["test"]["accuracy"] == measured["accuracy"]
    assert result["test"]["loss"] == pytest.approx(measured["loss"], abs=1e-6)
    sizes = [members[name]["cost"]["multiply_adds"] for name in ("gap", "top")]
    assert result["cost"]["multiply_adds"] < 0.99 * sum(sizes), "shared layers count once"
    assert {path.name for path in out.iterdir() if not path.name.startswith(".")} == {
        *("model.keras", "classes.json", "input.json", "predictions.csv"),
        *("metrics.json", "confusion.png", "README.md", "photos.csv"),
    }
    card = (out / "README.md").read_text()
    assert result["verdict"] in card
    assert all(f"| {name} | " in card for name in MEMBERS)
    nested = finetune_here("ensemble", out, made["gap"])
    assert (nested.returncode, "is an ensemble" in nested.stderr) == (2, True)
    with pytest.raises(UsageError, match="already holds a finished run"):
        ensemble(*made.values(), out=out)


def test_an_unknown_blend_is_refused(made):
    with pytest.raises(UsageError, match="'median'; allowed are mean, weighted"):
        ensemble(*made.values(), blend="median")


def test_equal_folder_names_become_paths(made, tmp_path):
    shutil.copytree(made["gmp"], tmp_path / "gap")
    members = read_members([made["gap"], tmp_path / "gap"])
    assert [member.name for member in members] == [str(made["gap"]), str(tmp_path / "gap")]


def test_members_photos_are_put_into_one_order(made, tmp_path):
    shutil.copytree(made["gmp"], tmp_path / "gmp")
    table(made["gmp"]).iloc[::-1].to_csv(tmp_path / "gmp" / "predictions.csv", index=False)
    sign(tmp_path / "gmp")
    straight = read_members([made["gap"], made["gmp"]])[1].splits["test"]
    turned = read_members([made["gap"], tmp_path / "gmp"])[1].splits["test"]
    assert turned.files == straight.files
    np.testing.assert_array_equal(turned.probabilities, straight.probabilities)


def sign(folder: Path, **changes: object) -> None:
    """Take the digests of changed files, as the run itself would have done."""
    result = json.loads((folder / "metrics.json").read_text())
    result.pop("sha256")
    files = {name: sha256_of(folder / name) for name in result["files"] if (folder / name).exists()}
    write_result(folder, {**result, **changes, "files": files})


def rewrite(folder: Path, file: str, **changes: object) -> None:
    """Change keys of a JSON or YAML file."""
    if file == "metrics.json":
        return sign(folder, **changes)
    path = folder / file
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), **changes}))
    return sign(folder)


def other_classes(folder: Path) -> None:
    (folder / "classes.json").write_text('["apples", "pears"]')
    with (folder / "predictions.csv").open() as file:
        rows = [[cell.replace("plums", "pears") for cell in row] for row in csv.reader(file)]
    (folder / "predictions.csv").write_text("\n".join(",".join(row) for row in rows))
    sign(folder)


@pytest.mark.parametrize(
    ("change", "error", "reason"),
    [
        (
            lambda run: rewrite(run, "metrics.json", split="0" * 64),
            DataError,
            "gmp has other photos .*0000, and gap has",
        ),
        (lambda run: (run / "metrics.json").unlink(), DataError, "is no finished run"),
        (lambda run: (run / "recipe.yaml").unlink(), DataError, "holds no recipe.yaml"),
        (other_classes, DataError, "gmp has classes apples, pears, and gap has apples, plums"),
        (
            lambda run: rewrite(run, "recipe.yaml", image_size=96),
            UsageError,
            "gmp has image_size 96, and gap has 64",
        ),
        (
            lambda run: rewrite(run, "recipe.yaml", resize="pad"),
            UsageError,
            "gmp has resize pad, and gap has crop",
        ),
        (lambda run: rewrite(run, "metrics.json", members=["a"]), UsageError, "is an ensemble"),
    ],
)
def test_runs_that_cannot_be_combined_are_refused(change, error, reason, made, tmp_path):
    other = tmp_path / "gmp"
    shutil.copytree(made["gmp"], other, ignore=shutil.ignore_patterns("model.keras"))
    read_members([made["gap"], other])
    change(other)
    with pytest.raises(error, match=reason):
        read_members([made["gap"], other])


def test_one_run_or_the_same_run_twice_is_refused(made):
    for chosen in ([made["gap"]], [made["gap"], made["gap"].parent / "." / "gap"]):
        with pytest.raises(UsageError, match="two or more different runs"):
            read_members(chosen)


def test_the_command_offers_every_blend():
    assert OPTIONS["blend"].choices == get_args(Blend)
