"""Named data sets: where they are found, built from copies, and downloaded from a server on
loopback.
"""

import errno
import io
import json
import stat
import sys
import threading
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path

import filelock
import numpy as np
import pytest
from PIL import Image

import finetune.data.sketches
from finetune.data import catalog, cats_and_dogs, clothing, download, mnist
from finetune.data.catalog import NAMES, build, cache_dir, locate, resolve
from finetune.data.dataset import SPLITS
from finetune.data.download import extract_members, fetch
from finetune.errors import BusyError, DataError, IntegrityError, UsageError

NAME = "cats-and-dogs-small"
the_books_cut = cats_and_dogs.CATS_AND_DOGS_SMALL


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, no copies, a set of 8 photos per class instead of 2,000, and no proxy before
    loopback.
    """
    monkeypatch.setenv("FINETUNE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("FINETUNE_DATA_DIR", raising=False)
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setattr(
        cats_and_dogs,
        "CATS_AND_DOGS_SMALL",
        {"train": range(4), "validation": range(4, 6), "test": range(6, 8)},
    )
    return tmp_path / "cache"


def jpeg(animal: str, number: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (16, 16), (10 * number, 200 if animal == "cat" else 0, 0)).save(file, "JPEG")
    return file.getvalue()


def kaggle(n: int = 10) -> dict[str, bytes]:
    """Kaggle's layout: n photos of each class, and what else lies about."""
    photos = {
        f"train/{animal}.{i}.jpg": jpeg(animal, i) for animal in ("cat", "dog") for i in range(n)
    }
    others = ("test1/1.jpg", "__MACOSX/train/._cat.0.jpg", "notes.txt", "train/wildcat.1.jpg")
    return photos | dict.fromkeys(others, b"x")


def microsoft(n: int = 14) -> dict[str, bytes]:
    """Microsoft's layout, with an empty cat 2, a dog 7 that is no picture, and a spare cat that is
    torn.
    """
    photos = {
        f"PetImages/{a.title()}/{i}.jpg": jpeg(a, i) for a in ("cat", "dog") for i in range(n)
    }
    bad = {
        "PetImages/Cat/2.jpg": b"",
        "PetImages/Dog/7.jpg": b"<html>",
        "PetImages/Cat/8.jpg": jpeg("cat", 8)[:300],
    }
    return {"readme[1].txt": b"x", "PetImages/Cat/Thumbs.db": b"x"} | photos | bad


