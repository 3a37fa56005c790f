"""The store: content-addressed, committed whole, verified."""

import errno
import json
from pathlib import Path

import numpy as np
import pytest

from finetune.activations import rows as stored_rows
from finetune.activations import store as stores
from finetune.activations.listing import entries, nearest_difference
from finetune.activations.store import Store, entry_fields, row_name
from finetune.backend import peak_bytes, reset_peak
from finetune.data.photos import Pixels
from finetune.errors import BusyError
from finetune.training.batches import read_views

FIELDS = {
    "backbone": "vgg16",
    "weights": "w1",
    "cut": "block4_pool",
    "preprocessing": {"scale": [1.0]},
    "pixels": {"decode_version": 1, "size": 224, "resize": "squash", "augment": None},
}


def rows(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, 2, 2, 3)).astype(np.float16)


def changed(path: tuple[str, ...], value: object) -> dict:
    fields = json.loads(json.dumps(FIELDS))
    inner = fields
    for name in path[:-1]:
        inner = inner[name]
    inner[path[-1]] = value
    return fields


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("backbone",), "resnet50"),
        (("weights",), "w2"),
        (("cut",), "block5_pool"),
        (("preprocessing", "scale"), [255.0]),
        (("pixels", "decode_version"), 2),
        (("pixels", "size"), 96),
        (("pixels", "resize"), "pad"),
        (("pixels", "augment"), {"flip": True}),
    ],
)
def test_the_key_changes_with_each_field(tmp_path, path, value):
    first, second = (
        Store(tmp_path, FIELDS, "float16"),
        Store(tmp_path, changed(path, value), "float16"),
    )
    assert first.key != second.key
    first.add(["a"], rows(1))
    assert second.missing(["a"]) == ["a"]
    assert list(nearest_difference(tmp_path, second)) == [path[0]], (
        "a miss can name the field that changed"
    )


def test_the_key_changes_with_the_dtype_and_with_nothing_else(tmp_path):
    assert Store(tmp_path, FIELDS, "float16").key != Store(tmp_path, FIELDS, "float32").key
    assert (
        Store(tmp_path, FIELDS, "float16").key
        == Store(tmp_path / "moved", dict(reversed(FIELDS.items())), "float16").key
    )


def test_rows_come_back_in_any_order_from_many_shards_and_processes(tmp_path):
    store, values = Store(tmp_path, FIELDS, "float16"), rows(10)
    for start in (0, 4, 8):
        chunk = values[start : start + 4]
        store.add([f"p{start + i}" for i in range(len(chunk))], chunk)
    order = [7, 0, 9, 3, 3]
    again = Store(tmp_path, FIELDS, "float16")
    assert again.missing([f"p{i}" for i in range(12)]) == ["p10", "p11"]
    stored = again.rows([f"p{i}" for i in order])
    assert stored.shape == (5, 2, 2, 3)
    np.testing.assert_array_equal(stored[[4, 1]], values[[3, 0]])
    np.testing.assert_array_equal(np.concatenate(list(stored.batches(2))), values[order])


def test_views_of_a_photo_have_rows_of_their_own():
    assert len({row_name("abc"), row_name("abc", 1), row_name("abc", 2)}) == 3


def test_a_flipped_bit_is_noticed_and_its_rows_are_missing_again(tmp_path):
    store = Store(tmp_path, FIELDS, "float16")
    store.add(["good"], rows(1))
    store.add(["bad"], rows(1, seed=1))
    shard = store._rows["bad"].shard
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)
    again = Store(tmp_path, FIELDS, "float16")
    assert again.missing(["good", "bad"]) == ["bad"]
    assert again.damaged == [shard]
    assert Store(tmp_path, FIELDS, "float16").missing(["bad"]) == ["bad"], "it stays out of use"


def test_a_shard_without_its_manifest_is_invisible(tmp_path):
    store = Store(tmp_path, FIELDS, "float16")
    store.add(["a"], rows(1))
    next(store.folder.glob("shard-*.json")).unlink()  # a kill between the two commits
    assert Store(tmp_path, FIELDS, "float16").missing(["a"]) == ["a"]


def test_wrong_rows_are_refused_and_entries_are_listed(tmp_path):
    store = Store(tmp_path, FIELDS, "float16")
    with pytest.raises(ValueError, match="2 names for 1 rows"):
        store.add(["a", "b"], rows(1))
    with pytest.raises(ValueError, match="float32"):
        store.add(["a"], rows(1).astype(np.float32))
    store.add(["a", "b"], rows(2))
    (entry,) = entries(tmp_path)
    assert (entry["rows"], entry["shape"], entry["fields"]["cut"]) == (2, [2, 2, 3], "block4_pool")
    assert entry["bytes"] > rows(2).nbytes


def test_precision_is_part_of_the_key_and_photos_depend_on_no_trunk():
    """Half-precision rows under the key of float32 ones would depend on who came first."""
    fields = [
        entry_fields("vgg16", "w", "block4_pool", precision, Pixels(32))
        for precision in ("float32", "float16", "bfloat16")
    ]
    assert len({json.dumps(value) for value in fields}) == 3
    photos = [
        entry_fields(backbone, "w", "photo", "float32", Pixels(32)) for backbone in ("vgg16", "x")
    ]
    assert photos[0] == photos[1]


