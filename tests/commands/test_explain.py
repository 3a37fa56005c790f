"""What a network looks at: the mathematics against CAM and numerical gradients, the pictures, the
command, the runs.
"""

import io
import json
import shutil
import sys
import zlib
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import finetune_here, paint
from PIL import Image

from finetune.commands.explain import explain
from finetune.commands.run import run as train
from finetune.data.photos import decode
from finetune.data.sketches import draw_with_mask, write_sketches
from finetune.errors import DataError, UsageError
from finetune.evaluation.gradcam import default_layer, feature_maps, grad_cam
from finetune.evaluation.overlays import (
    _HEAT,
    maps_grid,
    open_photo,
    overlay,
    peak,
    percent,
    spread,
)
from finetune.model.backbones import BACKBONES
from finetune.model.cut import find_cut, split
from finetune.model.network import build_network
from finetune.progress import Reporter
from finetune.runs.classifier import Classifier

PHOTOS = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)
QUIET = Reporter(quiet=True)
LAST = {"vgg16": "block5_pool", "resnet50": "conv5_block3_out", "densenet121": "relu"}


def network(backbone, head=None):
    head = {key: value for key, value in (head or {"pool": "gap"}).items() if key != "solver"}
    cut = BACKBONES[backbone].blocks[-2]
    return build_network(backbone, 64, 2, weights="random", cut=cut, **head)


def even(whole):
    """Let no class win everywhere: random maps are much alike, and ReLU would leave one class
    without any heat.
    """
    classifier = whole.get_layer("classifier")
    mean = keras.Model(whole.input, classifier.input)(PHOTOS, training=False).numpy().mean(axis=0)
    kernel, bias = classifier.get_weights()
    classifier.set_weights([kernel - np.outer(mean, mean @ kernel) / (mean @ mean), bias])


def same(found, expected):
    """Equal but for rounding, and not because both are empty."""
    assert expected.max() > 0
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5 * expected.max())


# Mathematics


@pytest.mark.parametrize("backbone", LAST)
def test_behind_global_average_pooling_grad_cam_is_cam(backbone):
    """Zhou et al., CVPR 2016: a class's weights times the last maps. The mean over places makes it
    1 / (h w) of that.
    """
    whole = network(backbone).whole
    even(whole)
    kernel = whole.get_layer("classifier").kernel.numpy()
    assert default_layer(whole) == LAST[backbone]
    maps = keras.Model(whole.input, whole.get_layer(LAST[backbone]).output)(
        PHOTOS, training=False
    ).numpy()
    np.testing.assert_allclose(
        feature_maps(whole, PHOTOS[1], ())[0], maps[1], rtol=1e-4, atol=1e-5 * maps.max()
    )
    cams = [np.maximum(maps @ kernel[:, label], 0) for label in (0, 1)]
    for label in (0, 1):
        (heat,) = grad_cam(whole, PHOTOS, (), label)
        assert (heat.dtype, heat.shape) == (np.float32, (3, 2, 2))
        same(heat * 4, cams[label])
    (mixed,) = grad_cam(whole, PHOTOS, (), [0, 1, 0])  # a class for each photo
    same(mixed * 4, np.stack([cams[0][0], cams[1][1], cams[0][2]]))


@pytest.mark.parametrize(
    ("backbone", "head"),
    [
        ("vgg16", {"pool": "flatten", "hidden": 4, "dropout": 0.5, "solver": "keras"}),
        ("resnet50", {"pool": "gmp"}),
        pytest.param("densenet121", {"pool": "flatten"}, marks=pytest.mark.slow),
    ],
    ids=lambda value: value if isinstance(value, str) else value["pool"],
)
def test_model_and_tail_give_the_same_heat(backbone, head):
    net = network(backbone, head=head)
    even(net.whole)
    (heat,) = grad_cam(net.whole, PHOTOS, (), [0, 1, 1])
    for cut in (net.cut, LAST[backbone]):
        trunk, tail = split(net.whole, cut)
        (found,) = grad_cam(tail, trunk(PHOTOS, training=False), (), [0, 1, 1])
        np.testing.assert_allclose(found, heat, rtol=1e-3, atol=1e-4 * heat.max())
    assert heat.any()


