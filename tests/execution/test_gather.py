"""Rows of a trial: of one dtype, whatever is met on the way."""

import os
from types import SimpleNamespace

import numpy as np
import pytest

from finetune.activations import cache as activations
from finetune.activations.cache import ActivationCache
from finetune.data.dataset import read_folder
from finetune.data.photos import Pixels
from finetune.execution.bench import gather
from finetune.execution.sharing import Need
from finetune.files import cache_dir, sweep
from finetune.progress import SILENT

WANTED = [Need("block", split, 0) for split in ("train", "validation", "test")]


def widening_cache(monkeypatch, large: set[str]) -> ActivationCache:
    """A cache whose trunk gives mean colours, times 1,000 for the photos that are named."""
    found = ActivationCache.__new__(ActivationCache)
    monkeypatch.setattr(ActivationCache, "row_bytes", lambda *_: 12)
    monkeypatch.setattr(ActivationCache, "_together", lambda *_: ("block",))
    monkeypatch.setattr(ActivationCache, "_source", lambda *_: activations.INPUT)
    fields = {"backbone": "test", "cut": "block", "weights": "", "preprocessing": {}}

    def engine(batches):
        for batch in batches:
            means = batch.mean(axis=(1, 2), dtype=np.float32)
            is_large = [photo.tobytes() in large for photo in batch]
            yield means * np.where(is_large, 1e3, 1.0)[:, None].astype(np.float32)

    vars(found).update(
        bad=[],
        computed=0,
        reporter=SILENT,
        _entries={},
        _remote=None,
        _dtype="float16",
        _pixels=Pixels(16),
    )
    found.network = SimpleNamespace(precision="float32")
    found.trunk = SimpleNamespace(
        calibration=(),
        fields=lambda *_: {**fields, "pixels": {}},
        precision_key=lambda cut: "float32",
        engine=lambda *_: engine,
    )
    return found


def test_two_processes_may_meet_the_same_overflow(monkeypatch):
    """The one that holds the entry removes what it takes for left over of killed writers."""
    cache = widening_cache(monkeypatch, set())
    folder = cache.entry("block").folder
    folder.mkdir(parents=True)
    fsync = os.fsync

    def swept(handle: int) -> None:
        sweep(folder)
        fsync(handle)

    monkeypatch.setattr(os, "fsync", swept)
    cache._widen("block", 0, OverflowError("too large"))
    assert cache.entry("block").dtype == np.float32


@pytest.mark.parametrize("split", ["validation", "test"])
def test_a_late_row_that_float16_cannot_hold_leaves_no_mixed_dtypes(photos, monkeypatch, split):
    dataset = read_folder(photos)
    large = {Pixels(16).load(dataset.split(split)[-1]).tobytes()}
    cache = widening_cache(monkeypatch, large)
    _, rows = gather(None, dataset, cache, WANTED)
    assert {stored.dtype for stored in rows.values()} == {np.dtype(np.float32)}
    assert [len(rows[need]) for need in WANTED] == [12, 7, 7]
    assert rows[Need("block", split, 0)][[6]].max() > 65504
    assert len(list((cache_dir() / "activations").glob("*/overflow.txt"))) == 1
