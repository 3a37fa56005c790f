"""Which cuts one pass of the trunk stores, and the float32 rows of an audit."""

import errno
from types import SimpleNamespace

import numpy as np
import pytest

from finetune.activations import extract
from finetune.activations.cache import ActivationCache
from finetune.activations.trunk import Kept, Trunk
from finetune.data.dataset import read_folder
from finetune.data.photos import Pixels
from finetune.model.network import build_network


def test_a_cut_that_has_its_rows_is_not_stored_again():
    lacks = {"low": 3, "middle": 0, "high": 1}
    cache = SimpleNamespace(
        entry=lambda cut, view: SimpleNamespace(trunk_pass="one"),
        missing=lambda photos, cut, view: lacks[cut],
        _kept=SimpleNamespace(together={False: ("low", "middle", "high")}),
    )
    assert ActivationCache._together(cache, [], "low", 0) == ("low", "high")


@pytest.fixture(scope="module")
def network():
    settings = {"weights": "random", "pool": "gap", "cut": "block5_pool"}
    return build_network("vgg16", 32, 2, **settings, precision="bfloat16")


def test_the_float32_rows_of_an_audit_are_computed_once(photos, network, monkeypatch):
    listed = read_folder(photos).photos[:5]
    first = ActivationCache("vgg16", network, Pixels(32)).exact(listed, "block5_pool")

    def no_engine(*_, **__):
        raise AssertionError("nothing is to be computed")

    monkeypatch.setattr(Trunk, "engine", no_engine)
    again = ActivationCache("vgg16", network, Pixels(32)).exact(listed, "block5_pool")
    assert first.dtype == np.float32
    np.testing.assert_array_equal(first, again)


def test_an_audit_of_other_preprocessing_has_rows_of_its_own(photos, network):
    listed = read_folder(photos).photos[:2]
    settings = {"weights": "random", "pool": "gap", "cut": "block5_pool"}
    scaled = build_network("vgg16", 32, 2, **settings, preprocessing="scale-only")
    assert scaled.loaded.digest == network.loaded.digest
    kept = Kept()
    own, other = (
        ActivationCache("vgg16", each, Pixels(32), kept=kept).exact(listed, "block5_pool")
        for each in (network, scaled)
    )
    assert not np.allclose(own, other)


def test_a_cache_that_cannot_be_written_costs_an_audit_no_run(photos, network, monkeypatch):
    listed = read_folder(photos).photos[:5]
    stored = ActivationCache("vgg16", network, Pixels(32)).exact(listed[:4], "block5_pool")

    def refuse(folder):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(extract, "make_folder", refuse)
    computed = ActivationCache("vgg16", network, Pixels(32)).exact(listed, "block5_pool")
    assert len(computed) == 5
    np.testing.assert_allclose(computed[:4], stored, atol=1e-6)