def test_a_layer_beside_the_others_and_several_at_once():
    """The shortcut of a ResNet block is no cut. The gradient of its bias sums the gradients of its
    maps over all places.
    """
    net = network("resnet50")
    even(net.whole)
    name = "conv5_block1_0_conv"
    with pytest.raises(UsageError, match="is no cut"):
        find_cut(net.whole, name)
    layer, classifier = net.whole.get_layer(name), net.whole.get_layer("classifier")
    features = keras.Model(net.whole.input, classifier.input)
    with tf.GradientTape() as tape:
        tape.watch(layer.bias.value)
        score = (features(PHOTOS[:1], training=False) @ classifier.kernel + classifier.bias)[0, 1]
    (maps,) = feature_maps(net.whole, PHOTOS[0], [name])
    weights = tape.gradient(score, layer.bias.value).numpy() / maps[:, :, 0].size
    expected = np.maximum(maps @ weights, 0)
    beside, last = grad_cam(net.whole, PHOTOS[:1], [name, "conv5_block3_out"], 1)
    same(beside[0], expected)
    same(last, grad_cam(net.whole, PHOTOS[:1], (), 1)[0])
    rows = split(net.whole, net.cut).trunk(PHOTOS[:1], training=False)
    same(grad_cam(net.tail, rows, [name], 1)[0], beside)


def tiny(*top, convolutions=1):
    x = inputs = keras.Input((6, 6, 2))
    for number in range(convolutions):
        x = keras.layers.Conv2D(3, 3, name=f"conv{number}")(x)
    for layer in top:
        x = layer(x)
    return keras.Model(inputs, x)


INPUTS = np.random.default_rng(1).normal(size=(2, 6, 6, 2)).astype(np.float32)


def test_flatten_and_a_hidden_layer_against_numerical_gradients():
    keras.utils.set_random_seed(3)
    model = tiny(
        *(
            keras.layers.Flatten(),
            keras.layers.Dense(5, "tanh", name="hidden"),
            keras.layers.Dropout(0.5),
        ),
        keras.layers.Dense(3, "softmax", name="classes"),
    )
    (w1, b1), (w2, b2) = (
        map(np.float64, model.get_layer(name).get_weights()) for name in ("hidden", "classes")
    )
    (maps,) = feature_maps(model, INPUTS[1], ["conv0"])
    maps = maps.astype(np.float64)
    for label in range(3):

        def logit(values, label=label):
            return (np.tanh(values.ravel() @ w1 + b1) @ w2 + b2)[label]

        gradient = np.zeros_like(maps)
        for place in np.ndindex(maps.shape):
            step = np.zeros_like(maps)
            step[place] = 1e-5
            gradient[place] = (logit(maps + step) - logit(maps - step)) / 2e-5
        expected = np.maximum(maps @ gradient.mean(axis=(0, 1)), 0)
        np.testing.assert_allclose(
            grad_cam(model, INPUTS, ["conv0"], label)[0][1], expected, rtol=1e-4, atol=1e-6
        )


def test_one_sigmoid_output_speaks_for_both_classes():
    model = tiny(
        keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(1, "sigmoid", use_bias=False)
    )
    kernel = model.layers[-1].kernel.numpy()[:, 0]
    maps = np.stack([feature_maps(model, photo, ())[0] for photo in INPUTS])
    for label, sign in ((1, 1), (0, -1)):
        same(grad_cam(model, INPUTS, (), label)[0], np.maximum(maps @ (sign * kernel), 0) / 16)


