"""The fidelity audit counts what it says."""

import numpy as np
import pytest

from finetune.evaluation.fidelity import fidelity


def test_differences_and_changed_decisions():
    exact = np.array([[0.9, 0.1], [0.49, 0.51], [0.2, 0.8]])
    found = fidelity(exact, np.array([[0.9, 0.1], [0.51, 0.49], [0.2, 0.8]]))
    assert (found["n"], found["changed"]) == (3, 1)
    assert found["max"] == pytest.approx(0.02, abs=1e-6)
    assert found["mean"] == pytest.approx(0.04 / 6, abs=1e-6)
    with pytest.raises(ValueError, match="probabilities are"):
        fidelity(exact, np.zeros((3, 3)))