@pytest.mark.parametrize(
    "harm",
    [
        lambda path: path.write_text('{"sha256": '),
        lambda path: path.write_text("[]"),
        lambda path: path.write_text(
            json.dumps(json.loads(path.read_text()) | {"rows": ["b", "a"]})
        ),
        lambda path: path.write_text(path.read_text().replace('"seconds": 0.0', '"seconds": "x"')),
        lambda path: path.write_bytes(b"\xff\xfe"),
    ],
    ids=["half", "a list", "rows swapped", "no number", "no text"],
)
def test_a_damaged_json_is_set_aside_and_stops_nobody(tmp_path, harm):
    store = Store(tmp_path, FIELDS, "float16")
    store.add(["a", "b"], rows(2))
    (path,) = store.folder.glob("shard-*.json")
    harm(path)
    again = Store(tmp_path, FIELDS, "float16")
    assert again.missing(["a", "b"]) == ["a", "b"]
    assert [shard.stem for shard in again.damaged] == [path.stem]
    assert entries(tmp_path)[0]["rows"] == 0
    again.add(["a", "b"], rows(2))
    assert Store(tmp_path, FIELDS, "float16").missing(["a", "b"]) == []


def test_a_json_that_cannot_be_read_now_is_no_damage(tmp_path, monkeypatch):
    store = Store(tmp_path, FIELDS, "float16")
    store.add(["a"], rows(1))

    def fail(path: Path) -> bytes:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", fail)
        with pytest.raises(OSError, match="Input/output"):
            Store(tmp_path, FIELDS, "float16")
    assert Store(tmp_path, FIELDS, "float16").missing(["a"]) == []


def test_a_file_that_goes_while_the_store_is_listed_is_nothing(tmp_path):
    store = Store(tmp_path, FIELDS, "float16")
    store.add(["a"], rows(1))
    (store.folder / ".shard.tmp").symlink_to(tmp_path / "renamed meanwhile")
    assert entries(tmp_path)[0]["rows"] == 1


def test_a_damaged_manifest_is_left_out_of_the_list_and_written_anew(tmp_path):
    store = Store(tmp_path, FIELDS, "float16")
    store.add(["a"], rows(1))
    (store.folder / "manifest.json").write_text('{"key": "x"}')
    assert entries(tmp_path) == []
    again = Store(tmp_path, FIELDS, "float16")
    assert len(again.rows(["a"])) == 1
    again.add(["b"], rows(1))
    assert entries(tmp_path)[0]["rows"] == 2


def test_few_files_are_open_however_many_shards_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr(stored_rows, "_OPEN_FILES", 3)
    store = Store(tmp_path, FIELDS, "float16")
    values = rows(8)
    for i in range(8):
        store.add([f"p{i}"], values[i : i + 1])
    found = store.rows([f"p{i}" for i in range(8)])
    for _ in range(2):
        np.testing.assert_array_equal(found[[5, 0, 7, 2]], values[[5, 0, 7, 2]])
        assert len([path for path in stored_rows._open if tmp_path in path.parents]) <= 3


def test_a_full_disk_names_the_shard_and_its_bytes(tmp_path, monkeypatch):
    """``np.save`` writes with ``tofile``, whose error has no number."""
    store = Store(tmp_path, FIELDS, "float16")
    monkeypatch.setattr(stores, "_write_array", full_disk)
    with pytest.raises(BusyError, match=r"disk is full: .*shard-.*npy \(24 bytes\)"):
        store.add(["a"], rows(1))
    assert Store(tmp_path, FIELDS, "float16").missing(["a"]) == ["a"]
    assert not list(store.folder.glob(".*tmp"))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux only")
def test_the_error_number_of_a_full_disk_is_kept():
    with pytest.raises(OSError, match="No space left") as caught, open("/dev/full", "wb") as file:
        stores._write_array(file, np.zeros(2**20, np.float32))
    assert caught.value.errno == errno.ENOSPC


def full_disk(file, values):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="peak memory can be reset on Linux only"
)
def test_reading_far_more_than_fits_keeps_memory_flat(tmp_path):
    """400 MB of activations in shuffled batches, through the reader that training uses, in under
    100 MB.
    """
    store, names = Store(tmp_path, FIELDS, "float16"), [f"p{i}" for i in range(2000)]
    for start in range(0, 2000, 250):
        store.add(names[start : start + 250], np.full((250, 14, 14, 512), start, np.float16))
    read = read_views([store.rows(names)])
    order = np.random.default_rng(0).permutation(2000)
    reset_peak()
    before = peak_bytes()
    batches = [order[start : start + 32] for start in range(0, 2000, 32)]
    for batch, rows in zip(batches, read(batches, 0), strict=True):
        np.testing.assert_array_equal(rows[:, 0, 0, 0], batch // 250 * 250)
    assert peak_bytes() - before < 100 * 2**20
