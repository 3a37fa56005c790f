"""What a recipe leaves open is settled before anything is computed."""

import pytest

from finetune.activations.engine import resolve_precision
from finetune.execution.sharing import settled
from finetune.recipe.reading import load


def test_an_address_of_weights_stays_as_it_is_however_long():
    address = f"https://host/w.h5?key={'k' * 300}#sha256={'0' * 64}"
    assert settled(load(None, {"weights": address})).weights == address


@pytest.mark.parametrize(
    ("values", "precision"),
    [
        ({"backbone": "mobilenet"}, "float32"),
        ({"backbone": "vgg16", "precision": "float32"}, "float32"),
        ({"backbone": "vgg16"}, resolve_precision("auto", "auto")),
    ],
)
def test_auto_is_float32_where_a_backbone_needs_it(values, precision):
    assert settled(load(None, values)).precision == precision
