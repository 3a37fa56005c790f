"""One stream of photos: in order, bad ones in their places, decoded no further ahead than
needed.
"""

import hashlib
import os
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from finetune.data.dataset import read_folder
from finetune.data.photos import (
    Photo,
    Pixels,
    map_ahead,
    printable,
    read_photos,
    through,
    unprintable,
)
from finetune.errors import DataError


def grey(path: Path, value: int) -> Path:
    Image.new("RGB", (8, 8), (value, value, value)).save(path)
    return path


def listed(path: Path) -> Photo:
    return Photo(path, path.name, 0, "train", hashlib.sha256(path.read_bytes()).hexdigest())


@pytest.fixture
def mixed(tmp_path) -> list[Path]:
    """Photos 0 to 9, of which 0, 3, 4 and 9 are bad: at both ends, and two in a row."""
    paths = [grey(tmp_path / f"{i}.png", 10 * i) for i in range(10)]
    for i in (0, 3, 4, 9):
        paths[i].write_bytes(b"no picture")
    return paths


def test_the_stream_keeps_the_order_and_gives_reasons(mixed):
    found = list(read_photos(Pixels(8), mixed))
    assert [photo for photo, _ in found] == mixed
    assert [i for i, (_, what) in enumerate(found) if isinstance(what, str)] == [0, 3, 4, 9]
    assert found[5][1].shape == (8, 8, 3)


def test_a_file_that_cannot_be_read_is_a_bad_photo(tmp_path):
    ((_, reason),) = read_photos(Pixels(8), [tmp_path / "gone.png"])
    assert "No such file" in reason


def test_a_listed_photo_that_has_changed_stops_the_stream(tmp_path):
    photo = listed(grey(tmp_path / "a.png", 10))
    grey(photo.path, 20)
    with pytest.raises(DataError, match="has changed"):
        list(read_photos(Pixels(8), [photo]))


def test_keys_draw_views(tmp_path):
    settings = {"flip": False, "rotation": 0.0, "zoom": 0.0, "shear": 0.0, "translation": 0.0}
    settings |= {"randaugment": 0, "erasing": 0.0}
    path = tmp_path / "noise.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)).save(path)
    pixels = Pixels(8, augment={**settings, "contrast": 0.9})
    plain, view, again = (found for _, found in read_photos(pixels, [path] * 3, [None, "a", "a"]))
    assert (view == again).all()
    assert (view != plain).any()


@pytest.mark.parametrize("batch", [1, 2, 3, 100])
def test_rows_of_an_engine_stand_beside_their_photos(mixed, batch):
    def engine(batches):
        for pixels in batches:
            yield pixels[:, 0, 0, :1]

    found = list(through(engine, read_photos(Pixels(8), mixed), batch))
    assert [photo for photo, _ in found] == mixed
    for i, (_, row) in enumerate(found):
        assert isinstance(row, str) if i in (0, 3, 4, 9) else row == [10 * i]


def test_an_engine_that_runs_ahead_mixes_nothing_up(mixed):
    def engine(batches):
        yield from [pixels[:, 0, 0, :1] for pixels in batches]  # takes all before it gives any

    found = list(through(engine, read_photos(Pixels(8), mixed), 2))
    assert [photo for photo, _ in found] == mixed
    assert [int(row[0]) for _, row in found if not isinstance(row, str)] == [10, 20, 50, 60, 70, 80]


def test_nothing_but_bad_photos(tmp_path):
    paths = [tmp_path / "a.png", tmp_path / "b.png"]
    assert [
        p for p, _ in through(lambda batches: batches, read_photos(Pixels(8), paths), 4)
    ] == paths


def test_reading_ahead_is_bounded_and_ends_with_the_consumer():
    taken = []

    def items():
        for i in range(1000):
            taken.append(i)
            yield i

    results = map_ahead(lambda i: i, items(), ahead=8)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    assert len(taken) <= 11
    before = threading.active_count()
    results.close()
    assert threading.active_count() <= before


@pytest.mark.parametrize(
    "name", [b"caf\xc3\xa9.png", b"\xff\xfe.png", b"a\\xff.png", b"a\nb,c.png"]
)
def test_every_name_becomes_text_and_comes_back(name):
    path = Path("cats", os.fsdecode(name))
    text = printable(path)
    assert text.encode().decode() == text
    assert unprintable(text) == path


@pytest.mark.skipif(os.name == "nt", reason="Windows has names of UTF-16")
def test_a_name_that_is_not_utf_8_is_a_photo_of_the_data_set(tmp_path):
    for label in ("cats", "dogs"):
        (tmp_path / label).mkdir()
        for i in range(3):
            grey(tmp_path / label / os.fsdecode(b"\xe9%d.png" % i), 10 * i + len(label))
    dataset = read_folder(tmp_path)
    assert dataset.photos[0].file.encode() == dataset.photos[0].file.encode("ascii")
    assert all(tmp_path / unprintable(photo.file) == photo.path for photo in dataset.photos)
