"""The power of McNemar's exact test against simulation, and its inverse."""

import numpy as np
import pytest
from scipy.stats import binomtest

from finetune.evaluation.power import mcnemar_power, minimum_detectable_difference

PHOTOS = 1000


def test_power_agrees_with_simulation():
    rng = np.random.default_rng(5)
    table = rng.multinomial(300, [0.07, 0.03, 0.9], size=2000)
    rejected = np.mean([binomtest(int(a), int(a + b)).pvalue <= 0.05 for a, b, _ in table])
    assert mcnemar_power(300, 0.1, 0.04) == pytest.approx(rejected, abs=0.03)


def test_minimum_detectable_difference():
    smallest = minimum_detectable_difference(PHOTOS, 0.06)
    assert mcnemar_power(PHOTOS, 0.06, smallest) == pytest.approx(0.8, abs=1e-3)
    assert 0.02 < smallest < 0.03
    by_photos = [minimum_detectable_difference(n, 0.06) for n in (50, 100, 200, 400, 1000, 10_000)]
    assert by_photos == sorted(by_photos, reverse=True)
    by_share = [
        minimum_detectable_difference(PHOTOS, share) for share in (0.0, 0.01, 0.03, 0.06, 0.2, 0.5)
    ]
    assert by_share == sorted(by_share)
    by_alpha = [minimum_detectable_difference(PHOTOS, 0.06, alpha=0.05 / m) for m in (1, 15, 780)]
    assert by_alpha == sorted(by_alpha)
    assert np.isnan(minimum_detectable_difference(5, 0.5)), "5 : 0 has p = 0.0625"
    assert minimum_detectable_difference(6, 0.5) < 1