def test_where_a_network_is_sure_the_heat_does_not_vanish():
    model = tiny(keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(2, "softmax"))
    before = grad_cam(model, INPUTS, (), 1)[0]
    model.layers[-1].bias.assign([-500.0, 500.0])
    assert model.predict(INPUTS, verbose=0)[:, 1].min() == 1
    same(grad_cam(model, INPUTS, (), 1)[0], before)


def test_sequential_and_nested_models():
    top = (keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(2, "softmax"))
    inner = tiny(convolutions=2)
    nested = keras.Sequential([keras.Input((6, 6, 2)), inner, *top])
    flat = tiny(*top, convolutions=2)
    flat.set_weights(nested.get_weights())
    assert default_layer(nested) == inner.name
    same(grad_cam(nested, INPUTS, (), 0)[0], grad_cam(flat, INPUTS, ["conv1"], 0)[0])


def test_what_cannot_be_explained_says_why():
    whole = network("vgg16").whole
    with pytest.raises(UsageError, match="no layer 'block5_conv'. The nearest .*block5_conv3"):
        grad_cam(whole, PHOTOS, ["block5_conv"], 0)
    with pytest.raises(UsageError, match=r"'gap' has no maps. The nearest .*block5_pool"):
        feature_maps(whole, PHOTOS[0], ["gap"])
    with pytest.raises(UsageError, match="no learned layer lies below"):
        grad_cam(whole, PHOTOS, ["as_float"], 0)
    mean = keras.Model(
        whole.input, keras.layers.Average(name="blend")([whole.output, whole.output])
    )
    with pytest.raises(UsageError, match=r"ends in blend \(Average\).*explain its members"):
        grad_cam(mean, PHOTOS, (), 0)
    flat = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, "softmax")])
    with pytest.raises(UsageError, match="no layer with maps"):
        grad_cam(flat, np.zeros((1, 4)), (), 0)


# Pictures


def encoded(photo: Image.Image, **options) -> bytes:
    file = io.BytesIO()
    photo.save(file, "PNG", **options)
    return file.getvalue()


@pytest.mark.parametrize("size", [(40, 30), (30, 41), (37, 37), (101, 3), (250, 249)])
def test_a_photo_opens_upright_at_its_own_size_or_smaller(size):
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise by 90 degrees
    turned = encoded(Image.fromarray(np.rot90(pixels)), exif=exif)
    for data in (encoded(Image.fromarray(pixels)), turned):
        np.testing.assert_array_equal(open_photo(data), pixels)
    small = open_photo(turned, 20)
    assert (max(small.size), small.size[0] >= small.size[1]) == (20, size[0] >= size[1])
    assert np.asarray(small).min(axis=2).max(axis=(0, 1)) > 0, "no bars are left"


def test_a_photo_of_48_megapixels_opens_smaller_and_one_of_169_as_a_tile():
    """Both are read as a network's input; at their own size they would take over 850 MB."""
    for size, side, shown in (
        ((8064, 6048), None, (2048, 1536)),
        ((13000, 13000), 224, (224, 224)),
    ):
        file = io.BytesIO()
        Image.new("RGB", size, "red").save(file, "JPEG")
        assert open_photo(file.getvalue(), side).size == shown


@pytest.mark.parametrize("resize", ["squash", "crop", "pad"])
@pytest.mark.parametrize(
    ("size", "spot"), [((200, 100), (88, 30)), ((90, 240), (70, 100)), ((120, 120), (20, 100))]
)
def test_heat_lands_where_it_came_from(resize, size, spot):
    """A photo, dark but for one spot, goes through the real resizing; its brightness comes back as
    heat.
    """
    pixels = np.zeros((size[1], size[0], 3), np.uint8)
    pixels[spot[1] - 4 : spot[1] + 5, spot[0] - 4 : spot[0] + 5] = 255
    seen = decode(encoded(Image.fromarray(pixels)), 64, resize).mean(axis=2)
    heat = spread(seen, size, resize)
    assert heat.shape == pixels.shape[:2]
    assert heat.min() == 0
    np.testing.assert_allclose(peak(heat), spot, atol=3)
    inside, outside = heat[pixels[:, :, 0] > 0].mean(), heat[pixels[:, :, 0] == 0].mean()
    assert inside > 100 > 20 * outside


