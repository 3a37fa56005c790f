"""Planning figures against simulation, and against one another."""

import math

import numpy as np
import pytest

from benchmarks.honesty import PHOTOS, judged, simulate
from finetune.evaluation.planning import detectable_gap, photos_needed, seeds_needed


def test_the_planned_gap_is_found_four_times_in_five():
    """Two recipes with five seeds each, whose accuracies scatter by 0.5 points."""
    rng = np.random.default_rng(0)
    apart = simulate(rng, 2, 5, 0.5, gap=2).mean(axis=1)
    spread = float(((apart[0] - apart[1]) ** 2).mean())  # of the means, as "share" is of one seed
    gap = detectable_gap(PHOTOS, spread, seeds=5, seed_sd=0.005)
    found = [
        judged(simulate(rng, 2, 5, 0.5, gap=100 * gap), seed=i)["p"][0] <= 0.05 for i in range(200)
    ]
    assert np.mean(found) == pytest.approx(0.8, abs=0.12)


def test_more_of_anything_helps():
    by_gap = [photos_needed(gap, 0.03) for gap in (0.005, 0.01, 0.02, 0.05)]
    assert by_gap == sorted(by_gap, reverse=True)
    by_share = [photos_needed(0.01, share) for share in (0.01, 0.03, 0.1)]
    assert by_share == sorted(by_share)
    by_seeds = [photos_needed(0.01, 0.03, seeds, 0.003) for seeds in (2, 3, 5, 50)]
    assert by_seeds == sorted(by_seeds, reverse=True)
    assert photos_needed(0.01, 0.03, recipes=36) > photos_needed(0.01, 0.03)


def test_seeds_can_hide_a_gap_from_any_number_of_photos():
    assert math.isinf(photos_needed(0.01, 0.03, seeds=3, seed_sd=0.012))
    assert math.isinf(seeds_needed(0.01, 0.03, photos=100, seed_sd=0.003))
    seeds = seeds_needed(0.01, 0.03, photos=5000, seed_sd=0.005)
    assert photos_needed(0.01, 0.03, int(seeds), 0.005) <= 5000
    assert photos_needed(0.01, 0.03, int(seeds) - 1, 0.005) > 5000


def test_five_photos_show_nothing():
    """5 : 0 has p = 0.0625."""
    assert math.isnan(detectable_gap(5, 1.0))
    assert photos_needed(1.0, 1.0) == 6


def test_detectable_gap_inverts_photos_needed():
    gap = detectable_gap(PHOTOS, 0.03, seeds=3, seed_sd=0.003, recipes=6)
    assert photos_needed(gap, 0.03, 3, 0.003, 6) == pytest.approx(PHOTOS, abs=2)
