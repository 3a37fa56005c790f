"""Photos to stored activations: each once, in order, whatever happens."""

import numpy as np
import pytest

from finetune.activations.extract import Pixels, chunks, extract, map_ahead
from finetune.activations.store import Store, row_name
from finetune.data.augment import PRESETS
from finetune.data.dataset import read_folder
from finetune.errors import DataError, IntegrityError

FIELDS = {"backbone": "test", "cut": "photo", "weights": "", "preprocessing": {}}


def mean_engine(scale: float = 1.0, calls: list | None = None):
    """A stand-in for a trunk that is easy to check: the mean colour of each photo."""

    def run(batches):
        for batch in batches:
            if calls is not None:
                calls.append(len(batch))
            yield batch.mean(axis=(1, 2), dtype=np.float32) * scale

    return run


def expected(items, pixels, scale=1.0):
    keys = [f"stored/{photo.sha256}/{view}" if view else None for photo, view in items]
    return np.stack(
        [pixels.load(p, k).mean(axis=(0, 1)) * scale for (p, _), k in zip(items, keys, strict=True)]
    )


def test_every_photo_has_its_row_and_only_new_ones_are_computed(photos, tmp_path):
    dataset, pixels, calls = read_folder(photos), Pixels(16), []
    items = [(photo, 0) for photo in dataset.photos]
    store, computed, _ = extract(
        tmp_path, FIELDS, "float16", pixels, items[:9], lambda: mean_engine(calls=calls)
    )
    assert (computed, sum(calls)) == (9, 9)
    store, computed, _ = extract(
        tmp_path, FIELDS, "float16", pixels, items, lambda: mean_engine(calls=calls)
    )
    assert (computed, sum(calls)) == (len(items) - 9, len(items))
    names = [row_name(photo.sha256) for photo, _ in items]
    found = store.rows(names)[range(len(names))]
    np.testing.assert_allclose(found, expected(items, pixels), rtol=1e-3)
    _, computed, _ = extract(
        tmp_path, FIELDS, "float16", pixels, items, lambda: pytest.fail("nothing is missing")
    )
    assert computed == 0


def test_a_renamed_photo_is_found_again_and_an_edited_one_is_not(photos, tmp_path):
    items = [(photo, 0) for photo in read_folder(photos).photos]
    extract(tmp_path, FIELDS, "float16", Pixels(16), items, mean_engine)
    first = items[0][0].path
    first.rename(first.with_name("renamed.png"))
    again = [(photo, 0) for photo in read_folder(photos).photos]
    _, computed, _ = extract(
        tmp_path, FIELDS, "float16", Pixels(16), again, lambda: pytest.fail("a name is no content")
    )
    edited = again[1][0].path
    edited.write_bytes(edited.read_bytes() + b"\0")
    again = [(photo, 0) for photo in read_folder(photos).photos]
    _, computed, _ = extract(tmp_path, FIELDS, "float16", Pixels(16), again, mean_engine)
    assert computed == 1


def test_views_are_deterministic_and_differ_from_each_other(photos, tmp_path):
    dataset = read_folder(photos)
    pixels = Pixels(32, augment=PRESETS["light"] | {"contrast": 0.5})
    items = [(photo, view) for view in (1, 2) for photo in dataset.split("train")]
    shelves = [
        extract(tmp_path / name, FIELDS, "float32", pixels, items, mean_engine)[0] for name in "ab"
    ]
    names = [row_name(photo.sha256, view) for photo, view in items]
    first, second = (shelf.rows(names)[range(len(names))] for shelf in shelves)
    np.testing.assert_array_equal(first, second)
    half = len(names) // 2
    assert (np.abs(first[:half] - first[half:]).max(axis=1) > 0).all(), (
        "view 2 is another draw than view 1"
    )


def test_float16_overflow_turns_the_store_to_float32_and_is_said_once(photos, tmp_path):
    items, said = [(photo, 0) for photo in read_folder(photos).photos], []
    arguments = (tmp_path, FIELDS, "float16", Pixels(16), items)
    store, computed, _ = extract(*arguments, lambda: mean_engine(1000.0), warn=said.append)
    assert (store.dtype, computed, len(said)) == (np.float32, len(items), 1)
    assert "65504" in said[0]
    found = store.rows([row_name(p.sha256) for p, _ in items])[range(len(items))]
    np.testing.assert_allclose(found, expected(items, Pixels(16), 1000.0), rtol=1e-6)
    again, computed, _ = extract(
        *arguments, lambda: pytest.fail("float32 rows are there"), warn=said.append
    )
    assert (again.dtype, computed, len(said)) == (np.float32, 0, 1)


def test_broken_weights_are_not_stored(photos, tmp_path):
    items = [(photo, 0) for photo in read_folder(photos).photos]
    with pytest.raises(IntegrityError, match="NaN or infinity"):
        extract(tmp_path, FIELDS, "float32", Pixels(16), items, lambda: mean_engine(np.nan))
    assert Store(tmp_path, {**FIELDS, "pixels": Pixels(16).fields()}, "float32").missing(["x"]) == [
        "x"
    ]


def test_what_was_computed_before_an_interruption_is_kept(photos, tmp_path):
    items = [(photo, 0) for photo in read_folder(photos).photos]

    def interrupted(batches):
        for number, batch in enumerate(mean_engine()(batch[:5] for batch in batches)):
            if number:
                raise KeyboardInterrupt
            yield batch
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        extract(tmp_path, FIELDS, "float16", Pixels(16), items, lambda: interrupted)
    _, computed, _ = extract(tmp_path, FIELDS, "float16", Pixels(16), items, mean_engine)
    assert computed == len(items) - 5


def test_bad_photos_are_told_at_once_and_cost_no_good_one_its_row(photos, tmp_path):
    items = [(photo, 0) for photo in read_folder(photos).photos]
    reference, _, _ = extract(tmp_path / "whole", FIELDS, "float32", Pixels(16), items, mean_engine)
    broken = {3, 4, len(items) - 1}
    for number in broken:
        items[number][0].path.write_bytes(f"no picture {number}".encode())
    items = [(photo, 0) for photo in read_folder(photos).photos]
    said = []
    store, computed, bad = extract(
        tmp_path / "bad", FIELDS, "float32", Pixels(16), items, mean_engine, warn=said.append
    )
    assert [photo.file for photo, _ in bad] == [items[number][0].file for number in sorted(broken)]
    assert all("cannot be decoded" in line for line in said)
    assert (len(said), computed) == (3, len(items) - 3)
    good = [
        row_name(photo.sha256) for number, (photo, _) in enumerate(items) if number not in broken
    ]
    np.testing.assert_array_equal(
        store.rows(good)[range(len(good))], reference.rows(good)[range(len(good))]
    )


def test_a_photo_that_changes_under_way_is_not_stored_under_its_old_name(photos, tmp_path):
    items = [(photo, 0) for photo in read_folder(photos).photos]
    items[3][0].path.write_bytes(items[4][0].path.read_bytes())
    with pytest.raises(DataError, match="has changed since"):
        extract(tmp_path, FIELDS, "float16", Pixels(16), items, mean_engine)


def test_order_and_limits_of_the_threads():
    assert list(map_ahead(lambda x: x * x, range(100), ahead=7)) == [x * x for x in range(100)]
    asked = []
    ahead = map_ahead(lambda x: x, (asked.append(i) or i for i in range(1000)), ahead=8)
    next(ahead)
    assert len(asked) == 8, "only as many as may wait are drawn from a long list"
    assert [len(chunk) for chunk in chunks(range(7), 3)] == [3, 3, 1]
