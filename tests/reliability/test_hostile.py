"""Files that no one should trust: refused with their exit code, in bounded time and memory."""

import csv
import hashlib
import io
import json
import os
import random
import time
from pathlib import Path

import pytest

from finetune.data.download import fetch
from finetune.errors import DataError, IntegrityError
from reliability.generators import archives, downloads, hdf5, keras_files, photos, recipes
from reliability.harness import BASE, COLORS, Warm, names

LIMIT = 2**30  # bytes that one hostile file may add to a command's memory


@pytest.fixture(scope="session")
def resident(warm: Warm, few_photos: Path) -> int:
    """Peak memory of a command that meets nothing hostile, in bytes."""
    return warm("check", few_photos, "--json").peak


# Photos


def checked(folder: Path, warm: Warm) -> set[str]:
    """Names of the photos that `check` calls bad."""
    done = warm("check", folder, "--json", timeout=600)
    assert done.clean, done.stderr
    return {Path(bad["file"]).name for bad in json.loads(done.stdout)["bad"]}


def test_odd_photos_are_read_and_broken_ones_named(tmp_path, warm: Warm, resident):
    good, broken = photos.write(tmp_path, len(photos.ODD) + len(photos.BROKEN))
    assert (len(good), len(broken)) == (60, 28)
    assert checked(tmp_path, warm) == broken


@pytest.mark.reliability
def test_a_thousand_photos(tmp_path, warm: Warm, resident):
    _, broken = photos.write(tmp_path)
    assert checked(tmp_path, warm) == broken
    assert warm("check", tmp_path, "--json", timeout=600).peak < resident + LIMIT


@pytest.mark.parametrize("seconds", [3, pytest.param(3600, marks=pytest.mark.reliability)])
def test_mutated_photos_are_pixels_or_bad(seconds, tmp_path):
    """FINETUNE_FUZZ_SECONDS sets another time for the long run."""
    from finetune.data.photos import BadPhoto, decode

    seconds = float(os.environ.get("FINETUNE_FUZZ_SECONDS", seconds)) if seconds > 60 else seconds
    corpus = [make() for make in photos.ODD.values()]
    draw, deadline = random.Random(0), time.monotonic() + seconds
    while time.monotonic() < deadline:
        data = mutated(bytearray(draw.choice(corpus)), draw)
        start = time.perf_counter()
        try:
            assert decode(data, 32).shape == (32, 32, 3)
        except BadPhoto:
            continue
        finally:
            assert time.perf_counter() - start < 20, hashlib.sha256(data).hexdigest()


def mutated(data: bytearray, draw: random.Random) -> bytes:
    """Some bytes replaced, a piece removed or doubled."""
    for _ in range(draw.randint(1, 8)):
        place = draw.randrange(len(data) or 1)
        data[place : place + 1] = draw.randbytes(1)
    first, last = sorted(draw.randrange(len(data)) for _ in range(2))
    change = draw.randrange(4)
    if change == 0:
        del data[first:last]
    elif change == 1:
        data[first:first] = data[first:last]
    return bytes(data)


