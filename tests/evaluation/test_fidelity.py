"""The fidelity audit counts what it says."""

import keras
import numpy as np
import pytest

from finetune.evaluation.fidelity import fidelity


class Fixed(keras.layers.Layer):
    """Probabilities that are the photo's first two values."""

    def call(self, photos):
        return keras.ops.cast(photos[:, 0, 0, :2], "float32") / 100


def test_differences_and_changed_decisions():
    photo = keras.Input((4, 4, 3), dtype="uint8")
    photos = np.zeros((3, 4, 4, 3), np.uint8)
    photos[:, 0, 0, :2] = [[90, 10], [49, 51], [20, 80]]
    found = fidelity(
        keras.Model(photo, Fixed()(photo)), photos, np.array([[0.9, 0.1], [0.51, 0.49], [0.2, 0.8]])
    )
    assert (found["n"], found["changed"]) == (3, 1)
    assert found["max"] == pytest.approx(0.02, abs=1e-6)
    assert found["mean"] == pytest.approx(0.04 / 6, abs=1e-6)
    with pytest.raises(ValueError, match="probabilities are"):
        fidelity(keras.Model(photo, Fixed()(photo)), photos, np.zeros((3, 3)))