def put(root: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def zipped(files: dict[str | zipfile.ZipInfo, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return file.getvalue()


def files_in(folder: Path) -> list[str]:
    return sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()
    )


SMALL = sorted(
    f"{split}/{animal}s/{animal}.{i}.jpg"
    for split, numbers in (("train", range(4)), ("validation", range(4, 6)), ("test", range(6, 8)))
    for animal in ("cat", "dog")
    for i in numbers
)


# Finding


def test_the_cut_of_the_book() -> None:
    assert the_books_cut == {
        "train": range(1000),
        "validation": range(1000, 1500),
        "test": range(1500, 2000),
    }
    assert cats_and_dogs.ARCHIVE_SIZE == 824887076
    assert all(named.description for named in NAMES.values())


def test_cache_dir(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert cache_dir() == tmp_path / "cache"
    monkeypatch.setenv("FINETUNE_CACHE", "~/somewhere")
    assert cache_dir() == Path.home() / "somewhere"
    monkeypatch.delenv("FINETUNE_CACHE")
    assert cache_dir().name == "finetune"
    assert cache_dir().is_absolute()


def test_a_local_copy_comes_before_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(NAME, put(tmp_path / "kaggle", kaggle()))
    cached = resolve(NAME)
    assert cached.root == tmp_path / "cache/data/cats_and_dogs_small"
    assert cached.name == NAME
    monkeypatch.setenv("FINETUNE_DATA_DIR", str(tmp_path / "copies"))
    with pytest.raises(DataError, match=r"FINETUNE_DATA_DIR.*no folder"):
        locate(NAME)
    (tmp_path / "copies").mkdir()
    assert locate(NAME) == cached.root
    cached.root.rename(tmp_path / "copies/cats_and_dogs_small")
    local = resolve(NAME)
    assert local.root == tmp_path / "copies/cats_and_dogs_small"
    assert local.digest == cached.digest


def test_a_folder_is_read_as_it_is(tmp_path: Path) -> None:
    photos = {f"{animal}s/{i}.jpg": jpeg(animal, i) for animal in ("cat", "dog") for i in range(3)}
    assert len(resolve(str(put(tmp_path / "mine", photos))).photos) == 6
    with pytest.raises(DataError, match="is a file"):
        resolve(str(tmp_path / "mine/cats/0.jpg"))


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("cats_and_dogs_small", "did you mean cats-and-dogs-small?"),
        ("sketchs", "did you mean sketches?"),
        ("xyz", ""),
    ],
)
def test_unknown_names(name: str, hint: str) -> None:
    with pytest.raises(DataError) as caught:
        resolve(name)
    message = str(caught.value)
    assert hint in message
    assert ("did you mean" in message) == bool(hint)
    assert repr(name) in message
    assert all(known in message for known in NAMES)
    assert "\n" not in message
    with pytest.raises(UsageError, match="sketches, digits"):
        build(name)


# Data sets that the package makes itself


def test_digits(cache: Path) -> None:
    dataset = resolve("digits")
    assert len(dataset.photos) == 1797
    assert dataset.classes == tuple("0123456789")
    assert dataset.hashed
    digits = pytest.importorskip("sklearn.datasets").load_digits()
    for photo in dataset.photos[::100]:
        number = int(photo.path.stem.split(".")[1])
        with Image.open(photo.path) as scan:
            assert scan.mode == "L"
            np.testing.assert_array_equal(
                np.asarray(scan), np.round(digits.images[number] * 255 / 16)
            )
        assert photo.label == digits.target[number]
    assert (
        json.loads((cache / "data/digits/source.json").read_text())["source"]
        == "sklearn.datasets.load_digits"
    )


def test_sketches(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = finetune.data.sketches.write_sketches
    counts = {"train": 4, "validation": 2, "test": 2}
    monkeypatch.setattr(
        finetune.data.sketches,
        "write_sketches",
        lambda folder, seed: write(folder, seed, counts, 16),
    )
    dataset = resolve("sketches")
    version = finetune.data.sketches.SKETCHES_VERSION
    assert dataset.root == cache / f"data/sketches-v{version}"
    assert dataset.classes == ("cats", "dogs")
    assert [len(dataset.split(split)) for split in SPLITS] == [4, 2, 2]
    monkeypatch.setattr(finetune.data.sketches, "SKETCHES_VERSION", version + 1)
    assert locate("sketches").name == f"sketches-v{version + 1}"


@pytest.mark.parametrize("name", ["sketches", "digits"])
def test_what_is_made_takes_no_copy(name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="takes no local copy"):
        build(name, tmp_path)


# Builds are whole or not there


def stand_in(monkeypatch: pytest.MonkeyPatch, write: Callable[[Path], None]) -> None:
    """Let ``digits`` be written by another function."""
    named = catalog.NamedDataset(
        lambda: "digits", lambda folder, source, progress: write(folder) or {}, False, "stand-in"
    )
    monkeypatch.setitem(NAMES, "digits", named)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), DataError("no"), RuntimeError("bug")])
