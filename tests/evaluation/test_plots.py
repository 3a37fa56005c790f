"""Pictures stay small and readable, whatever the classes are called and however many there are."""

import io

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.axes import Axes
from PIL import Image

from finetune.evaluation import plots


def drawn(matrix: np.ndarray, classes: list[str]) -> Image.Image:
    file = io.BytesIO()
    plots.confusion(matrix, classes, file)
    return Image.open(file)


@pytest.fixture
def written(monkeypatch) -> list[str]:
    """The texts that are written into the cells."""
    texts = []
    original = Axes.text
    monkeypatch.setattr(
        Axes, "text", lambda self, x, y, s, **kw: texts.append(s) or original(self, x, y, s, **kw)
    )
    return texts


@pytest.mark.parametrize("classes", [2, 25, 120, 1000])
def test_a_confusion_matrix_is_at_most_1600_px_wide(classes, written):
    picture = drawn(np.eye(classes, dtype=int) * 7, [f"breed {i}" for i in range(classes)])
    assert max(picture.size) <= 1600
    assert len(written) == {2: 4, 25: 25}.get(classes, 0)


def test_class_names_are_no_formulas():
    """Mathtext would refuse the first and swallow the dollars of the second."""
    plain = drawn(np.eye(2, dtype=int), ["$\\frac$", "$x$"])
    assert plain.size == drawn(np.eye(2, dtype=int), ["bfracb", "bxb"]).size
    drawn(np.eye(2, dtype=int), ["line\nbreak", "c" * 300])


def test_the_penalty_path_is_drawn():
    file = io.BytesIO()
    plots.penalty_path([{"c": 10.0**e, "validation_loss": e * e / 10} for e in range(-3, 3)], file)
    assert Image.open(file).size == (750, 480)


@pytest.mark.filterwarnings("error")
def test_a_notebooks_own_layout_leaves_the_pictures_alone():
    with mpl.rc_context({"figure.constrained_layout.use": True}):
        drawn(np.eye(2, dtype=int), ["cats", "dogs"])