@pytest.mark.skipif(os.name == "nt", reason="file names are text there")
def test_hostile_names_come_through_a_whole_run(tmp_path, warm: Warm):
    folder, count = tmp_path / "photos", 0
    for label, color in zip(("=cmd|' calc'!A0", "<b>\x1b[1m"), COLORS.values(), strict=True):
        (folder / label).mkdir(parents=True)
        for name in photos.NAMES:
            count += 1
            file = os.fsencode(folder / label) + b"/" + name + b".png"
            picture = photos.Image.new("RGB", (32, 32), color)
            picture.putpixel((count % 32, count // 32), (0, 0, 0))
            Path(os.fsdecode(file)).write_bytes(photos.encoded(picture, "PNG"))
    done = warm("run", "--data", folder, *BASE, "--strategy", "cached-features",
                "--out", tmp_path / "run", "--json")  # fmt: skip
    assert done.code == 0, done.stderr
    assert "\x1b]0;" not in done.stdout + done.stderr
    rows = list(csv.reader(io.StringIO((tmp_path / "run/predictions.csv").read_text("utf-8"))))
    held_out = json.loads(done.stdout)
    assert len(rows) - 1 == held_out["validation"]["n"] + held_out["test"]["n"]
    assert not [cell for row in rows for cell in row if cell.startswith(tuple("=+@"))]
    predicted = warm("predict", tmp_path / "run", folder, "--json")
    assert len(json.loads(predicted.stdout)["predictions"]) == count
    evaluated = warm("evaluate", tmp_path / "run", folder, "--out", tmp_path / "on", "--json")
    assert evaluated.code == 0, evaluated.stderr
    assert json.loads(evaluated.stdout)["n"] == count
    few = list(folder.rglob("*.png"))[:4]
    explained = warm("explain", tmp_path / "run", *few, "--out", tmp_path / "why", "--json")
    assert len(json.loads(explained.stdout)["photos"]) == 4, explained.stderr


# Models and weights


@pytest.fixture(scope="session")
def plain(tmp_path_factory) -> dict[str, bytes]:
    """The members of a sound model."""
    return keras_files.plain(tmp_path_factory.mktemp("plain"))


@pytest.fixture(scope="session")
def photo(few_photos: Path) -> Path:
    """A photo to classify."""
    return next(few_photos.rglob("*.png"))


def test_a_sound_model_is_opened(plain, photo, tmp_path, warm: Warm):
    (tmp_path / "model.keras").write_bytes(keras_files.packed(plain))
    assert warm("predict", tmp_path / "model.keras", photo, "--json").code == 0


@pytest.mark.slow
@pytest.mark.parametrize("name", keras_files.HOSTILE)
def test_a_hostile_model_is_refused(name, plain, photo, tmp_path, warm: Warm, monkeypatch):
    monkeypatch.chdir(tmp_path)
    keras_files.secret(tmp_path)
    (tmp_path / "model.keras").write_bytes(keras_files.HOSTILE[name](plain))
    peak = warm("backbones").peak
    done = warm("predict", tmp_path / "model.keras", photo, "--json", timeout=60)
    assert done.clean, done.stderr
    if name == "a lattice of links":  # groups beside sound weights: each is visited once
        assert done.code == 0
    elif name == "no numbers":  # found in what the network answers, when the JSON has begun
        assert done.code == 4
    else:
        assert (done.code, done.stdout) == (4, ""), done.stderr
    assert done.peak < peak + LIMIT
    assert done.written < LIMIT // 4, "a bomb was unpacked"
    assert names(tmp_path) == ["model.keras", "secret.h5"]


@pytest.mark.slow
@pytest.mark.parametrize("name", hdf5.HOSTILE)
def test_hostile_weights_are_refused(name, few_photos, tmp_path, warm: Warm):
    hdf5.HOSTILE[name](tmp_path / "weights.h5")
    arguments = (
        "extract-features",
        "--data",
        few_photos,
        "--image-size",
        "32",
        "--backbone",
        "vgg16",
    )
    peak = warm("extract-features", *arguments[1:], "--weights", "no-such-file").peak
    done = warm(*arguments, "--weights", tmp_path / "weights.h5", "--out", tmp_path / "out")
    assert (done.code, done.clean) == (4, True), done.stderr
    assert done.peak < peak + LIMIT


# Recipes, archives, downloads


@pytest.mark.parametrize("name", recipes.REFUSED)
def test_a_wrong_recipe_is_a_usage_error(name, few_photos, tmp_path, warm: Warm):
    text = recipes.REFUSED[name]
    data = "" if "data:" in text else f"data: {few_photos}\n"
    (tmp_path / "recipe.yaml").write_text(data + text)
    done = warm("compare", tmp_path / "recipe.yaml", "--dry-run", timeout=60)
    assert (done.code, done.clean, done.stdout) == (2, True, ""), done.stderr


@pytest.mark.parametrize("name", archives.HOSTILE)
def test_a_hostile_archive_is_refused(name, tmp_path, warm: Warm):
    (tmp_path / "copy.zip").write_bytes(archives.HOSTILE[name]())
    cache = tmp_path / "cache"
    done = warm(
        "data", "cats-and-dogs-small", "--from", tmp_path / "copy.zip", FINETUNE_CACHE=str(cache)
    )
    assert (done.code, done.clean) == (3, True), done.stderr
    assert names(cache) == []


@pytest.mark.parametrize("name", downloads.HOSTILE)
def test_a_hostile_server_gives_no_file(name, tmp_path, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "*")
    digest = hashlib.sha256(downloads.BODY).hexdigest()
    with downloads.served(downloads.HOSTILE[name]) as (url, sent):
        with pytest.raises((DataError, IntegrityError)):
            fetch(url, tmp_path / "file.zip", len(downloads.BODY), digest)
        assert not (tmp_path / "file.zip").exists()
        kept = sum(path.stat().st_size for path in tmp_path.iterdir())
        assert kept <= len(downloads.BODY)
        assert sum(sent) < downloads.ENDLESS, "it read on and on"