def test_crop_leaves_cold_what_it_cut_off():
    heat = spread(np.ones((7, 7), np.float32), (90, 30), "crop")
    np.testing.assert_array_equal(np.flatnonzero(heat.any(axis=0)), np.arange(30, 60))
    assert spread(np.ones((7, 7), np.float32), (90, 30), "pad").min() == pytest.approx(1)


def test_hotter_is_brighter_and_the_cold_photo_stays_visible():
    luminance = _HEAT @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(np.maximum.accumulate(luminance)) >= 0).all()
    assert luminance[-1] > 240 > 10 > luminance[0]
    photo = Image.fromarray(np.full((20, 20, 3), (90, 120, 200), np.uint8))
    heat = np.zeros((20, 20), np.float32)
    cold = np.asarray(overlay(photo, heat))
    assert (cold == cold[0, 0]).all()
    assert cold[0, 0].argmax() == 2
    heat[5, 7] = 1e-9
    drawn = np.asarray(overlay(photo, heat)).astype(int)
    assert drawn[5, 7].sum() > cold[5, 7].sum() + 100
    white = np.asarray(overlay(Image.new("RGB", photo.size, "white"), heat)).astype(int)
    assert (white[5, 7] > drawn[5, 7]).any(), "the photo shows through the greatest heat"
    drawn[5, 7] = cold[5, 7]
    np.testing.assert_array_equal(drawn, cold)
    assert (peak(heat), peak(0 * heat)) == ((7, 5), None)


def test_a_grid_shows_the_most_active_channels_each_scaled_by_itself():
    maps = np.zeros((2, 2, 3), np.float32)
    maps[0, 0, 1], maps[0, 1, 2] = 5, -7  # a bright one, and a dark one that is more active
    grid = np.asarray(maps_grid(maps, 2, "").convert("L"))
    flat = np.asarray(maps_grid(np.zeros((2, 2, 1)), 9, "").convert("L"))
    assert grid.shape[1] == 2 * flat.shape[1] - 14
    dark, bright = grid[14:126, 14:126], grid[14:126, 140:252]
    np.testing.assert_array_equal(dark[::56, ::56], [[255, 0], [255, 255]])
    np.testing.assert_array_equal(bright[::56, ::56], [[255, 0], [0, 0]])
    assert (flat[14:126, 14:126] == 0).all()
    large = np.random.default_rng(0).random((300, 300, 70)).astype(np.float32)
    assert maps_grid(large, 64, "title").width == 8 * (112 + 14) + 14


def test_percent_never_rounds_up_to_certainty():
    assert [percent(share) for share in (0.5, 0.999, 0.99996, 1)] == [
        "50\u00a0%",
        "99.9\u00a0%",
        *["over 99.99\u00a0%"] * 2,
    ]


# The command


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> tuple[Path, Path]:
    """A run folder and its photos, wider than high, resized by cropping."""
    folder = tmp_path_factory.mktemp("trained")
    for place in ("train", "validation", "test"):
        for name, color in (("apples", (200, 60, 50)), ("plums", (70, 60, 160))):
            for i in range(6):
                paint(
                    folder / "photos" / place / name / f"{i}.png",
                    color,
                    zlib.crc32(f"{place}/{name}/{i}".encode()),
                    (90, 60),
                )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FINETUNE_CACHE", str(folder / "cache"))
        values = {"data": str(folder / "photos"), "weights": "random", "image_size": 64}
        values |= {"strategy": "cached-features", "resize": "crop"}
        train(values, out=folder / "run")
    return folder / "run", folder / "photos"


