"""Photos to stored activations: each once, in order, whatever happens."""

import errno
import multiprocessing
import threading

import numpy as np
import pytest
from filelock import FileLock, Timeout

from finetune.activations import extract as extraction
from finetune.activations.extract import extract
from finetune.activations.store import Store, read_shard, row_name
from finetune.data.augment import PRESETS
from finetune.data.dataset import read_folder
from finetune.data.photos import Pixels, read_photos
from finetune.errors import BusyError, DataError, IntegrityError
from finetune.progress import SILENT, Reporter

PLAIN = Pixels(16)
FIELDS = {"backbone": "test", "cut": "block", "weights": "", "preprocessing": {}}


def mean_engine(scale: float = 1.0, calls: list | None = None):
    """A stand-in for a trunk that is easy to check: the mean colour of each photo."""

    def run(batches):
        for batch in batches:
            if calls is not None:
                calls.append(len(batch))
            yield batch.mean(axis=(1, 2), dtype=np.float32) * scale

    return run


def never():
    pytest.fail("nothing is missing")


def open_store(root, dtype="float32", pixels=PLAIN) -> Store:
    return Store(root, {**FIELDS, "pixels": pixels.fields()}, dtype)


def fill(store, photos, open_engine=mean_engine, view=0, pixels=PLAIN, reporter=SILENT):
    return extract([store], photos, view, reader(pixels, view), open_engine, 12, "test", reporter)


def reader(pixels=PLAIN, view=0):
    def read(photos):
        keys = [f"stored/{photo.sha256}/{view}" if view else None for photo in photos]
        return read_photos(pixels, photos, keys)

    return read


def values(store, photos, view=0):
    return store.rows([row_name(photo.sha256, view) for photo in photos])[range(len(photos))]


class Heard(Reporter):
    """Keeps what it is warned of."""

    def __init__(self):
        super().__init__(silent=True)
        self.warnings = []

    def warn(self, text):
        self.warnings.append(text)


def test_every_photo_has_its_row_and_only_new_ones_are_computed(photos, tmp_path):
    listed = read_folder(photos).photos
    calls: list[int] = []
    engine = mean_engine(calls=calls)
    assert fill(open_store(tmp_path), listed[:9], lambda: engine) == (9, [])
    store = open_store(tmp_path)
    assert fill(store, listed, lambda: engine) == (len(listed) - 9, [])
    assert sum(calls) == len(listed)
    expected = np.stack([Pixels(16).load(photo).mean(axis=(0, 1)) for photo in listed])
    np.testing.assert_allclose(values(store, listed), expected, rtol=1e-3)
    assert fill(open_store(tmp_path), listed, never) == (0, [])


def test_a_renamed_photo_is_found_again_and_an_edited_one_is_not(photos, tmp_path):
    listed = read_folder(photos).photos
    fill(open_store(tmp_path), listed)
    first = listed[0].path
    first.rename(first.with_name("renamed.png"))
    again = read_folder(photos).photos
    fill(open_store(tmp_path), again, never)
    edited = again[1].path
    edited.write_bytes(edited.read_bytes() + b"\0")
    assert fill(open_store(tmp_path), read_folder(photos).photos).computed == 1


def test_views_are_deterministic_and_differ_from_each_other(photos, tmp_path):
    train = read_folder(photos).split("train")
    pixels = Pixels(32, augment=PRESETS["light"] | {"contrast": 0.5})
    found = []
    for name in "ab":
        store = open_store(tmp_path / name, pixels=pixels)
        for view in (1, 2):
            fill(store, train, view=view, pixels=pixels)
        found.append([values(store, train, view) for view in (1, 2)])
    np.testing.assert_array_equal(found[0], found[1])
    assert (np.abs(found[0][0] - found[0][1]).max(axis=1) > 0).all()


def test_broken_weights_and_what_float16_cannot_hold_are_not_stored(photos, tmp_path):
    listed = read_folder(photos).photos
    with pytest.raises(IntegrityError, match="NaN or infinity"):
        fill(open_store(tmp_path), listed, lambda: mean_engine(np.nan))
    with pytest.raises(OverflowError, match="65504"):
        fill(open_store(tmp_path, "float16"), listed, lambda: mean_engine(1000.0))
    with pytest.raises(OverflowError, match="below 6.1e-05"):
        fill(open_store(tmp_path, "float16"), listed, lambda: mean_engine(1e-9))
    assert len(open_store(tmp_path)) == len(open_store(tmp_path, "float16")) == 0


