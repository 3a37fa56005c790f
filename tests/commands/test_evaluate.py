"""A run measured on other folders: classes by name, nothing overwritten, nothing flattered,
everything written parses back.
"""

import csv
import io
import json
import shutil

import numpy as np
import pandas as pd
import pytest
from conftest import finetune_here, paint
from PIL import Image

from finetune.commands.evaluate import evaluate
from finetune.commands.run import run as train
from finetune.data.labelled import read_labelled
from finetune.errors import DataError, UsageError
from finetune.progress import Reporter
from finetune.runs.classifier import Classifier

COLORS = {"apples": (145, 112, 105), "pears": (125, 125, 105), "plums": (122, 112, 130)}
QUIET = Reporter(quiet=True)


def put(root, counts, start=0):
    for name, count in counts.items():
        for i in range(count):
            paint(
                root / name / f"{i}.png",
                COLORS.get(name, (128, 128, 128)),
                start + 1000 * len(name) + i,
            )
    return root


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run of three classes at 64 px, the splits it comes from, and a flat folder of others."""
    root = tmp_path_factory.mktemp("evaluate")
    for start, (split, n) in enumerate({"train": 6, "validation": 3, "test": 5}.items()):
        put(root / "photos" / split, dict.fromkeys(COLORS, n), 100 * start)
    put(root / "flat", {"apples": 2, "pears": 4, "plums": 2}, 500)
    paint(
        root / "flat" / "apples" / "wrong.png", (90, 112, 160), 1
    )  # a plum, if ever there was one
    values = {
        "data": str(root / "photos"),
        "weights": "random",
        "image_size": 64,
        "strategy": "cached-features",
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FINETUNE_CACHE", str(root / "cache"))
        train(values, out=root / "run")
    return root


@pytest.fixture(scope="module")
def classifier(folder) -> Classifier:
    return Classifier.open(folder / "run")


@pytest.fixture(scope="module")
def flat(folder, classifier):
    """The result on the flat folder, and where it is."""
    return evaluate(classifier, str(folder / "flat"), out=folder / "out"), folder / "out"


class Told:
    """A reporter to look into."""

    def __init__(self):
        self.file = io.StringIO()
        self.reporter = Reporter(quiet=True, file=self.file)

    def __str__(self):
        return " ".join(self.file.getvalue().split())


def test_the_test_split_gets_the_figures_that_the_run_itself_has(folder, classifier, tmp_path):
    told = Told()
    result = evaluate(
        classifier, str(folder / "photos"), reporter=told.reporter, out=tmp_path / "out"
    )
    own = json.loads((folder / "run" / "metrics.json").read_text())["test"]
    assert (result["split"], result["n"], result["bad"]) == ("test", 15, 0)
    assert result["accuracy"] == own["accuracy"]
    assert result["accuracy_interval"] == own["accuracy_interval"]
    assert result["loss"] == pytest.approx(
        own["loss"], abs=2e-3
    )  # the run's own come from float16 activations
    assert "trained on" not in str(told), "test photos are as new as they look"
    assert result["known"]["text"] == (
        "By content, none of 15 photos is among the 27 photos that the model was trained and "
        "chosen on."
    )
    mine = pd.read_csv(tmp_path / "out" / "predictions.csv")
    theirs = pd.read_csv(folder / "run" / "predictions.csv").query("split == 'test'")
    assert list(mine.columns) == ["file", "class", *COLORS]
    assert mine["file"].tolist() == theirs["file"].tolist()
    np.testing.assert_allclose(mine[list(COLORS)], theirs[list(COLORS)], atol=2e-3)


def test_what_is_written_is_what_is_returned(flat):
    result, out = flat
    files = {path.name for path in out.iterdir() if not path.name.startswith(".")}
    assert files == {
        "metrics.json",
        "predictions.csv",
        "confusion.png",
        "top_losses.csv",
        "top_losses.png",
    }
    assert json.loads((out / "metrics.json").read_text()) == result
    table = pd.read_csv(out / "predictions.csv")
    assert len(table) == result["n"] == np.sum(result["confusion"]) == 9
    assert [row["n"] for row in result["per_class"]] == [3, 4, 2]
    of_class = table.apply(lambda row: row[row["class"]], axis=1).clip(
        lower=1e-7
    )  # as in results.metrics
    assert result["loss"] == pytest.approx(-np.log(of_class).mean(), rel=1e-3)
    assert result["accuracy"] == np.mean(table[list(COLORS)].idxmax(axis=1) == table["class"])
    worst = pd.read_csv(out / "top_losses.csv")
    assert list(worst.columns) == ["file", "class", "predicted", "probability", "loss"]
    assert worst["loss"].is_monotonic_decreasing
    assert worst["loss"].iloc[0] == pytest.approx(-np.log(of_class.min()), rel=1e-3)
    assert worst.iloc[0][["file", "class", "predicted"]].tolist() == [
        "apples/wrong.png",
        "apples",
        "plums",
    ]
    assert result["confusion"][0][2] == 1, "rows are true classes"
    sheet = Image.open(out / "top_losses.png")
    assert sheet.width > 4 * 224
    assert len(np.unique(np.asarray(sheet).reshape(-1, 3), axis=0)) > 1000, "the photos are on it"


def test_only_the_worst_25_are_listed(folder, classifier, tmp_path):
    result = evaluate(classifier, str(folder / "photos"), split="all", out=tmp_path / "out")
    assert (result["n"], len(result["top_losses"])) == (42, 25)
    everything = pd.read_csv(tmp_path / "out" / "predictions.csv")
    losses = (-np.log(everything.apply(lambda row: row[row["class"]], axis=1))).sort_values(
        ascending=False
    )
    np.testing.assert_allclose(
        [row["loss"] for row in result["top_losses"]], losses.head(25), rtol=1e-3, atol=1e-6
    )


def test_classes_are_matched_by_name_where_some_are_missing(folder, classifier, flat, tmp_path):
    """Without apples the folders of pears and plums stand at other places than their classes."""
    for name in ("pears", "plums"):
        shutil.copytree(folder / "flat" / name, tmp_path / "some" / name)
    told = Told()
    result = evaluate(
        classifier, str(tmp_path / "some"), reporter=told.reporter, out=tmp_path / "out"
    )
    assert [row["n"] for row in result["per_class"]] == [0, 4, 2]
    assert result["auc"] is None
    assert result["accuracy"] >= 5 / 6
    whole = (
        pd.read_csv(flat[1] / "predictions.csv").query("`class` != 'apples'").reset_index(drop=True)
    )
    part = pd.read_csv(tmp_path / "out" / "predictions.csv")
    pd.testing.assert_frame_equal(part, whole, atol=1e-6)
    assert "No photos of 1 of the model's 3 classes: apples." in str(told)
    json.dumps(result, allow_nan=False)


def test_one_photo_is_enough(folder, classifier, tmp_path):
    put(tmp_path / "one", {"plums": 1})
    result = evaluate(classifier, str(tmp_path / "one"), out=tmp_path / "out")
    assert (result["n"], result["auc"], len(result["top_losses"])) == (1, None, 1)


def test_unknown_classes_are_explained(folder, classifier, tmp_path):
    put(tmp_path / "other", {"apple": 1, "plums": 1, "dogs": 1})
    (tmp_path / "other" / "empty").mkdir()
    with pytest.raises(DataError) as caught:
        evaluate(classifier, str(tmp_path / "other"), out=tmp_path / "out")
    message = str(caught.value)
    assert (
        "does not know: 'apple' (did you mean 'apples'?), 'dogs'. It knows 'apples', 'pears', "
        "'plums'." in message
    )
    assert "empty" not in message
    assert not (tmp_path / "out").exists()


# Layouts


def files(dataset):
    return [photo.file for photo in dataset.photos]


def test_a_flat_folder_is_never_split(folder):
    dataset = read_labelled(folder / "flat", ("plums", "pears", "apples"))
    assert len(dataset.photos) == 9
    assert {(photo.file.split("/")[0], photo.label) for photo in dataset.photos} == {
        *(("plums", 0), ("pears", 1), ("apples", 2))
    }
    assert dataset == read_labelled(folder / "flat", ("plums", "pears", "apples"), "all")
    with pytest.raises(UsageError, match="leave out --split test"):
        read_labelled(folder / "flat", tuple(COLORS), "test")


def test_one_split_is_read_whatever_the_others_look_like(tmp_path):
    put(tmp_path, {"val/plums": 2, "test/apples": 1, "test/plums": 1, "train/dogs": 1})
    paint(tmp_path / "Train" / "loose.png", (1, 1, 1), 1)
    assert files(read_labelled(tmp_path, tuple(COLORS))) == [
        "test/apples/0.png",
        "test/plums/0.png",
    ]
    assert files(read_labelled(tmp_path, tuple(COLORS), "validation")) == [
        "val/plums/0.png",
        "val/plums/1.png",
    ]
    with pytest.raises(DataError, match=r"more than one folder stands for train/|'dogs'"):
        read_labelled(tmp_path, tuple(COLORS), "train")


def test_a_lone_test_folder_will_do_and_a_missing_split_is_told(tmp_path):
    put(tmp_path, {"test/apples": 1})
    assert len(read_labelled(tmp_path, tuple(COLORS)).photos) == 1
    assert len(read_labelled(tmp_path, tuple(COLORS), "all").photos) == 1
    with pytest.raises(DataError, match="no photos were found for --split validation"):
        read_labelled(tmp_path, tuple(COLORS), "validation")


def test_folders_without_photos_are_an_error(tmp_path):
    paint(tmp_path / "loose.png", (1, 1, 1), 1)
    with pytest.raises(
        DataError, match=r"no class folders \(photos directly in it: 1\).*Needed: class folders"
    ):
        read_labelled(tmp_path, tuple(COLORS))
    with pytest.raises(DataError, match="is a file, not a folder"):
        read_labelled(tmp_path / "loose.png", tuple(COLORS))


# What must not be overlooked


@pytest.mark.parametrize(
    ("split", "words"),
    [
        ("train", "18 of 18 photos are among those that the model was trained on"),
        ("validation", "9 among those that chose its settings"),
        ("all", "18 of 42 photos are among those that the model was trained on and 9 among"),
    ],
)
def test_photos_that_the_model_knows_are_said_to_be(
    split, words, folder, classifier, tmp_path, monkeypatch
):
    monkeypatch.chdir(folder)
    told = Told()
    evaluate(classifier, "photos", split=split, out=tmp_path / "out", reporter=told.reporter)
    assert words in str(told)


def test_photos_are_known_by_content_wherever_they_lie(folder, classifier, tmp_path):
    shutil.copytree(folder / "flat", tmp_path / "others")
    shutil.copy(folder / "photos/train/plums/0.png", tmp_path / "others/plums/renamed.png")
    told = Told()
    result = evaluate(classifier, tmp_path / "others", out=tmp_path / "out", reporter=told.reporter)
    assert (result["known"]["train"], result["known"]["validation"]) == (1, 0)
    assert result["known"]["unseen"]["n"] == result["n"] - 1 == 9
    assert "1 of 10 photos are among those that the model was trained on" in str(told)
    assert "on 9 photos" in str(told)


def test_a_model_without_its_photos_says_that_it_cannot_tell(folder, tmp_path):
    shutil.copy(folder / "run" / "model.keras", tmp_path / "alone.keras")
    shutil.copy(folder / "run" / "classes.json", tmp_path / "classes.json")
    result = evaluate(tmp_path / "alone.keras", folder / "photos", out=tmp_path / "out")
    assert "cannot be told" in result["known"]["text"]


def test_a_newcomer_is_warned_of_what_accuracy_hides(folder, classifier, tmp_path):
    for name, n in {"apples": 1, "pears": 12}.items():
        for i in range(n):
            paint(tmp_path / "uneven" / name / f"{i}.png", COLORS["pears"], 9000 + i + len(name))
    told = Told()
    evaluate(classifier, tmp_path / "uneven", out=tmp_path / "out", reporter=told.reporter)
    for words in ("imbalance", "--set class_weight=balanced", "fewer than 20", "than 10 points"):
        assert words in str(told)
    assert "(recall 0): 'apples'" in str(told)


def test_bad_photos_stop_it_or_are_left_out_and_counted(folder, classifier, flat, tmp_path):
    shutil.copytree(folder / "flat", tmp_path / "flat")
    (tmp_path / "flat" / "plums" / "bad.png").write_text("no picture")
    with pytest.raises(
        DataError,
        match=r"1 of 10 photos cannot be decoded:\n.*bad\.png: Unidentified.*\n.*--skip-bad",
    ):
        evaluate(classifier, str(tmp_path / "flat"), out=tmp_path / "out")
    assert not (tmp_path / "out").exists()
    told = Told()
    result = evaluate(
        classifier,
        str(tmp_path / "flat"),
        reporter=told.reporter,
        out=tmp_path / "out",
        skip_bad=True,
    )
    assert (result["n"], result["bad"]) == (9, 1)
    assert "bad.png: Unidentified" in str(told)
    assert result["digests"] == flat[0]["digests"]
    assert (result["loss"], result["confusion"]) == (flat[0]["loss"], flat[0]["confusion"])


def test_only_bad_photos_are_an_error_also_with_skip_bad(classifier, tmp_path):
    (tmp_path / "in" / "plums").mkdir(parents=True)
    (tmp_path / "in" / "plums" / "bad.png").write_text("no picture")
    with pytest.raises(DataError, match="None of 1 photo can be decoded"):
        evaluate(classifier, str(tmp_path / "in"), out=tmp_path / "out", skip_bad=True)


def test_results_of_other_photos_or_another_model_are_not_overwritten(
    folder, classifier, flat, tmp_path
):
    result, out = flat
    again = evaluate(classifier, str(folder / "flat"), out=out)
    assert again == result
    before = (out / "metrics.json").read_bytes()
    put(tmp_path / "other", {"plums": 2})
    with pytest.raises(UsageError, match="holds results for other photos. Choose another --out"):
        evaluate(classifier, str(tmp_path / "other"), out=out)
    shutil.copytree(folder / "run", tmp_path / "run")
    classifier.model.save(
        tmp_path / "run" / "model.keras"
    )  # zip archives remember when they were made
    with pytest.raises(UsageError, match="holds results for other model"):
        evaluate(Classifier.open(tmp_path / "run"), str(folder / "flat"), out=out)
    with pytest.raises(UsageError, match="holds results for other model"):
        evaluate(classifier, str(folder / "flat"), out=folder / "run")
    assert (out / "metrics.json").read_bytes() == before


def test_names_that_are_formulas_are_neutralised(classifier, tmp_path):
    put(tmp_path / "in", {"plums": 1})
    (tmp_path / "in" / "plums").rename(tmp_path / "in" / "-p")
    names = ("=a", "pears", "-p")
    renamed = Classifier(classifier.path, names, 64, classifier.resize)
    result = evaluate(renamed, str(tmp_path / "in"), out=tmp_path / "out")
    (row,) = csv.DictReader((tmp_path / "out" / "predictions.csv").open())
    assert list(row) == ["file", "class", "'=a", "pears", "'-p"]
    assert (row["file"], row["class"]) == ("'-p/0.png", "'-p")
    (worst,) = csv.DictReader((tmp_path / "out" / "top_losses.csv").open())
    assert (worst["file"], worst["class"]) == ("'-p/0.png", "'-p")
    assert result["top_losses"][0]["file"] == "-p/0.png", "JSON is for programs"


# The command


def test_the_command_prints_one_object_and_names_its_folder_itself(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = finetune_here(
        "evaluate", folder / "run", folder / "photos", "--split", "train", "--json"
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert list(result)[:7] == ["run", "data", "split", "out", "n", "accuracy", "accuracy_interval"]
    assert set(result) >= {
        "loss",
        "balanced_accuracy",
        "auc",
        "per_class",
        "confusion",
        "top_losses",
        "bad",
    }
    assert (result["run"], result["out"]) == (str(folder / "run"), "evaluations/run-photos-train")
    assert (tmp_path / result["out"] / "metrics.json").exists()
    assert "trained on" in done.stderr
    wrong = finetune_here("evaluate", folder / "run", "cats-and-dog-small")
    assert (wrong.returncode, wrong.stdout) == (3, "")
    assert "did you mean cats-and-dogs-small?" in wrong.stderr


def test_the_table_names_every_class_and_the_highest_losses(flat):
    from finetune.cli.use import _evaluated as _text

    result, out = flat
    lines = _text(result).splitlines()
    assert lines[0].startswith(f"accuracy {100 * result['accuracy']:.1f} % (")
    assert "on 9 photos" in lines[0]
    assert [line.split()[:2] for line in lines[6:9]] == [
        ["apples", "3"],
        ["pears", "4"],
        ["plums", "2"],
    ]
    assert result["top_losses"][0]["file"] in lines[11]
    assert lines[-1] == str(out)
    part = {**result, "auc": None, "per_class": [{**result["per_class"][0], "n": 0}]}
    assert "AUC undefined: a class is missing" in _text(part)
    assert _text(part).splitlines()[6].split() == ["apples", "0", "-", "-", "-"]


def test_every_photo_is_decoded_once(folder, classifier, tmp_path, monkeypatch):
    from finetune.data import photos as module

    decoded = []
    load = module.Pixels.load
    monkeypatch.setattr(module.Pixels, "load", lambda *a: decoded.append(a[1]) or load(*a))
    evaluate(classifier, folder / "flat", out=tmp_path / "out")
    assert len(decoded) == len(set(decoded)) == 9
