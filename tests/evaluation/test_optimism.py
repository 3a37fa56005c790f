"""What having chosen the best hides, against worlds in which the truth is known."""

import numpy as np

from finetune.evaluation.optimism import corrected_choice


def test_the_best_of_equals_is_corrected_to_what_all_of_them_can_do():
    """40 trials of the same accuracy, 0.8: the best of them looks better, and is not."""
    seen, expected = [], []
    for world in range(40):
        rng = np.random.default_rng(world)
        correct = rng.random((40, 100)) < 0.8
        losses = np.where(correct, 0.2, 1.6)
        found = corrected_choice(losses, correct, draws=60, seed=world)
        seen.append(found["accuracy"] + found["accuracy_optimism"])
        expected.append(found["accuracy"])
    assert np.mean(seen) > 0.87
    assert abs(np.mean(expected) - 0.8) < 0.02


def test_a_trial_that_is_best_by_far_needs_no_correction():
    rng = np.random.default_rng(0)
    correct = rng.random((10, 400)) < np.array([0.95, *[0.5] * 9])[:, None]
    found = corrected_choice(np.where(correct, 0.2, 1.6), correct)
    assert abs(found["accuracy_optimism"]) < 0.005
    assert found["accuracy"] == correct[0].mean() - found["accuracy_optimism"]


def test_one_trial_and_one_photo_are_no_error():
    assert corrected_choice(np.array([[0.5]]), np.array([[True]])) == {
        "loss": 0.5,
        "accuracy": 1.0,
        "accuracy_optimism": 0.0,
    }