def test_what_was_computed_before_an_interruption_is_kept(photos, tmp_path):
    listed = read_folder(photos).photos

    def interrupted(batches):
        yield next(mean_engine()(batches))[:5]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fill(open_store(tmp_path), listed, lambda: interrupted)
    assert fill(open_store(tmp_path), listed).computed == len(listed) - 5


def test_work_is_committed_by_time_as_well(photos, tmp_path, monkeypatch):
    listed = read_folder(photos).photos
    monkeypatch.setattr(extraction, "_COMMIT_SECONDS", 0.0)
    store = open_store(tmp_path)
    fill(store, listed)
    assert len(list(store.folder.glob("shard-*.json"))) == len(listed)


def test_bad_photos_are_reported_at_once_copies_included_and_cost_no_good_one_its_row(
    photos, tmp_path
):
    listed = read_folder(photos).photos
    fill(whole := open_store(tmp_path / "whole"), listed)
    broken = [listed[number].path for number in (3, 4, len(listed) - 1)]
    for path, text in zip(broken, (b"one", b"one", b"another"), strict=True):
        path.write_bytes(b"no picture: " + text)
    listed = read_folder(photos).photos
    heard = Heard()
    store = open_store(tmp_path / "bad")
    computed, bad = fill(store, listed, reporter=heard)
    assert [photo.path for photo, _ in bad] == broken, "both copies of one content"
    assert (len(heard.warnings), computed) == (2, len(listed) - 3)
    good = [photo for photo in listed if photo.path not in broken]
    np.testing.assert_array_equal(values(store, good), values(whole, good))


def test_a_photo_that_changes_under_way_is_not_stored_under_its_old_name(photos, tmp_path):
    listed = read_folder(photos).photos
    listed[3].path.write_bytes(listed[4].path.read_bytes())
    with pytest.raises(DataError, match="has changed since"):
        fill(open_store(tmp_path), listed)


def test_a_read_only_cache_names_the_variable_to_set(photos, tmp_path, monkeypatch):
    def refuse(folder):
        raise OSError(errno.EROFS, "Read-only file system")

    listed = read_folder(photos).photos
    fill(open_store(tmp_path), listed[:5])
    monkeypatch.setattr(extraction, "make_folder", refuse)
    assert fill(open_store(tmp_path), listed[:5], never) == (0, []), "what is there can be read"
    with pytest.raises(DataError, match="FINETUNE_CACHE"):
        fill(open_store(tmp_path), listed)


def test_space_is_asked_for_before_the_first_photo_is_computed(photos, tmp_path):
    listed = read_folder(photos).photos
    with pytest.raises(BusyError, match="bytes are needed"):
        extract([open_store(tmp_path)], listed, 0, reader(), never, 2**60, "test", SILENT)


def test_another_process_is_waited_for_and_its_rows_are_used(photos, tmp_path, monkeypatch):
    listed = read_folder(photos).photos
    monkeypatch.setattr(extraction, "_POLL_SECONDS", 0.02)
    store = open_store(tmp_path)
    fill(store, listed[:1])
    other = FileLock(store.folder / ".lock", is_singleton=False)
    other.acquire()
    found = []
    waiting = threading.Thread(
        target=lambda: found.append(fill(open_store(tmp_path), listed, never)), daemon=True
    )
    waiting.start()
    computed = np.stack([Pixels(16).load(photo).mean(axis=(0, 1)) for photo in listed[1:]])
    names = [row_name(photo.sha256) for photo in listed[1:]]
    store.add(names, computed.astype(np.float32))  # by the holder, which has not let go yet
    waiting.join(30)
    assert found == [(0, [])]
    other.release()


def hold(path, held):
    FileLock(path).acquire()
    held.set()
    threading.Event().wait()


def test_the_lock_of_a_dead_process_is_free(photos, tmp_path, monkeypatch):
    monkeypatch.setattr(extraction, "_POLL_SECONDS", 0.02)
    store = open_store(tmp_path)
    store.folder.mkdir(parents=True)
    context = multiprocessing.get_context("fork")
    held = context.Event()
    holder = context.Process(target=hold, args=(store.folder / ".lock", held))
    holder.start()
    assert held.wait(30)
    (store.folder / ".shard-x.npy.y.tmp").write_bytes(b"half")
    holder.kill()
    holder.join()
    assert fill(store, read_folder(photos).photos).computed == 26
    assert not list(store.folder.glob(".*.tmp")), "what it left is swept"


