"""Which cuts one pass of the trunk stores."""

from types import SimpleNamespace

from finetune.activations.cache import ActivationCache


def test_a_cut_that_has_its_rows_is_not_stored_again():
    lacks = {"low": 3, "middle": 0, "high": 1}
    cache = SimpleNamespace(
        entry=lambda cut, view: SimpleNamespace(trunk_pass="one"),
        missing=lambda photos, cut, view: lacks[cut],
        _kept=SimpleNamespace(together={False: ("low", "middle", "high")}),
    )
    assert ActivationCache._together(cache, [], "low", 0) == ("low", "high")
