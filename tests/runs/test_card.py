"""The model card: honest figures beside accuracy, and as long as a page however many classes there
are.
"""

import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from finetune.evaluation.metrics import measure
from finetune.runs import card


def made(folder: Path, classes: list[str], labels: np.ndarray, predicted: np.ndarray) -> str:
    """The card of a run with these predictions."""
    probabilities = np.full((len(labels), len(classes)), 0.5 / len(classes))
    probabilities[np.arange(len(labels)), predicted] += 0.5
    settings = {"strategy": "top-blocks", "backbone": "vgg16", "data": "zoo"}
    recipe = SimpleNamespace(**settings, image_size=64, resize="squash")
    dataset = SimpleNamespace(classes=classes, split=lambda name: [name] * 5)
    result = {
        "test": measure(probabilities, labels, classes),
        "split": "a" * 64,
        "cut": "block4_pool",
        "parameters": {"trunk": 123, "trainable": 4},
        "audit": {"frozen": 3},
        "weights": {"source": "imagenet", "digest": "b" * 64},
    }
    return card.render(recipe, dataset, result, folder)


def test_two_hundred_cats_and_twelve_dogs(tmp_path):
    labels = np.repeat([0, 1], [200, 12])
    text = made(tmp_path, ["cats", "dogs"], labels, np.zeros(212, dtype=int))
    for figure in (
        "**94.3 %**",
        "Balanced accuracy 50.0 %",
        "right in 94.3 %",
        "recognised (recall 0): 'dogs'.",
    ):
        assert figure in text
    assert "dogs → cats: 12" in text
    assert text.startswith("# cats, dogs: top-blocks on vgg16\n")


def test_a_card_of_120_classes_is_no_longer_than_a_page(tmp_path):
    labels = np.arange(480) % 120
    predicted = np.where(np.arange(480) < 60, (labels + 1) % 120, labels)
    text = made(tmp_path, [f"n{i:04d}" for i in range(120)], labels, predicted)
    assert text.startswith("# 120 classes: top-blocks on vgg16\n")
    assert len(re.findall(r"^\| n\d{4} ", text, re.MULTILINE)) == 25
    assert len(re.findall(r"^- n\d{4} → n\d{4}: 1$", text, re.MULTILINE)) == 10
    assert "recognised:" not in text


@pytest.mark.parametrize("present", [[], ["curves.png"], ["curves.png", "explanations.png"]])
def test_only_pictures_that_exist_are_shown(tmp_path, present):
    for name in present:
        (tmp_path / name).touch()
    text = made(tmp_path, ["cats", "dogs"], np.array([0, 1]), np.array([0, 1]))
    assert re.findall(r"!\[.*?\]\((.*?)\)", text) == ["confusion.png", *present]


def test_class_names_start_no_column_and_are_not_escaped(tmp_path):
    text = made(tmp_path, ["a | b", "<c> & 'd'"], np.array([0, 1]), np.array([0, 0]))
    assert r"| a \| b | 0.500 |" in text
    assert "| <c> & 'd' | 0.000 |" in text
