"""Photos to rows: equal to Keras, in order, in every format, whatever is wrong with some of the
photos, and never all at once.
"""

import contextlib
import csv
import io
import itertools
import json
import os
import pty
import subprocess
import sys

import keras
import numpy as np
import pyarrow.parquet as pq
import pytest
from conftest import finetune, finetune_here, paint
from PIL import Image, ImageOps

from finetune.activations.engine import batch_size
from finetune.commands.predict import FORMATS, Prediction, Predictions, predict, write
from finetune.commands.run import run as train
from finetune.data.photos import decode
from finetune.errors import DataError, IntegrityError, UsageError
from finetune.files import as_text, from_text
from finetune.runs.classifier import Classifier

COLORS = {"apples": (200, 60, 50), "pears": (90, 180, 60), "plums": (70, 60, 160)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run of three classes at 64 px and the photos it was trained on; they are not square, and
    `pad` tells.
    """
    root = tmp_path_factory.mktemp("predict")
    for number, (name, color) in enumerate(COLORS.items()):
        for i in range(10):
            paint(root / "photos" / name / f"{i}.png", color, 100 * number + i)
    values = {
        "data": str(root / "photos"),
        "weights": "random",
        "image_size": 64,
        "strategy": "cached-features",
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FINETUNE_CACHE", str(root / "cache"))
        train(values | {"resize": "pad"}, out=root / "run")
    return root


@pytest.fixture(scope="module")
def classifier(folder) -> Classifier:
    return Classifier.open(folder / "run")


def stream(rows, classifier, top=1) -> Predictions:
    named = min(top, len(classifier.classes))
    return Predictions(classifier.path, classifier.classes, named, len(rows), iter(rows))


def written(form, rows, classifier, top=1) -> bytes:
    file = io.BytesIO()
    write(stream(rows, classifier, top), form, file)
    return file.getvalue()


def test_every_photo_has_the_probabilities_that_keras_gives_it(folder, classifier):
    found = list(predict(classifier, [folder / "photos"], top=3, precision="float32"))
    files = sorted((folder / "photos").rglob("*.png"))
    assert [row.file for row in found] == [path.as_posix() for path in files]
    assert len(found) % batch_size(), "the last batch is not full"
    pixels = np.stack([decode(path.read_bytes(), 64, "pad") for path in files])
    expected = keras.saving.load_model(folder / "run" / "model.keras").predict(pixels, verbose=0)
    probabilities = [[dict(row.top)[name] for name in classifier.classes] for row in found]
    np.testing.assert_allclose(probabilities, expected, atol=1e-4)
    squashed = np.stack([decode(path.read_bytes(), 64, "squash") for path in files])
    assert np.abs(classifier.model.predict(squashed, verbose=0) - expected).max() > 1e-3, (
        "the way to a square shows"
    )
    assert all(row.top[0][1] >= row.top[1][1] >= row.top[2][1] for row in found)


def test_all_formats_say_the_same(folder, classifier, tmp_path):
    rows = list(predict(classifier, [folder / "photos" / "plums"], top=2))
    as_csv = list(csv.DictReader(io.StringIO(written("csv", rows, classifier, 2).decode())))
    assert list(as_csv[0]) == ["file", "class", "probability", "class_2", "probability_2"]
    as_json = json.loads(written("json", rows, classifier, 2))
    assert (as_json["model"], as_json["classes"], as_json["bad"]) == (
        str(folder / "run"),
        list(COLORS),
        [],
    )
    table = written("table", rows, classifier, 2).decode().splitlines()
    for row, cells, item, line in zip(rows, as_csv, as_json["predictions"], table, strict=True):
        (first, p), (second, q) = row.top
        assert (cells["file"], cells["class"], cells["class_2"]) == (row.file, first, second)
        assert [float(cells["probability"]), float(cells["probability_2"])] == [
            round(p, 6),
            round(q, 6),
        ]
        assert (item["file"], item["class"], item["probability"]) == (row.file, first, round(p, 6))
        assert [(best["class"], best["probability"]) for best in item["top"]] == [
            (first, round(p, 6)),
            (second, round(q, 6)),
        ]
        assert line.split() == [
            first,
            f"{100 * p:.1f}",
            "%",
            second,
            f"{100 * q:.1f}",
            "%",
            row.file,
        ]
    assert len({line.index("/") for line in table}) == 1, "the columns are aligned"


def test_parquet_has_a_row_for_each_photo_in_groups(folder, classifier, monkeypatch):
    monkeypatch.setattr("finetune.commands.predict._ROW_GROUP", 4)
    rows = [
        *predict(classifier, [folder / "photos" / "plums"], top=2),
        Prediction("bad.jpg", (), "no picture"),
    ]
    file = pq.ParquetFile(io.BytesIO(written("parquet", rows, classifier, 2)))
    assert file.num_row_groups == 3
    table = file.read().to_pydict()
    assert list(table) == ["file", "class", "probability", "class_2", "probability_2"]
    assert list(zip(*table.values(), strict=True)) == [
        (row.file, *row.top[0], *row.top[1]) for row in rows[:-1]
    ]  # float32 as the model gave them
    empty = pq.ParquetFile(io.BytesIO(written("parquet", rows[-1:], classifier, 2)))
    assert empty.read().num_rows == 0


@pytest.mark.parametrize("form", FORMATS)
def test_formats_are_offered_and_need_no_photo(form, classifier):
    assert (
        json.loads(written(form, [], classifier))["predictions"] == [] if form == "json" else True
    )
    written(form, [], classifier, 99)


@pytest.mark.parametrize("start", list("=+-@\t\r\n"))
def test_no_csv_cell_is_a_formula(start, classifier):
    rows = [Prediction(f"{start}1+2.jpg", ((f"{start}cmd", 0.75),))]
    (cells,) = csv.DictReader(io.StringIO(written("csv", rows, classifier).decode(), newline=""))
    assert cells == {"file": f"'{start}1+2.jpg", "class": f"'{start}cmd", "probability": "0.75"}
    assert as_text("a=1.jpg") == "a=1.jpg"
    for name in (f"{start}1", "a=1", "'a"):
        assert from_text(as_text(name)) == name


def test_a_table_row_is_one_line_without_control_sequences(classifier):
    rows = [
        Prediction("two\nlines\x1b[31m.jpg", (("plums", 1.0),)),
        Prediction("ä b.jpg", (("plums", 0.5),)),
    ]
    first, second = written("table", rows, classifier).decode().splitlines()
    assert first.endswith(r"'two\nlines\x1b[31m.jpg'")
    assert second == "plums    50.0 %  ä b.jpg"
    hostile = Prediction("a.jpg", (("\x1b[2Jplums", 1.0),))
    assert b"\x1b" not in written("table", [hostile], classifier)


def test_bad_photos_are_told_in_their_place_and_the_others_keep_their_rows(
    folder, classifier, tmp_path
):
    good = sorted((folder / "photos" / "pears").iterdir())
    (tmp_path / "text.jpg").write_text("no picture")
    (tmp_path / "cut.png").write_bytes(good[0].read_bytes()[:200])
    bad = [tmp_path / "text.jpg", tmp_path / "cut.png"]
    paths = [bad[0], *good[:9], *bad, good[9], bad[0]]
    rows = list(predict(classifier, paths))
    assert [row.file for row in rows] == [path.as_posix() for path in paths]
    assert [number for number, row in enumerate(rows) if row.bad] == [0, 10, 11, 13]
    assert "UnidentifiedImageError" in rows[0].bad
    assert [row for row in rows if not row.bad] == list(predict(classifier, good))
    listed = json.loads(written("json", rows, classifier))
    assert [item["file"] for item in listed["bad"]] == [
        rows[number].file for number in (0, 10, 11, 13)
    ]
    assert listed["bad"][1]["reason"] == rows[10].bad
    assert len(listed["predictions"]) == written("table", rows, classifier).count(b"\n") == 10
    assert [row.file for row in predict(classifier, [tmp_path]) if row.bad] == [
        bad[1].as_posix(),
        bad[0].as_posix(),
    ]


def test_a_photo_turned_by_its_exif_tag_has_the_probability_of_the_upright_one(
    folder, classifier, tmp_path
):
    upright = Image.open(paint(tmp_path / "a.png", (150, 60, 100), 1))
    for tag in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = tag
        # The picture that the tag turns back: of the two transpositions that undo each other, the
        # one that the tag is not.
        inverse = {6: 8, 8: 6}.get(tag, tag)
        turn = Image.Exif()
        turn[0x0112] = inverse
        turned = upright.copy()
        turned.getexif().update(turn)
        ImageOps.exif_transpose(turned).save(tmp_path / f"turned {tag}.png", exif=exif)
    rows = list(
        predict(
            classifier,
            [tmp_path / "a.png", *(tmp_path / f"turned {tag}.png" for tag in range(1, 9))],
            top=3,
        )
    )
    assert Image.open(tmp_path / "turned 6.png").size == (30, 40)
    assert {row.top for row in rows} == {rows[0].top}


def test_top_is_limited_by_the_number_of_classes_and_starts_at_1(folder, classifier):
    (row,) = predict(classifier, [folder / "photos" / "plums" / "0.png"], top=99)
    assert {name for name, _ in row.top} == set(COLORS)
    header = written("csv", [row], classifier, 99).decode().splitlines()[0]
    assert header.endswith("class_3,probability_3")
    with pytest.raises(UsageError, match="allowed are 1 to the number of classes"):
        predict(classifier, [folder], top=0)


def test_missing_paths_are_an_error_before_anything_is_computed(folder, classifier):
    with pytest.raises(DataError, match="gone"):
        predict(
            classifier, [folder / "photos", folder / "gone"]
        )  # not even the first row was asked for


def test_memory_is_bounded_photos_are_drawn_only_as_rows_are_taken(folder, classifier):
    """From a long list of photos: few are drawn ahead of the row that is written, however many went
    before.
    """
    photo, drawn = folder / "photos" / "plums" / "0.png", [0]
    rows = classifier.score(drawn.append(number) or photo for number in range(1, 5000))
    ahead = []
    for done, _ in enumerate(itertools.islice(rows, 160), start=1):
        ahead.append(drawn[-1] - done)
    assert max(ahead[:80]) == max(ahead[80:]), "it does not grow"
    assert max(ahead) <= 4 * batch_size() + 8 * batch_size()


def test_each_row_is_written_before_the_next_photo_is_asked_for(classifier):
    file = io.BytesIO()

    def rows():
        for number in range(3):
            assert file.getvalue().count(b"\n") == number
            yield Prediction(f"{number}.jpg", (("plums", 1.0),))

    write(Predictions(classifier.path, classifier.classes, 1, 3, rows()), "table", file)
    assert file.getvalue().count(b"\n") == 3


def test_a_sequential_model_predicts(tmp_path):
    layers = [
        keras.Input((16, 16, 3), dtype="uint8"),
        keras.layers.Rescaling(1 / 255),
        keras.layers.Flatten(),
    ]
    model = keras.Sequential([*layers, keras.layers.Dense(2, activation="softmax")])
    model.save(tmp_path / "sequential.keras")
    pixels = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), np.uint8)
    (found,) = Classifier.open(tmp_path / "sequential.keras").predict([pixels], "float32")
    np.testing.assert_allclose(found, model.predict(pixels, verbose=0), atol=1e-5)


def test_a_bare_model_file_has_the_classes_beside_it_or_numbers(folder, classifier, tmp_path):
    (tmp_path / "bare.keras").write_bytes((folder / "run" / "model.keras").read_bytes())
    photo = paint(
        tmp_path / "square.png", COLORS["plums"], 1, (40, 40)
    )  # a bare file does not say that it wants bars
    (of_run,) = predict(classifier, [photo], top=3)
    (numbered,) = predict(Classifier.open(tmp_path / "bare.keras"), [photo], top=3)
    assert [(list(COLORS)[int(number)], p) for number, p in numbered.top] == list(of_run.top)
    (tmp_path / "classes.json").write_text(json.dumps(["x", "y", "z"]))
    (named,) = predict(Classifier.open(tmp_path / "bare.keras"), [photo], top=3)
    assert ["xyz".index(name) for name, _ in named.top] == [
        int(number) for number, _ in numbered.top
    ]


@pytest.mark.parametrize("bias", [3.0, float("nan")])
def test_outputs_that_are_no_probabilities_are_refused(bias, folder, tmp_path):
    bias = keras.initializers.Constant(bias)
    photos = keras.Input((8, 8, 3))
    pooled = keras.layers.GlobalAveragePooling2D()(photos)
    keras.Model(photos, keras.layers.Dense(2, bias_initializer=bias)(pooled)).save(
        tmp_path / "logits.keras"
    )
    with pytest.raises(IntegrityError, match="are no probabilities"):
        list(predict(Classifier.open(tmp_path / "logits.keras"), [folder / "photos"]))


def test_the_command_keeps_stdout_pure_and_ends_with_3_if_a_photo_is_bad(folder, tmp_path):
    for number in range(3):
        paint(tmp_path / "in" / f"{number}.png", COLORS["plums"], 900 + number)
    (tmp_path / "in" / "1.png").write_text("no picture")
    done = finetune("predict", folder / "run", tmp_path / "in", "--json")
    result = json.loads(done.stdout)
    assert done.returncode == 3
    assert [item["class"] for item in result["predictions"]] == ["plums", "plums"]
    (bad,) = result["bad"]
    assert bad["file"] == (tmp_path / "in" / "1.png").as_posix()
    assert f"{bad['file']}: {bad['reason']}" in done.stderr
    assert "error: 1 of 3 photos could not be decoded" in done.stderr
    assert "Traceback" not in done.stderr
    out = tmp_path / "out" / "rows.parquet"
    done = finetune(
        "predict", folder / "run", tmp_path / "in" / "0.png", "--format", "parquet", "--out", out
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert [path.name for path in out.parent.iterdir()] == ["rows.parquet"]
    assert out.read_bytes()[:4] == b"PAR1"


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["gone.jpg", "gone too"], 3, "gone.jpg, gone too"),
        (["."], 3, "There are no photos in ."),
        ([".", "--format", "parquet"], 2, "add --out FILE"),
        ([".", "--format", "csv", "--json"], 2, "contradict"),
        ([".", "--out", "."], 2, "is a folder"),
        ([".", "--top", "0"], 2, "--top"),
    ],
)
def test_mistakes_are_told_at_once(arguments, code, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = finetune_here("predict", "no-run", *arguments)
    assert (done.returncode, done.stdout) == (code, "")
    assert words in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("form", ["json", "csv"])
def test_a_network_that_cannot_be_had_leaves_stdout_empty(form, folder):
    photo = folder / "photos/apples/0.png"
    done = finetune_here("predict", folder / "run", photo, "--format", form, "--precision", "int8")
    assert (done.returncode, done.stdout) == (2, "")
    assert "has no int8 network" in done.stderr


def test_rows_go_to_stdout_also_while_a_bar_moves_on_a_terminal(folder):
    """rich turns sys.stdout to its own console, here stderr's, while a bar is live."""
    terminal, end = pty.openpty()
    command = [
        sys.executable,
        "-m",
        "finetune",
        "predict",
        folder / "run",
        folder / "photos" / "plums" / "0.png",
    ]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=end, env={**os.environ, "TERM": "xterm"}
    )
    os.close(end)
    told = b""
    with contextlib.suppress(OSError):  # Linux says so when the other end is closed
        while some := os.read(terminal, 4096):
            told += some
    os.close(terminal)
    stdout, _ = process.communicate(timeout=60)
    assert stdout.startswith(b"plums")
    assert b"\x1b[" in told, "there was a bar"
    assert b"0.png" not in told


def test_the_network_is_compiled_once(folder, monkeypatch):
    from finetune.runs import classifier as module

    counted = []
    compiled = module.Classifier._compiled
    opened = module.open_ir
    monkeypatch.setattr(
        module.Classifier, "_compiled", lambda *a: counted.append(1) or compiled(*a)
    )
    monkeypatch.setattr(module, "open_ir", lambda *a: counted.append(1) or opened(*a))
    classifier = Classifier.open(folder / "run")
    for _ in range(3):
        list(predict(classifier, folder / "photos" / "plums" / "0.png"))
    assert counted == [1]


def test_a_missing_package_is_said_with_the_line_that_installs_it(classifier, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UsageError, match=r'pip install "finetune-cut\[parquet\]"'):
        written("parquet", [], classifier)


@pytest.mark.parametrize(
    ("name", "form"),
    [("x.csv", "csv"), ("x.JSON", "json"), ("x.parquet", "parquet"), ("x", "table")],
)
def test_the_format_is_that_of_the_file_s_suffix(name, form, tmp_path):
    from finetune.cli.use import _format

    assert _format(None, tmp_path / name, False) == form
    assert _format("csv", tmp_path / name, False) == "csv"
