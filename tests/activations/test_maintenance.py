"""`finetune cache verify` and `gc`: damage is found and set aside; what is removed is what nobody
needs, and no more.
"""

import errno
import json
import os
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import finetune_here

from finetune.activations import maintenance
from finetune.activations.listing import nearest_difference
from finetune.activations.maintenance import DAY, HOUR, collect, shards, verify
from finetune.activations.store import Store
from finetune.errors import IntegrityError

FIELDS = {
    "backbone": "vgg16",
    "cut": "block5_pool",
    "preprocessing": {"scale": (1.0, 2.0)},
    "pixels": {"size": 224, "resize": "squash", "augment": None},
}


def filled(root: Path, shards: int = 2, **changes: object) -> Store:
    """A entry of one row per shard: p0, p1, ..."""
    store = Store(root, {**FIELDS, **changes}, "float32")
    for i in range(shards):
        store.add([f"p{i}"], np.full((1, 2, 3), i, np.float32))
    return store


def age(folder: Path, days: float) -> None:
    """Date all files of a entry back."""
    for file in folder.iterdir():
        os.utime(file, (time.time() - days * DAY,) * 2)


def shard(store: Store, name: str) -> Path:
    return store._rows[name].shard


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)


def names(root: Path) -> set[str]:
    return {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}


# verify


def test_a_sound_store_is_left_as_it_is(cache):
    store = filled(cache, shards=3)
    before = names(cache)
    done = finetune_here("cache", "verify", "--json")
    assert done.returncode == 0, done.stderr
    size = sum(path.stat().st_size for path in store.folder.glob("*.npy"))
    assert json.loads(done.stdout) == {
        "cache": str(cache), "shards": 3, "networks": 0, "bytes": size, "damaged": [],
        "orphans": 0, "orphan_bytes": 0, "ok": True
    }  # fmt: skip
    assert names(cache) == before


@pytest.mark.parametrize(
    "harm",
    [
        flip,
        lambda file: file.write_bytes(file.read_bytes()[:-1]),
        lambda file: file.unlink(),
        lambda file: file.with_suffix(".json").write_text('{"sha256": '),
        lambda file: file.with_suffix(".json").write_text("[]"),
    ],
    ids=["flipped bit", "cut off", "missing", "half a .json", "another .json"],
)
def test_a_damaged_shard_is_set_aside_and_its_rows_are_missing(cache, harm):
    store = filled(cache)
    harm(bad := shard(store, "p1"))
    report = verify(cache, advanced := [].append)
    assert advanced.__self__ == [1, 1]
    assert (report["damaged"], report["ok"], report["shards"], report["orphans"]) == (
        [str(bad)],
        False,
        2,
        0,
    )
    again = Store(cache, FIELDS, "float32")
    assert again.missing(["p0", "p1"]) == ["p1"]
    again.add(["p1"], np.ones((1, 2, 3), np.float32))
    assert verify(cache)["ok"], "computed anew, it is whole again"


def test_a_damaged_manifest_is_found_and_set_aside(cache):
    store = filled(cache)
    (store.folder / "manifest.json").write_text("{")
    report = verify(cache)
    assert (report["ok"], report["damaged"]) == (False, [str(store.folder / "manifest.json")])
    assert verify(cache)["ok"]
    assert Store(cache, FIELDS, "float32").missing(["p0"]) == [], "its rows are still there"


def test_verify_ends_with_4_once_and_names_the_file(cache):
    store = filled(cache)
    flip(bad := shard(store, "p0"))
    (store.folder / "shard-0.npy").write_bytes(b"12345")
    first, second = finetune_here("cache", "verify"), finetune_here("-q", "cache", "verify")
    assert (first.returncode, second.returncode, second.stderr) == (4, 0, "")
    assert (
        f"damaged: {bad}\nshards: 2 (0.0 MiB), damaged: 1\nfiles of interrupted writes: 1 (0.0 "
        "MiB); " in first.stdout
    )
    assert "error: 1 of 2 shards fail their checksum; they were set aside" in first.stderr
    assert "shards: 1 (0.0 MiB), damaged: none\n" in second.stdout


