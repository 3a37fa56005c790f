"""Evidence from the graph of the OpenVINO network is the evidence that Keras's gradients give."""

import keras
import numpy as np
import pytest

from finetune.activations.engine import compile_graph
from finetune.backend import load_openvino
from finetune.evaluation.gradcam import grad_cam
from finetune.model.base import build_base
from finetune.model.heads import add_head
from finetune.model.ir import convert
from finetune.model.weights import load_weights
from finetune.serving.evidence import find_head

SIZE = 96
CLASSES = 8
PHOTOS = np.random.default_rng(1).integers(0, 256, (CLASSES, SIZE, SIZE, 3), np.uint8)


def network(backbone: str, pool: str, hidden: int | list[int]) -> keras.Model:
    base = build_base(backbone, SIZE)
    load_weights(base, backbone, "random")
    model = add_head(base, CLASSES, pool, hidden, dropout=0.5)
    rng = np.random.default_rng(2)
    for layer in model.layers:
        if isinstance(layer, keras.layers.Dense):
            layer.set_weights([rng.normal(0, 0.3, w.shape) for w in layer.get_weights()])
    return model


@pytest.mark.parametrize(
    ("backbone", "pool", "hidden"),
    [
        ("vgg16", "gap", 0),
        ("vgg16", "gmp", 8),
        ("vgg16", "gap", [16, 8]),
        ("vgg16", "flatten", 0),
        ("mini-resnet", "flatten", 8),
        ("mini-densenet", "gap", 0),
    ],
)
def test_it_is_grad_cam(backbone, pool, hidden):
    model = network(backbone, pool, hidden)
    graph = convert(model)
    head = find_head(graph)
    assert (head.pool, len(head.layers)) == (pool, 1 + np.size(hidden) - (hidden == 0))
    outputs = load_openvino().Model([graph.output(0), head.maps], graph.get_parameters())
    ((_, maps),) = compile_graph(outputs, "float32", batch=1)([PHOTOS])
    (expected,) = grad_cam(model, PHOTOS, [], range(CLASSES))
    assert expected.max() > 0
    found = np.stack([head.heat(row, label) for label, row in enumerate(maps)])
    np.testing.assert_allclose(found, expected, atol=1e-4 * expected.max())


def test_a_head_of_another_kind_is_not_explained():
    photo = keras.Input((SIZE, SIZE, 3), dtype="uint8")
    x = keras.layers.Conv2D(4, 3)(keras.layers.Rescaling(1 / 255)(photo))
    x = keras.layers.GlobalAveragePooling2D()(x)
    for layer in (keras.layers.Activation("tanh"), keras.layers.Dense(2, activation="sigmoid")):
        x = layer(x)
    assert find_head(convert(keras.Model(photo, x))) is None
    odd = keras.layers.Dense(2, activation="softmax")(keras.layers.Activation("tanh")(x))
    assert find_head(convert(keras.Model(photo, odd))) is None