def test_one_pass_fills_the_stores_of_several_cuts(photos, tmp_path):
    """What the second store has already stays as it is; what only it lacks is not computed."""
    listed = read_folder(photos).photos
    stores = [Store(tmp_path, {**FIELDS, "cut": cut, "pixels": {}}, "float32") for cut in "ab"]
    calls: list[int] = []

    def engine(batches):
        for batch in mean_engine(calls=calls)(batches):
            yield [(row, 2 * row) for row in batch]

    found = extract(stores, listed, 0, reader(), lambda: engine, 24, "test", SILENT)
    assert (found.computed, sum(calls)) == (26, 26)
    assert np.array_equal(values(stores[1], listed), 2 * values(stores[0], listed))
    assert (
        stores[0].trunk_pass == stores[1].trunk_pass != open_store(tmp_path, "float16").trunk_pass
    )
    assert extract(stores[1:], listed, 0, reader(), never, 24, "test", SILENT).computed == 0


def test_every_entry_that_a_pass_fills_is_held_and_swept(photos, tmp_path):
    listed = read_folder(photos).photos
    stores = [Store(tmp_path, {**FIELDS, "cut": cut, "pixels": {}}, "float32") for cut in "abc"]
    for store in stores:
        store.folder.mkdir(parents=True)
        (store.folder / ".shard-x.npy.y.tmp").write_bytes(b"half")

    def engine(batches):
        for store in stores:
            assert not list(store.folder.glob(".*.tmp"))
            with pytest.raises(Timeout):
                FileLock(store.folder / ".lock").acquire(timeout=0)
        for batch in mean_engine()(batches):
            yield [(row, row, row) for row in batch]

    assert extract(stores, listed, 0, reader(), lambda: engine, 36, "test", SILENT).computed
    for store in stores:
        FileLock(store.folder / ".lock").acquire(timeout=0)


def fill_part(folder, root, places, ready):
    """In another process: the rows of some photos, while others compute theirs."""
    dataset = read_folder(folder)
    photos = [dataset.photos[place] for place in places]
    store = open_store(root)

    def engine():
        ready.wait(60)  # all are at work at the same time
        return mean_engine()

    extract([store], photos, 0, reader(), engine, 12, "test", SILENT, in_parts=True)


def test_parts_of_one_entry_are_computed_at_the_same_time_and_each_once(photos, tmp_path):
    context = multiprocessing.get_context("spawn")
    ready = context.Barrier(2)
    places = [range(13), range(13, 26)]
    processes = [
        context.Process(target=fill_part, args=(photos, tmp_path, part, ready)) for part in places
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0, "neither waited for the other"
    store = open_store(tmp_path)
    dataset = read_folder(photos)
    assert len(store) == len({photo.sha256 for photo in dataset.photos}) == 26
    shards = [read_shard(path) for path in store.folder.glob("shard-*.json")]
    assert sum(len(shard["rows"]) for shard in shards) == 26


def test_a_part_is_committed_under_the_lock_alone(photos, tmp_path):
    store = open_store(tmp_path)
    dataset = read_folder(photos)
    free = []

    def engine():
        free.append(FileLock(store.folder / ".lock", is_singleton=False).acquire(timeout=0))
        free[0].lock.release()
        return mean_engine()

    (store.folder).mkdir(parents=True)
    left = store.folder / ".shard.tmp"
    left.write_bytes(b"of a killed writer")
    extract([store], dataset.photos, 0, reader(), engine, 12, "test", SILENT, in_parts=True)
    assert len(free) == 1
    assert not left.exists()
    assert not store.missing([row_name(photo.sha256) for photo in dataset.photos])


def test_what_another_process_stored_meanwhile_is_not_stored_twice(photos, tmp_path):
    listed = read_folder(photos).photos
    names = [row_name(photo.sha256) for photo in listed[:9]]

    def opened():
        return [Store(tmp_path, {**FIELDS, "cut": cut, "pixels": {}}, "float32") for cut in "ab"]

    def engine(batches):
        for batch in mean_engine()(batches):
            yield [(row, row) for row in batch]

    stores = opened()
    opened()[1].add(names, np.zeros((9, 3), np.float32))
    assert extract(stores, listed, 0, reader(), lambda: engine, 24, "test", SILENT).computed == 26
    shards = [read_shard(path)["rows"] for path in stores[1].folder.glob("shard-*.json")]
    assert sum(map(len, shards)) == len(stores[1]) == 26
    assert (values(stores[1], listed[:9]) == 0).all()