@pytest.mark.parametrize("moment", ["before it is hashed", "before it is set aside"])
def test_a_shard_that_another_process_removes_meanwhile_is_no_error(cache, monkeypatch, moment):
    store = filled(cache)
    flip(gone := shard(store, "p0"))
    name = "intact" if moment == "before it is hashed" else "set_aside"
    function = getattr(maintenance, name)

    def late(path: Path) -> object:
        if path == gone:
            gone.unlink()
            gone.with_suffix(".json").unlink()
        return function(path)

    monkeypatch.setattr(maintenance, name, late)
    found = verify(cache)
    assert found["damaged"] == ([] if name == "intact" else [str(gone)])


def test_damage_in_a_cache_that_cannot_be_written_is_said(cache, monkeypatch):
    store = filled(cache)
    flip(bad := shard(store, "p0"))

    def refuse(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(
        IntegrityError, match=rf"{bad.name}: damaged, and cannot be set aside \(Permission denied\)"
    ):
        verify(cache)


# gc


def test_only_old_orphans_and_what_was_set_aside_are_removed(cache):
    store = filled(cache)
    flip(bad := shard(store, "p1"))
    verify(cache)
    kept = names(cache) - {
        f"activations/{store.folder.name}/{bad.stem}{suffix}" for suffix in (".npy", ".damaged")
    }
    for name, seconds in (
        ("shard-a.npy", 2 * HOUR),
        (".shard-b.npy.x.tmp", 2 * HOUR),
        ("shard-c.npy", 0.5 * HOUR),
    ):
        (store.folder / name).write_bytes(b"1234")
        os.utime(store.folder / name, (time.time() - seconds,) * 2)
    (store.folder / "overflow.txt").write_text("kept")
    assert verify(cache)["orphans"] == 3
    before = names(cache)
    planned = collect(cache, dry_run=True)
    assert names(cache) == before
    assert collect(cache) == planned
    assert {(item["kind"], Path(item["path"]).name) for item in planned} == {
        ("damaged", f"{bad.stem}.damaged"),
        ("damaged", f"{bad.stem}.npy"),
        ("orphan", ".shard-b.npy.x.tmp"),
        ("orphan", "shard-a.npy"),
    }
    assert {item["bytes"] for item in planned if item["kind"] == "orphan"} == {4}
    folder = f"activations/{store.folder.name}"
    assert names(cache) == kept | {f"{folder}/shard-c.npy", f"{folder}/overflow.txt"}
    assert collect(cache) == []


def test_a_entry_that_was_not_used_goes_and_one_that_was_read_stays(cache):
    unused, read, written = (filled(cache, cut=cut) for cut in ("a", "b", "c"))
    for store in (unused, read, written):
        age(store.folder, days=31)
    Store(cache, {**FIELDS, "cut": "b"}, "float32").rows(["p0"])
    written.add(["p9"], np.ones((1, 2, 3), np.float32))
    assert collect(cache, days=32) == []
    size = sum(path.stat().st_size for path in unused.folder.iterdir())
    done = finetune_here("cache", "gc", "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert (result["bytes"], result["dry_run"]) == (size, False)
    assert result["removed"] == [
        {"kind": "entry", "path": str(unused.folder), "bytes": size, "days": 31.0}
    ]
    assert {path.name for path in (cache / "activations").iterdir()} == {
        read.folder.name,
        written.folder.name,
    }


def test_gc_prints_what_it_would_remove_and_days_are_chosen(cache):
    age(filled(cache).folder, days=3)
    dry = finetune_here("cache", "gc", "--older-than", 2, "--dry-run")
    assert (dry.returncode, len(shards(cache))) == (0, 2)
    assert "entry" in dry.stdout
    assert "3.0 days old" in dry.stdout
    assert f"would be removed from {cache}" in dry.stdout
    assert f"0.0 MiB removed from {cache}" in finetune_here("cache", "gc", "--older-than", 2).stdout
    assert shards(cache) == []
    assert finetune_here("cache", "gc", "--older-than", -1).returncode == 2


def test_a_entry_in_use_and_foreign_folders_are_never_removed(cache):
    store = filled(cache)
    age(store.folder, days=0.5 / 24)
    for foreign in (cache / "activations/mine", cache / "data"):
        foreign.mkdir()
        (foreign / "shard-a.npy").write_text("mine")
        age(foreign, days=99)
    assert collect(cache, days=0) == []
    age(store.folder, days=2 / 24)
    assert [item["path"] for item in collect(cache, days=0)] == [str(store.folder)]
    assert names(cache) == {"activations/mine/shard-a.npy", "data/shard-a.npy"}


def test_an_empty_cache_is_no_error(cache):
    assert finetune_here("cache", "verify").returncode == 0
    assert json.loads(finetune_here("cache", "gc", "--json").stdout)["removed"] == []
    assert names(cache) == set()


def test_an_interrupted_removal_leaves_orphans_and_no_broken_shard(cache, monkeypatch):
    store = filled(cache, shards=3)
    age(store.folder, days=31)
    unlink, calls = Path.unlink, []

    def killed(path: Path, missing_ok: bool = False) -> None:
        calls.append(path)
        if len(calls) == 5:
            raise KeyboardInterrupt
        unlink(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", killed)
    with pytest.raises(KeyboardInterrupt):
        collect(cache)
    monkeypatch.undo()
    assert (verify(cache)["ok"], verify(cache)["orphans"]) == (True, 2)


# What the store does for it


def test_reading_rows_dates_the_last_use(cache):
    store = filled(cache)
    age(store.folder, days=9)
    other = Store(cache, FIELDS, "float32")
    other.missing(["p0"])
    manifest = store.folder / "manifest.json"
    assert time.time() - manifest.stat().st_mtime > 8 * DAY, "asking what is there is no use"
    other.rows(["p0"])
    assert time.time() - manifest.stat().st_mtime < HOUR


@pytest.mark.parametrize(
    ("number", "tolerated"), [(errno.EACCES, True), (errno.EROFS, True), (errno.EIO, False)]
)
def test_rows_are_read_from_a_cache_that_cannot_be_written(cache, monkeypatch, number, tolerated):
    store = filled(cache)

    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("os.utime", refuse)
    if tolerated:
        np.testing.assert_array_equal(store.rows(["p1"])[[0]], np.ones((1, 2, 3)))
    else:
        with pytest.raises(OSError, match=os.strerror(number)):
            store.rows(["p1"])


def test_the_nearest_entry_says_what_differs_and_a_filled_one_nothing(cache):
    filled(cache, backbone="resnet50", cut="top")
    filled(cache)
    wanted = Store(cache, {**FIELDS, "pixels": {**FIELDS["pixels"], "size": 96}}, "float32")
    assert nearest_difference(cache, wanted) == {"pixels": ({"size": 224}, {"size": 96})}
    more = Store(cache, {**FIELDS, "weights": "w2"}, "float32")
    assert nearest_difference(cache, more) == {"weights": (None, "w2")}
    assert nearest_difference(cache, Store(cache, FIELDS, "float32")) == {}
    assert nearest_difference(cache / "nowhere", wanted) == {}


# Trunks that are kept as OpenVINO's IR


@pytest.fixture
def network(cache):
    from finetune.backend import load_openvino
    from finetune.model import ir

    ops = load_openvino().opset13
    photo = ops.parameter([1, 2], np.float32)
    graph = load_openvino().Model([ops.relu(photo)], [photo])
    fields = {"precision": "int8", "backbone": "vgg16", "image_size": 96}
    return ir.keep(ir.cached_folder(cache, fields, ["block5_pool"]), graph, fields, ["block5_pool"])


def test_kept_networks_are_listed_verified_and_set_aside(cache, network):
    listed = finetune_here("cache", "ls", "--json")
    (item,) = json.loads(listed.stdout)["networks"]
    assert (item["digest"], item["cuts"]) == (network.digest, ["block5_pool"])
    assert "block5_pool" in finetune_here("cache", "ls").stdout
    assert (verify(cache)["networks"], verify(cache)["ok"]) == (1, True)
    flip(next(network.folder.glob("*.xml")))
    assert verify(cache)["damaged"] == [str(network.folder)]
    assert (verify(cache)["networks"], verify(cache)["orphans"]) == (0, 3)
    age(network.folder, 1)
    assert len(collect(cache, 30)) == 3
    assert not network.folder.exists()


def test_a_network_that_was_not_used_for_long_is_removed(cache, network):
    age(network.folder, 20)
    assert collect(cache, 30) == []
    (item,) = collect(cache, 10, dry_run=True)
    assert (item["kind"], item["path"]) == ("network", str(network.folder))
    assert network.folder.exists()
    assert collect(cache, 10) == [item]
    assert not network.folder.exists()