@pytest.fixture
def classifier(trained) -> Classifier:
    return Classifier.open(trained[0])


def test_tensorflow_is_loaded_quietly_before_anything_else_imports_it(
    classifier, trained, monkeypatch
):
    late = "finetune.evaluation.gradcam"
    monkeypatch.delitem(sys.modules, late)
    monkeypatch.setattr("finetune.commands.explain.load_keras", lambda: sys.modules[late])
    with pytest.raises(KeyError, match="gradcam"):
        explain(classifier, trained[1], out="nowhere")


def pixels(path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))


def test_a_photo_is_explained_at_its_own_size_however_it_is_turned(classifier, trained, tmp_path):
    upright = Image.open(trained[1] / "test/plums/0.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png", exif=exif)
    upright.save(tmp_path / "upright.png")
    files = [tmp_path / "upright.png", tmp_path / "turned.png"]
    layers = ["block4_conv3", "block5_conv3"]
    found = explain(
        classifier,
        files,
        layers=layers,
        class_name="apples",
        maps_of=["block1_conv1"],
        out=tmp_path / "out",
    )
    first, second = found["photos"]
    assert (first["file"], first["class"]) == (str(files[0]), "apples")
    assert first["probability"] == pytest.approx(second["probability"])
    for layer in layers:
        name = f"upright.{layer}.apples.png"
        assert first["layers"][layer]["overlay"] == str(tmp_path / "out" / name)
        drawn = pixels(tmp_path / "out" / name)
        assert drawn.shape == (60, 90, 3)
        np.testing.assert_array_equal(drawn, pixels(second["layers"][layer]["overlay"]))
        if place := first["layers"][layer]["peak"]:
            assert 15 <= place[0] < 75, (
                "outside of the square that the network saw there is no heat"
            )
    assert first["feature_maps"] == {
        "block1_conv1": str(tmp_path / "out/upright.block1_conv1.maps.png")
    }
    assert pixels(first["feature_maps"]["block1_conv1"]).shape[1] == 8 * (112 + 14) + 14
    assert found["contact"] == [str(tmp_path / "out/contact.png")]
    assert found["bad"] == []


def test_folders_pages_and_equal_names(classifier, trained, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / ".contact.png.x1.tmp").write_text("of a writer that was killed")
    found = explain(classifier, [trained[1] / "test"], precision="float32", out=out)
    assert not list(out.glob("*.tmp"))
    assert len(found["photos"]) == 12
    assert found["contact"] == [
        str(tmp_path / "out" / name) for name in ("contact.png", "contact-2.png")
    ]
    heights = [pixels(page).shape[0] for page in found["contact"]]
    assert heights[0] > 4 * heights[1]
    drawn = {row["layers"]["block5_pool"]["overlay"] for row in found["photos"]}
    assert len(drawn) == 12, "apples/0.png and plums/0.png have pictures of their own"
    assert {Path(file).name.split(".")[0] for file in drawn} == {
        *"012345",
        *(f"{i}-2" for i in range(6)),
    }
    predicted = classifier.model.predict(
        np.stack([decode(Path(row["file"]).read_bytes(), 64, "crop") for row in found["photos"]]),
        verbose=0,
    )
    assert [row["class"] for row in found["photos"]] == [
        ("apples", "plums")[i] for i in predicted.argmax(axis=1)
    ]
    np.testing.assert_allclose(
        [row["probability"] for row in found["photos"]], predicted.max(axis=1), atol=1e-5
    )


def test_names_as_long_as_a_file_system_allows(classifier, trained, tmp_path):
    (tmp_path / "photos").mkdir()
    for end in "ab":
        copied = tmp_path / "photos" / f"{'ä' * 110}{end}.png"
        shutil.copy(trained[1] / "test/plums/0.png", copied)
    found = explain(classifier, [tmp_path / "photos"], precision="float32", out=tmp_path / "out")
    drawn = [picture for row in found["photos"] for picture in row["layers"].values()]
    assert len({row["overlay"] for row in drawn}) == 2


