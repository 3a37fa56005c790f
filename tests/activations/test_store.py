"""The store: content-addressed, committed whole, verified."""

import json
from pathlib import Path

import numpy as np
import pytest

from finetune.activations.store import Store, nearest_difference, row_name, shelves
from finetune.backend import peak_bytes, reset_peak
from finetune.training.fit import read_views

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


def test_wrong_rows_are_refused_and_shelves_are_listed(tmp_path):
    store = Store(tmp_path, FIELDS, "float16")
    with pytest.raises(ValueError, match="2 names for 1 rows"):
        store.add(["a", "b"], rows(1))
    with pytest.raises(ValueError, match="float32"):
        store.add(["a"], rows(1).astype(np.float32))
    store.add(["a", "b"], rows(2))
    (shelf,) = shelves(tmp_path)
    assert (shelf["rows"], shelf["shape"], shelf["fields"]["cut"]) == (2, [2, 2, 3], "block4_pool")
    assert shelf["bytes"] > rows(2).nbytes


@pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="peak memory can be reset on Linux only"
)
def test_reading_far_more_than_fits_keeps_memory_flat(tmp_path):
    """400 MB of activations in shuffled batches, through the reader that training uses, in under 100 MB."""
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
