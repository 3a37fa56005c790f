"""A network's figures against values that are known from elsewhere."""

import keras
import numpy as np
import pytest
from keras import layers

from finetune.commands.describe import describe, table
from finetune.errors import UsageError
from finetune.model.base import build_base
from finetune.model.cut import single_tensors
from finetune.model.describe import describe_network, live_bytes, receptive_fields


def test_one_convolution():
    """200 maps of 5x5 on 150x100 RGB, stride 1, same padding (Géron 2019, chapter 14)."""
    photo = keras.Input((150, 100, 3))
    maps = layers.Conv2D(200, 5, padding="same", name="conv")(photo)
    found = describe_network(keras.Model(photo, maps), ("conv",))
    assert found["parameters"] == 15_200
    assert found["multiply_adds"] == 225_000_000
    assert found["blocks"][0]["receptive_field"] == 5
    assert found["blocks"][0]["bytes_per_photo"] == 2 * 150 * 100 * 200


@pytest.mark.parametrize(
    ("name", "millions", "giga"),
    [("vgg16", 138.4, 15.5), ("resnet50", 25.6, 3.9), ("densenet121", 8.1, 2.9)],
)
def test_published_figures(name, millions, giga):
    found = describe(name, top=True)
    assert round(found["parameters"] / 1e6, 1) == millions
    assert round(found["multiply_adds"] / 1e9, 1) == giga
    assert found["blocks"][-1]["name"] == "top"
    assert found["blocks"][-1]["shape"] == [1000]
    if name == "vgg16":
        assert round(found["blocks"][-1]["parameters"] / 1e6, 1) == 123.6
        assert found["blocks"][-2]["receptive_field"] == 212


def test_receptive_fields_are_what_gradients_reach():
    """Measured: the pixels that one output in the middle depends on."""
    photo = keras.Input((64, 64, 3))
    x = layers.Conv2D(4, 3, strides=2, padding="same", name="a")(photo)
    side = layers.Conv2D(4, 1, name="b")(x)
    x = layers.DepthwiseConv2D(3, dilation_rate=2, padding="same", name="c")(x)
    x = layers.Add(name="d")([side, x])
    x = layers.MaxPooling2D(2, name="e")(x)
    x = layers.Conv2D(4, 3, padding="same", name="f")(x)
    model = keras.Model(photo, x)
    rng = np.random.default_rng(0)
    pixels = rng.uniform(size=(64 * 4, 64, 64, 3)).astype(np.float32)
    pixels[:] = pixels[0]
    before = model(pixels[:1]).numpy()[0, 8, 8]
    for number in range(len(pixels)):  # four tries: a maximum does not always pass a change on
        pixels[number, :, number % 64] += rng.normal(0, 5, (64, 3))
    changed = np.abs(model(pixels).numpy()[:, 8, 8] - before).max(axis=1) > 1e-5
    reached = np.flatnonzero(changed) % 64
    assert max(reached) - min(reached) + 1 == receptive_fields(model)["f"].side


def test_memory_follows_the_graph():
    """A residual sum keeps its shortcut alive: photo, shortcut and branch at once."""
    photo = keras.Input((8, 8, 1))
    x = layers.Conv2D(1, 3, padding="same", name="a")(photo)
    y = layers.Conv2D(1, 3, padding="same", name="b")(x)
    model = keras.Model(photo, layers.Add(name="c")([x, y]))
    maps = 8 * 8 * 4
    assert list(live_bytes(model).values()) == [maps, 2 * maps, 2 * maps, 3 * maps]


@pytest.mark.parametrize("name", ["vgg16", "mobilenetv2", "convnexttiny", "mini-resnet"])
def test_blocks_and_layers_add_up(name):
    size = 64
    found = describe(name, image_size=size, layers=True)
    base = build_base(name, size)
    front = sum(layer.count_params() for layer in base.layers if layer.name == "preprocess")
    assert found["parameters"] == base.count_params() - front
    for key in ("parameters", "multiply_adds", "trainable"):
        assert sum(row[key] for row in found["layers"]) == sum(row[key] for row in found["blocks"])
    cuts = [row["name"] for row in found["layers"] if row["bytes_per_photo"]]
    assert cuts == list(single_tensors(base))
    ours = ("photo", "as_float", "preprocess")
    assert list(found["cuts"]) == [name for name in cuts[:-1] if name not in ours]
    assert found["trains"]["full"] == sum(row["trainable"] for row in found["blocks"])
    assert found["trains"]["cached-features"] == 0
    assert found["trains"]["top-blocks"][0] == found["blocks"][-1]["trainable"] > 0


def test_the_table_and_the_picture(tmp_path):
    found = describe("mobilenet", image_size=64, alpha=0.25, svg=tmp_path / "graph.svg")
    for columns in (80, 120):
        lines = table(found, columns).splitlines()
        assert max(map(len, lines)) <= columns
        for row in found["blocks"]:
            assert any(line.startswith(row["name"]) for line in lines)
    text = (tmp_path / "graph.svg").read_text()
    assert text.count('class="cut"') == len(found["blocks"])
    assert text.count("<circle") > len(build_base("mobilenet", 64, alpha=0.25).layers)


def test_photos_that_are_too_small_are_refused():
    with pytest.raises(UsageError, match="image_size is 64; xception takes photos of 71 px"):
        describe("xception", image_size=64)