def test_nothing_is_written_for_a_wrong_question(classifier, trained, tmp_path):
    photo, out = trained[1] / "test/plums/0.png", tmp_path / "out"
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no photos in .*empty"):
        explain(classifier, [tmp_path / "empty"], out=out)
    with pytest.raises(UsageError, match="knows no class 'pears'"):
        explain(classifier, [photo], class_name="pears", out=out)
    with pytest.raises(UsageError, match="no layer 'block9'"):
        explain(classifier, [photo], layers=["block9"], out=out)
    with pytest.raises(UsageError, match="'gap' has no maps"):
        explain(classifier, [photo], out=out, maps_of=["gap"])
    assert not out.exists()


def test_the_command_goes_on_past_a_bad_photo_and_says_so_at_the_end(trained, tmp_path):
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"no picture")
    photo = trained[1] / "test/plums/0.png"
    done = finetune_here(
        "explain",
        trained[0],
        bad,
        photo,
        "--layer",
        "block5_conv3",
        "--out",
        tmp_path / "out",
        "--json",
    )
    assert done.returncode == 3
    found = json.loads(done.stdout)
    assert set(found) == {"run", "out", "contact", "photos", "bad"}
    assert (found["run"], found["out"]) == (str(trained[0]), str(tmp_path / "out"))
    assert [(row["file"], "UnidentifiedImageError" in row["reason"]) for row in found["bad"]] == [
        (str(bad), True)
    ]
    (row,) = found["photos"]
    assert set(row) == {"file", "class", "probability", "layers", "feature_maps"}
    assert set(row["layers"]["block5_conv3"]) == {"overlay", "peak"}
    assert Path(row["layers"]["block5_conv3"]["overlay"]).exists()
    assert Path(*found["contact"]).exists()
    assert "1 of 2 photos could not be decoded" in done.stderr
    assert "structure of `inputs`" not in done.stderr


# The pointing game


@pytest.mark.slow  # half a minute
def test_real_weights_look_at_the_animal(vgg16_file, tmp_path):
    """Zhang et al., ECCV 2016. More pictures, layers and heads: benchmarks/pointing_game.py."""
    write_sketches(tmp_path / "sketches", counts={"train": 100, "validation": 30, "test": 2})
    values = {"data": str(tmp_path / "sketches"), "weights": str(vgg16_file), "image_size": 128}
    train({**values, "strategy": "cached-features"}, out=tmp_path / "run")
    model = Classifier.open(tmp_path / "run").model
    heats, masks = [], []
    for label, animal in enumerate(("cat", "dog")):
        drawn = [draw_with_mask(animal, f"0/test/{animal}/{number}") for number in range(20)]
        batch = np.stack([np.asarray(picture) for picture, _ in drawn])
        heats += list(grad_cam(model, batch, ["block5_conv3"], label)[0])
        masks += [mask for _, mask in drawn]
    places = [peak(spread(heat, (128, 128), "squash")) for heat in heats]
    on_animal = np.array(
        [[bool(place and mask[place[1], place[0]]) for mask in masks] for place in places]
    )
    hits, by_others = on_animal.trace() / 40, (on_animal.sum() - on_animal.trace()) / (40 * 39)
    assert hits > np.mean(masks) + 0.2, "better than anywhere"
    assert hits > by_others + 0.1, "and not because animals stand in the middle"


def test_a_line_end_in_a_file_s_name_spoils_no_picture(classifier, trained, tmp_path):
    photo = tmp_path / "two\nlines.png"
    photo.write_bytes((trained[1] / "test/plums/0.png").read_bytes())
    found = explain(classifier, photo, maps_of=["block1_conv1"], out=tmp_path / "out")
    assert Path(found["photos"][0]["feature_maps"]["block1_conv1"]).exists()