def test_an_interrupted_build_leaves_nothing(
    error: BaseException, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write_half(folder: Path) -> None:
        (folder / "half.png").write_bytes(b"x")
        raise error

    stand_in(monkeypatch, write_half)
    with pytest.raises(type(error)):
        build("digits")
    assert [path.name for path in (cache / "data").iterdir()] == [".digits.lock"]


def test_what_a_killed_build_left_is_cleared(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(cache, {"data/.digits.new.tmp/half.png": b"x", "data/.digits.old.tmp/half.png": b"x"})
    stand_in(monkeypatch, lambda folder: (folder / "whole.png").touch())
    assert files_in(build("digits")) == ["source.json", "whole.png"]
    assert sorted(path.name for path in (cache / "data").iterdir()) == [".digits.lock", "digits"]


def test_what_is_there_needs_no_lock(cache: Path) -> None:
    put(cache, {"data/digits/0/0.png": b"x"})
    assert build("digits") == locate("digits") == cache / "data/digits"
    assert files_in(cache) == [
        "data/digits/0/0.png"
    ]  # so that a cache that cannot be written will do


def test_two_processes_build_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def write_slowly(folder: Path) -> None:
        calls.append(folder)
        time.sleep(0.2)

    stand_in(monkeypatch, write_slowly)
    threads = [threading.Thread(target=build, args=("digits",)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 1


def test_a_lock_that_is_never_freed(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalog, "LOCK_SECONDS", 0.1)
    (cache / "data").mkdir(parents=True)
    with (
        filelock.FileLock(cache / "data/.digits.lock"),
        pytest.raises(BusyError, match="Try again later"),
    ):
        build("digits")


def test_a_full_disk_and_a_cache_that_cannot_be_written(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill(folder: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    stand_in(monkeypatch, fill)
    with pytest.raises(BusyError, match="FINETUNE_CACHE"):
        build("digits")
    monkeypatch.setenv("FINETUNE_CACHE", str(put(cache, {"file": b""}) / "file"))
    with pytest.raises(DataError, match="FINETUNE_CACHE"):
        build("digits")


# Cats and dogs from a copy


@pytest.mark.parametrize("kind", ["folder", "train/", "deep folder", "zip"])
def test_kaggles_layout(kind: str, tmp_path: Path) -> None:
    source = put(tmp_path / "copy", kaggle())
    if kind == "train/":
        source = source / "train"
    elif kind == "deep folder":
        source.rename(tmp_path / "x")
        (tmp_path / "copy/dogs-vs-cats").mkdir(parents=True)
        (tmp_path / "x").rename(tmp_path / "copy/dogs-vs-cats/unpacked")
    elif kind == "zip":
        source = put(tmp_path, {"train.zip": zipped(kaggle())}) / "train.zip"
    folder = build(NAME, source)
    assert files_in(folder) == sorted([*SMALL, "source.json"])
    assert all((folder / file).read_bytes() == jpeg(*numbered(file)) for file in SMALL)
    record = json.loads((folder / "source.json").read_text())
    assert record["substituted"] == []
    assert record["source"] == str(source)
    assert record.get("sha256") == (
        sha256(source.read_bytes()).hexdigest() if kind == "zip" else None
    )


def numbered(file: str) -> tuple[str, int]:
    animal, number, _ = Path(file).name.split(".")
    return animal, int(number)


@pytest.mark.parametrize("kind", ["folder", "PetImages/", "zip"])
def test_microsofts_layout_with_photos_that_cannot_be_decoded(kind: str, tmp_path: Path) -> None:
    source = put(tmp_path / "copy", microsoft())
    if kind == "zip":
        source = put(tmp_path, {"x.zip": zipped(microsoft())}) / "x.zip"
    folder = build(NAME, source / "PetImages" if kind == "PetImages/" else source)
    expected = {*SMALL, "source.json", "train/cats/cat.9.jpg", "test/dogs/dog.8.jpg"}
    assert files_in(folder) == sorted(expected - {"train/cats/cat.2.jpg", "test/dogs/dog.7.jpg"})
    assert (folder / "train/cats/cat.9.jpg").read_bytes() == jpeg("cat", 9)
    substituted = json.loads((folder / "source.json").read_text())["substituted"]
    numbers = [
        [Path(row[key]).stem.split(".")[-1] for key in ("photo", "by")] for row in substituted
    ]
    assert numbers == [["2", "8"], ["8", "9"], ["7", "8"]]
    assert all(row["reason"] for row in substituted)
    dataset = resolve(NAME)
    assert Counter(photo.split for photo in dataset.photos) == {
        "train": 8,
        "validation": 4,
        "test": 4,
    }


def test_copies_that_cannot_be_used(tmp_path: Path, cache: Path) -> None:
    def error_of(source: Path) -> str:
        with pytest.raises(DataError) as caught:
            build(NAME, source)
        assert files_in(cache / "data") == [".cats_and_dogs_small.lock"]
        return str(caught.value)

    assert "no such file" in error_of(tmp_path / "nowhere")
    assert "16 of the 16 photos, cat.0.jpg for one" in error_of(
        put(tmp_path / "empty", {"x.txt": b""})
    )
    assert "1 of the 16 photos, dog.7.jpg for one" in error_of(
        put(
            tmp_path / "short",
            {name: data for name, data in kaggle().items() if "dog.7." not in name},
        )
    )
    nested = put(tmp_path, {"a.zip": zipped({"train.zip": zipped(kaggle())})}) / "a.zip"
    assert f"cat.0.jpg for one, are not in {nested}. " in error_of(nested)
    assert "cannot be unpacked" in error_of(put(tmp_path, {"b.zip": b"no zip"}) / "b.zip")
    assert "two photos cat.0" in error_of(
        put(tmp_path / "twice", kaggle() | {"b/cat.0.jpg": jpeg("cat", 0)})
    )
    torn = {name: data[:300] for name, data in kaggle(9).items()}
    assert "too few good cats: cat.8.jpg is bad: OSError" in error_of(put(tmp_path / "torn", torn))


def test_a_new_copy_replaces_the_old_set_and_a_bad_one_does_not(tmp_path: Path) -> None:
    folder = build(NAME, put(tmp_path / "a", kaggle()))
    assert build(NAME) == folder  # is there: nothing is downloaded
    with pytest.raises(DataError):
        build(NAME, put(tmp_path / "b", {}))
    assert files_in(folder) == sorted([*SMALL, "source.json"])
    other = kaggle() | {"train/cat.0.jpg": jpeg("dog", 9)}
    build(NAME, put(tmp_path / "c", other))
    assert (folder / "train/cats/cat.0.jpg").read_bytes() == jpeg("dog", 9)
    assert len(list(folder.parent.iterdir())) == 2  # the set and the lock


# Archives


def take_all(name: str) -> str:
    return Path(name.replace("\\", "/")).name


def unpack(tmp_path: Path, data: bytes) -> list[str]:
    archive = put(tmp_path, {"x.zip": data}) / "x.zip"
    return [path.name for path in extract_members(archive, take_all, tmp_path / "in/here")]


def refused(tmp_path: Path, data: bytes) -> str:
    with pytest.raises(DataError) as caught:
        unpack(tmp_path, data)
    written = [
        path for path in files_in(tmp_path) if path != "x.zip" and not path.startswith("in/here/")
    ]
    assert written == []
    return str(caught.value)


def test_wanted_members_get_names_of_ours(tmp_path: Path) -> None:
    archive = (
        put(
            tmp_path,
            {"x.zip": zipped({"../evil": b"0", "a/b.jpg": b"1", "a/": b"", "c.jpg": b"2"})},
        )
        / "x.zip"
    )
    paths = extract_members(archive, {"a/b.jpg": "one", "c.jpg": "two"}.get, tmp_path / "out")
    assert paths == [tmp_path / "out/one", tmp_path / "out/two"]
    assert [path.read_bytes() for path in paths] == [b"1", b"2"]
    assert files_in(tmp_path) == ["out/one", "out/two", "x.zip"]
    with pytest.raises(ValueError, match="no plain file name"):
        extract_members(archive, {"c.jpg": "../out.jpg"}.get, tmp_path / "out2")


@pytest.mark.parametrize(
    "name", ["../../a.jpg", "/a.jpg", "b/../../a.jpg", "..\\..\\a.jpg", "C:\\a.jpg", "C:/a.jpg"]
)
def test_paths_that_leave_the_archive(name: str, tmp_path: Path) -> None:
    assert "its path leaves the archive" in refused(
        tmp_path, zipped({"good.jpg": b"0", name: b"1"})
    )
    assert not (tmp_path / "in").exists()


def test_links_are_refused(tmp_path: Path) -> None:
    link = zipfile.ZipInfo("a.jpg")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    assert "it is a link" in refused(tmp_path, zipped({link: b"/etc/passwd"}))


def test_encrypted_and_doubled_members_are_refused(tmp_path: Path) -> None:
    data = bytearray(zipped({"a.jpg": b"1"}))
    data[6] |= 1  # the flags in the member's own header, and in the directory
    data[data.index(b"PK\x01\x02") + 8] |= 1
    assert "it is encrypted" in refused(tmp_path, bytes(data))
    assert "there is another a.jpg" in refused(tmp_path, zipped({"x/a.jpg": b"1", "y/a.jpg": b"2"}))


def test_bombs_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "MAX_MEMBER", 1000)
    monkeypatch.setattr(download, "MAX_UNPACKED", 2500)
    assert "it would have 1,001 bytes" in refused(tmp_path, zipped({"a.jpg": bytes(1001)}))
    assert "it would fill 3,000 bytes" in refused(
        tmp_path, zipped({f"{i}.jpg": bytes(1000) for i in range(3)})
    )
    assert len(unpack(tmp_path, zipped({"0.jpg": bytes(1000), "1.jpg": bytes(1000)}))) == 2


def test_a_member_that_lies_about_its_size(tmp_path: Path) -> None:
    member = zipfile.ZipInfo("a.jpg")
    member.compress_type = zipfile.ZIP_DEFLATED
    data = bytearray(zipped({member: bytes(1_000_000)}))
    at = data.index(b"PK\x01\x02") + 24
    data[at : at + 4] = (100).to_bytes(4, "little")
    assert "cannot be unpacked" in refused(tmp_path, bytes(data))
    assert sum(path.stat().st_size for path in (tmp_path / "in/here").iterdir()) <= 100


def test_damaged_archives(tmp_path: Path) -> None:
    data = zipped({"a.jpg": b"12345678"})
    assert "cannot be unpacked" in refused(tmp_path, data.replace(b"12345678", b"12345679"))
    assert "cannot be unpacked" in refused(tmp_path, data[:-30])


# Downloads


class Server(ThreadingHTTPServer):
    """Serves one file at /photos.zip; its attributes say how badly."""

    content = bytes(range(256)) * 1000
    ranges = True  # answer Range with 206
    length = True  # send Content-Length
    cut: int | None = None  # close the connection after so many bytes
    shift = 0  # answer a Range from a wrong place
    stall = 0.0  # seconds before the body
    seen: list[str | None]  # the Range header of each request

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/photos.zip"

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that hang up are part of the tests."""


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *arguments: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        self.server.seen.append(asked)
        content, total = self.server.content, len(self.server.content)
        if self.path != "/photos.zip":
            return self.send_error(404)
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and self.server.ranges else 0
        if asked and self.server.ranges and start >= total:
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{total}")
            return self.end_headers()
        start += self.server.shift if start else 0
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
        if self.server.length:
            self.send_header("Content-Length", str(total - start))
        self.end_headers()
        time.sleep(self.server.stall)
        self.wfile.write(content[start : self.server.cut])


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(("127.0.0.1", 0), Handler) as server:
        server.seen = []
        threading.Thread(
            target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
        ).start()
        yield server
        server.shutdown()


DIGEST = sha256(Server.content).hexdigest()


def assert_whole(server: Server, target: Path, record: dict) -> None:
    assert target.read_bytes() == server.content
    assert record == {
        "url": server.url,
        "size": len(server.content),
        "sha256": sha256(server.content).hexdigest(),
    }
    assert [path.name for path in target.parent.iterdir()] == [target.name]


@pytest.mark.parametrize("length", [True, False])
def test_whole_download(server: Server, tmp_path: Path, length: bool) -> None:
    server.length = length
    target, calls = tmp_path / "new/photos.zip", []
    assert_whole(
        server, target, fetch(server.url, target, 256_000, DIGEST, lambda *call: calls.append(call))
    )
    assert [done for done, _ in calls] == sorted(done for done, _ in calls)
    assert len(calls) > 1
    assert calls[-1] == (256_000, 256_000)
    assert_whole(server, target, fetch(server.url, target, 256_000, DIGEST))
    assert server.seen == [None]  # what is there is not asked for again


def test_a_partial_download_is_resumed(server: Server, tmp_path: Path) -> None:
    target = put(tmp_path, {"photos.zip.part": server.content[:100_000]}) / "photos.zip"
    assert_whole(server, target, fetch(server.url, target, 256_000, DIGEST))
    assert server.seen == ["bytes=100000-"]


def test_a_broken_connection_is_gone_on_from(server: Server, tmp_path: Path) -> None:
    server.cut = 150_000
    with pytest.raises(
        DataError, match=r"could not be downloaded.*The same command goes on from the [\d,]+ bytes"
    ):
        fetch(server.url, tmp_path / "photos.zip", 256_000)
    assert not (tmp_path / "photos.zip").exists()
    arrived = (tmp_path / "photos.zip.part").stat().st_size
    assert 0 < arrived <= 150_000
    server.cut = None
    assert_whole(
        server, tmp_path / "photos.zip", fetch(server.url, tmp_path / "photos.zip", 256_000, DIGEST)
    )
    assert server.seen == [None, f"bytes={arrived}-"]


def test_a_server_without_ranges(server: Server, tmp_path: Path) -> None:
    server.ranges = False
    target = put(tmp_path, {"photos.zip.part": b"something else"}) / "photos.zip"
    assert_whole(server, target, fetch(server.url, target, 256_000, DIGEST))
    assert server.seen == ["bytes=14-"]


@pytest.mark.parametrize(
    ("part", "asked"), [(256_000, ["bytes=256000-"]), (300_000, ["bytes=300000-", None])]
)
def test_a_part_at_or_past_the_end(
    server: Server, tmp_path: Path, part: int, asked: list[str | None]
) -> None:
    target = put(tmp_path, {"photos.zip.part": (server.content * 2)[:part]}) / "photos.zip"
    assert_whole(server, target, fetch(server.url, target, 256_000, DIGEST))
    assert server.seen == asked


def test_a_range_from_a_wrong_place(server: Server, tmp_path: Path) -> None:
    server.shift = 5
    target = put(tmp_path, {"photos.zip.part": server.content[:1000]}) / "photos.zip"
    assert_whole(server, target, fetch(server.url, target))
    assert server.seen == ["bytes=1000-", None]


@pytest.mark.parametrize("length", [True, False])
@pytest.mark.parametrize("size", [255_999, 256_001])
def test_wrong_size(server: Server, tmp_path: Path, size: int, length: bool) -> None:
    server.length = length
    expected = (
        DataError if size > 256_000 and not length else IntegrityError
    )  # without a length, more may have come
    calls: list[tuple[int, int | None]] = []
    put(tmp_path, {"photos.zip.part": server.content[:1000]})
    with pytest.raises(expected, match=r"25[56],"):
        fetch(server.url, tmp_path / "photos.zip", size, progress=lambda *call: calls.append(call))
    assert files_in(tmp_path) == (["photos.zip.part"] if expected is DataError else [])
    assert bool(calls) == (
        not length
    )  # a length that is wrong is seen before anything is downloaded


def test_a_server_without_an_end_is_cut_off(server: Server, tmp_path: Path) -> None:
    server.length = False
    with pytest.raises(IntegrityError, match="100,000 bytes"):
        fetch(server.url, tmp_path / "photos.zip", most=100_000)
    assert list(tmp_path.iterdir()) == []


def test_wrong_digest(server: Server, tmp_path: Path) -> None:
    with pytest.raises(IntegrityError, match=f"{DIGEST}.*expected.*{'0' * 64}"):
        fetch(server.url, tmp_path / "photos.zip", 256_000, "0" * 64)
    assert list(tmp_path.iterdir()) == []
    put(tmp_path, {"photos.zip": b"old"})
    with pytest.raises(IntegrityError, match="3 bytes"):
        fetch(server.url, tmp_path / "photos.zip", 256_000)
    assert list(tmp_path.iterdir()) == []


def test_missing_page_dead_server_and_silence(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = time.monotonic()
    with pytest.raises(DataError, match="404"):
        fetch(server.url.replace("photos", "nothing"), tmp_path / "photos.zip")
    with pytest.raises(DataError, match="refused"):
        fetch(closed_port(), tmp_path / "photos.zip")
    with pytest.raises(DataError, match="could not be downloaded"):
        fetch("no address", tmp_path / "photos.zip")
    server.stall = 1.0
    monkeypatch.setattr(download, "TIMEOUT", (1, 0.2))
    with pytest.raises(DataError, match="timed out"):
        fetch(server.url, tmp_path / "photos.zip")
    assert time.monotonic() - started < 5
    assert files_in(tmp_path) in ([], ["photos.zip.part"])


def closed_port() -> str:
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        return f"http://127.0.0.1:{server.server_address[1]}/photos.zip"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_bar_shows_on_terminals_only(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    fetch(server.url, tmp_path / "a.zip")
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr(sys, "stderr", Terminal())
    fetch(server.url, tmp_path / "b.zip")
    assert "b.zip" in sys.stderr.getvalue()
    assert "256.0/256.0" in sys.stderr.getvalue()
    assert capsys.readouterr().out == ""


# Cats and dogs from the network


def test_downloaded_cats_and_dogs(
    server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.content = zipped(microsoft())
    monkeypatch.setattr(cats_and_dogs, "ARCHIVE_URL", server.url)
    monkeypatch.setattr(cats_and_dogs, "ARCHIVE_SIZE", len(server.content))
    monkeypatch.setattr(cats_and_dogs, "ARCHIVE_SHA256", sha256(server.content).hexdigest())
    put(cache, {"downloads/photos.zip.part": server.content[:500]})
    dataset = resolve(NAME)
    assert len(dataset.photos) == 16
    assert server.seen == ["bytes=500-"]
    record = json.loads((dataset.root / "source.json").read_text())
    assert (record["url"], record["size"]) == (server.url, len(server.content))
    assert record["sha256"] == sha256(server.content).hexdigest()
    assert len(record["substituted"]) == 3
    assert list((cache / "downloads").iterdir()) == []  # the archive is not needed any more
    assert resolve(NAME).digest == dataset.digest
    assert len(server.seen) == 1


def test_a_pinned_digest_is_checked(
    server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.content = zipped(microsoft())
    monkeypatch.setattr(cats_and_dogs, "ARCHIVE_URL", server.url)
    monkeypatch.setattr(cats_and_dogs, "ARCHIVE_SIZE", len(server.content))
    monkeypatch.setattr(cats_and_dogs, "ARCHIVE_SHA256", "0" * 64)
    with pytest.raises(IntegrityError, match="0000"):
        resolve(NAME)
    assert files_in(cache) == ["data/.cats_and_dogs_small.lock"]


def test_no_network_names_the_ways_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cats_and_dogs, "ARCHIVE_URL", closed_port())
    started = time.monotonic()
    with pytest.raises(DataError) as caught:
        resolve(NAME)
    message = str(caught.value)
    assert time.monotonic() - started < 5
    assert "\n" not in message
    for words in ("--from PATH", "FINETUNE_DATA_DIR", "--data sketches", "127.0.0.1", "refused"):
        assert words in message


# Clothing small from a copy


def clothes(*names: str, validation: str = "validation") -> dict[str, bytes]:
    """A stand-in for the public set: 2 + 1 + 1 photos of each class."""
    splits = {"train": 2, validation: 1, "test": 1}
    places = [f"{split}/{name}/{i}.jpg" for split, n in splits.items() for name in names
              for i in range(n)]  # fmt: skip
    return {place: jpeg("cat", 1) + place.encode() for place in places}


def test_clothing_small_is_taken_from_a_copy(tmp_path: Path) -> None:
    source = put(tmp_path / "copy", clothes(*clothing.CLASSES, validation="val"))
    put(source, {"README.md": b"x", "train/hat/more/9.jpg": jpeg("dog", 9)})
    folder = build("clothing-small", source)
    expected = [*clothes(*clothing.CLASSES), "train/hat/more/9.jpg", "source.json"]
    assert files_in(folder) == sorted(expected)
    assert folder == locate("clothing-small")
    dataset = resolve("clothing-small")
    assert len(dataset.classes) == 10
    assert [len(dataset.split(split)) for split in SPLITS] == [21, 10, 10]
    record = json.loads((folder / "source.json").read_text())
    assert record["split"] == dataset.digest
    assert record["licence"] == "CC0-1.0"


def test_clothing_small_from_what_is_no_copy(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"not downloaded.*data clothing-small --from PATH"):
        resolve("clothing-small")
    with pytest.raises(DataError, match=r"nowhere: no such folder"):
        build("clothing-small", tmp_path / "nowhere")
    fewer = put(tmp_path / "fewer", clothes("hat", "dress"))
    with pytest.raises(DataError, match=r"classes dress, hat\. Needed: .* t-shirt"):
        build("clothing-small", fewer)
    flat = {f"{name}/{i}.jpg": jpeg("dog", i) for name in clothing.CLASSES for i in range(3)}
    with pytest.raises(DataError, match="no split folders"):
        build("clothing-small", put(tmp_path / "flat", flat))


# All cats and dogs


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_the_whole_set_is_split_by_content(kind: str, tmp_path: Path) -> None:
    source = put(tmp_path / "copy", microsoft(28))
    if kind == "zip":
        source = put(tmp_path, {"x.zip": zipped(microsoft(28))}) / "x.zip"
    folder = build("cats-and-dogs", source)
    dataset = resolve("cats-and-dogs")
    assert Counter((photo.split, photo.label) for photo in dataset.photos) == {
        ("train", 0): 18, ("validation", 0): 4, ("test", 0): 4,  # 26 cats: 2 of 28 are bad
        ("train", 1): 19, ("validation", 1): 4, ("test", 1): 4,
    }  # fmt: skip
    record = json.loads((folder / "source.json").read_text())
    assert record["photos"] == {"cats": 26, "dogs": 27}
    assert len(record["left_out"]) == 3
    splits = {photo.sha256: photo.split for photo in dataset.photos}

    renumbered = {
        f"train/{photo.path.name.split('.')[0]}.{900 + i}.jpg": photo.path.read_bytes()
        for i, photo in enumerate(dataset.photos)
    }
    build("cats-and-dogs", put(tmp_path / "other", renumbered))
    again = {photo.sha256: photo.split for photo in resolve("cats-and-dogs").photos}
    assert again == splits, "names and numbers decide nothing"


def test_the_shares_of_the_whole_set() -> None:
    kaggles = cats_and_dogs.draw({f"{i:05d}": 1 for i in range(12_500)}, cats_and_dogs.HELD_OUT)
    assert Counter(kaggles.values()) == {"train": 8_500, "validation": 2_000, "test": 2_000}


def test_the_whole_set_is_downloaded(
    server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    server.content = zipped(microsoft())
    monkeypatch.setattr(cats_and_dogs, "ARCHIVE_URL", server.url)
    monkeypatch.setattr(cats_and_dogs, "ARCHIVE_SIZE", len(server.content))
    monkeypatch.setattr(cats_and_dogs, "ARCHIVE_SHA256", sha256(server.content).hexdigest())
    assert len(resolve("cats-and-dogs").photos) == 25
    few = put(tmp_path / "few", {f"Cat/{i}.jpg": jpeg("cat", i) for i in range(5)})
    with pytest.raises(DataError, match=r"has 0 good dogs, and 3 are the least"):
        build("cats-and-dogs", few)


# MNIST


def mnist_file(path: Path, train: int = 240, test: int = 20, **changes: np.ndarray) -> Path:
    """A stand-in for mnist.npz: scans that show their label."""
    arrays = {}
    for part, n in {"train": train, "test": test}.items():
        labels = np.arange(n, dtype=np.uint8) % 10
        scans = np.zeros((n, 28, 28), np.uint8) + 20 * labels[:, None, None]
        scans[:, 0, 0] = np.arange(n)  # no two alike
        arrays |= {f"x_{part}": scans, f"y_{part}": labels}
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **arrays | changes)
    return path


def test_mnist_from_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = mnist_file(tmp_path / "copies/mnist.npz")
    monkeypatch.setenv("FINETUNE_DATA_DIR", str(copy.parent))
    dataset = resolve("mnist")
    assert dataset.classes == tuple("0123456789")
    assert [len(dataset.split(split)) for split in SPLITS] == [220, 20, 20]
    for photo in dataset.photos[::20]:
        with Image.open(photo.path) as scan:
            assert (scan.size, scan.mode) == ((28, 28), "L")
            assert scan.getpixel((9, 9)) == 20 * photo.label
    record = json.loads((dataset.root / "source.json").read_text())
    assert not record["is_keras_file"]
    assert record["sha256"] == sha256(copy.read_bytes()).hexdigest()

    monkeypatch.setattr(catalog, "build", lambda *_: pytest.fail("built again"))
    assert resolve("mnist").digest == dataset.digest
    monkeypatch.undo()
    monkeypatch.setenv("FINETUNE_DATA_DIR", str(mnist_file(copy, train=120).parent))
    monkeypatch.setenv("FINETUNE_CACHE", str(tmp_path / "cache"))
    assert len(resolve("mnist").photos) == 140, "another file is built anew"


def test_mnist_is_downloaded_and_its_digest_is_keras_own(
    server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    server.content = mnist_file(tmp_path / "mnist.npz").read_bytes()
    monkeypatch.setattr(mnist, "URL", server.url)
    with pytest.raises(IntegrityError, match=mnist.SHA256):
        resolve("mnist")
    monkeypatch.setattr(mnist, "SHA256", sha256(server.content).hexdigest())
    dataset = resolve("mnist")
    assert len(dataset.photos) == 260
    assert json.loads((dataset.root / "source.json").read_text())["is_keras_file"]
    assert list((cache / "downloads").iterdir()) == []
    keras = Path(find_spec("keras").origin).with_name("src") / "datasets/mnist.py"
    assert "731c5ac602752760c8e48fbffcf8c3b850d9dc2a2aedcf2cc48468fc17b673d1" in keras.read_text()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"x_test": np.zeros((20, 8, 8), np.uint8)}, r"x_test is uint8 \(20, 8, 8\)"),
        ({"y_train": np.full(240, 10, np.uint8)}, "y_train"),
        ({"x_train": np.zeros((240, 28, 28), np.float32)}, "x_train is float32"),
        ({"y_test": np.array([None])}, "Object arrays cannot be loaded"),
    ],
)
def test_what_is_no_mnist(change: dict, words: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=words):
        build("mnist", mnist_file(tmp_path / "x.npz", **change))


def test_a_damaged_mnist_is_said(tmp_path: Path) -> None:
    path = mnist_file(tmp_path / "x.npz")
    with np.load(path) as arrays:
        np.savez_compressed(path, **arrays)
    content = bytearray(path.read_bytes())
    content[200:300] = bytes(100)  # of the first array's stream
    path.write_bytes(content)
    with pytest.raises(DataError, match="is no copy of MNIST"):
        build("mnist", path)


def test_no_mnist_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mnist, "URL", closed_port())
    with pytest.raises(DataError, match=r"FINETUNE_DATA_DIR.*--from mnist.npz.*--data digits"):
        resolve("mnist")
    with pytest.raises(DataError, match="no such file"):
        build("mnist", tmp_path / "gone.npz")
    with pytest.raises(DataError, match="is no copy of MNIST: it lacks x_train"):
        build("mnist", put(tmp_path, {"zip.npz": zipped({"a": b"b"})}) / "zip.npz")
    with pytest.raises(DataError, match="is no copy of MNIST"):
        build("mnist", put(tmp_path, {"text.npz": b"text"}) / "text.npz")
