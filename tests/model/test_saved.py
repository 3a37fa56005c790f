"""Foreign model files: looked at as data, refused with exit code 4, and never unpacked beyond their
own size.
"""

import json
import zipfile
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest

from finetune.errors import DataError, IntegrityError
from finetune.model.base import build_base
from finetune.model.saved import load_model


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    layers = [
        keras.Input((8, 8, 3), dtype="uint8"),
        keras.layers.Rescaling(1 / 255),
        keras.layers.Conv2D(4, 3),
        keras.layers.GlobalAveragePooling2D(),
        keras.layers.Dense(2, activation="softmax"),
    ]
    path = tmp_path_factory.mktemp("saved") / "model.keras"
    keras.Sequential(layers).save(path)
    return path


def rewritten(path: Path, out: Path, compression=zipfile.ZIP_STORED, **members: bytes) -> Path:
    """The archive with some members replaced; `config` is config.json, `weights` the HDF5 file."""
    names = {"config.json": "config", "model.weights.h5": "weights", "metadata.json": "metadata"}
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(out, "w", compression) as new:
        for item in old.infolist():
            new.writestr(item.filename, members.get(names[item.filename], old.read(item)))
    return out


def config(path: Path) -> dict:
    with zipfile.ZipFile(path) as archive:
        return json.loads(archive.read("config.json"))


def weights(path: Path, folder: Path) -> Path:
    with zipfile.ZipFile(path) as archive:
        return Path(archive.extract("model.weights.h5", folder))


def refused(path: Path) -> str:
    with pytest.raises(IntegrityError, match="Nothing was loaded") as caught:
        load_model(path)
    assert caught.value.exit_code == 4
    return str(caught.value)


def test_what_keras_saved_opens(saved, tmp_path):
    model = load_model(saved)
    expected = keras.saving.load_model(saved).get_weights()
    for mine, theirs in zip(model.get_weights(), expected, strict=True):
        np.testing.assert_array_equal(mine, theirs)
    load_model(rewritten(saved, tmp_path / "again.keras"))
    with pytest.raises(DataError, match="does not exist"):
        load_model(tmp_path / "gone.keras")


def test_a_lattice_of_hard_links_is_walked_once(saved, tmp_path):
    """40 groups, each linked twice from the one before: 2^40 paths."""
    file = weights(saved, tmp_path)
    with h5py.File(file, "r+") as h5:
        group = h5.create_group("lattice")
        for _ in range(40):
            below = group.create_group("a")
            group["b"] = below
            group = below
    out = rewritten(saved, tmp_path / "lattice.keras", weights=file.read_bytes())
    load_model(out)  # looked at in no time, and Keras takes no notice of what it does not know


def test_what_unpacks_to_more_than_it_is_is_refused(saved, tmp_path):
    bomb = json.dumps(config(saved) | {"x": " " * 2**22}).encode()
    assert "compressed" in refused(
        rewritten(saved, tmp_path / "zip.keras", zipfile.ZIP_DEFLATED, config=bomb)
    )
    long = json.dumps(config(saved) | {"x": " " * 2**25}).encode()
    assert "allowed: 16,777,216" in refused(rewritten(saved, tmp_path / "l.keras", config=long))
    file = weights(saved, tmp_path)
    with h5py.File(file, "r+") as h5:
        h5.create_dataset("sparse", (2**30,), "float32")
    assert "fewer bytes than numbers" in refused(
        rewritten(saved, tmp_path / "sparse.keras", weights=file.read_bytes())
    )


@pytest.mark.parametrize(("key", "value"), [("units", 10**9), ("filters", 10**7)])
def test_a_layer_larger_than_its_weights_is_refused_before_it_is_made(saved, tmp_path, key, value):
    changed = config(saved)
    for layer in changed["config"]["layers"]:
        if key in layer["config"]:
            layer["config"][key] = value
    path = rewritten(saved, tmp_path / "huge.keras", config=json.dumps(changed).encode())
    assert f"{key} {value}" in refused(path)


def test_layers_that_are_larger_together_than_what_is_stored_are_refused(tmp_path):
    layers = [keras.Input((3,)), keras.layers.Dense(4), keras.layers.Dense(5)]
    keras.Sequential(layers).save(tmp_path / "small.keras")
    changed = config(tmp_path / "small.keras")
    for layer in changed["config"]["layers"][1:]:
        layer["config"]["units"] = 200_000
        layer["build_config"] = None
    file = weights(tmp_path / "small.keras", tmp_path)
    with h5py.File(file, "r+") as h5:
        h5["one"] = np.zeros(200_000, "float32")
    path = rewritten(
        tmp_path / "small.keras",
        tmp_path / "huge.keras",
        config=json.dumps(changed).encode(),
        weights=file.read_bytes(),
    )
    assert "its layers take 40,001,000,000 numbers, and 200,041 are stored" in refused(path)
    with keras.StatelessScope():
        pass  # nothing of it waits to be made


def test_a_model_opens_as_keras_opens_it(tmp_path):
    base = build_base("mobilenet", 32, alpha=0.25)
    x = keras.layers.Dropout(0.5, seed=3)(keras.layers.GlobalAveragePooling2D()(base.output))
    keras.Model(base.input, keras.layers.Dense(2)(x)).save(tmp_path / "model.keras")
    ours = load_model(tmp_path / "model.keras")
    theirs = keras.saving.load_model(tmp_path / "model.keras", compile=False)
    for mine, other in zip(ours.variables, theirs.variables, strict=True):
        assert (mine.name, mine.dtype, mine.trainable) == (other.name, other.dtype, other.trainable)
        np.testing.assert_array_equal(mine.numpy(), other.numpy())


@pytest.mark.parametrize(
    ("layer", "key", "value"),
    [
        (0, "batch_shape", [None, 10**10]),
        (0, "batch_shape", [None, 10**5, 10**5, 3]),
        (1, "build_config", {"input_shape": [None, 10**5, 10**5, 3]}),
    ],
)
def test_a_tensor_larger_than_any_photo_is_refused_before_it_is_made(
    saved, tmp_path, layer, key, value
):
    changed = config(saved)
    place = changed["config"]["layers"][layer]
    (place if key == "build_config" else place["config"])[key] = value
    path = rewritten(saved, tmp_path / "huge.keras", config=json.dumps(changed).encode())
    assert "allowed are 268,435,456 numbers" in refused(path)


def test_links_and_code_are_refused(saved, tmp_path):
    file = weights(saved, tmp_path)
    with h5py.File(file, "r+") as h5:
        h5["out"] = h5py.ExternalLink("/etc/hostname", "/")
    link = rewritten(saved, tmp_path / "link.keras", weights=file.read_bytes())
    assert "link to another file" in refused(link)
    changed = config(saved)
    changed["config"]["layers"].append({"module": "keras.layers", "class_name": "Lambda"})
    code = rewritten(saved, tmp_path / "code.keras", config=json.dumps(changed).encode())
    assert "keras.layers.Lambda" in refused(code)
    deep = b"[" * 100_000 + b"]" * 100_000
    refused(rewritten(saved, tmp_path / "deep.keras", config=deep))
    (tmp_path / "text.keras").write_text("text")
    refused(tmp_path / "text.keras")


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("convnexttiny", 32),
        ("mobilenetv3small", 32),
        pytest.param("inceptionresnetv2", 75, marks=pytest.mark.slow),
    ],
)
def test_what_keras_applications_are_built_of_opens(name, size, tmp_path):
    base = build_base(name, size)
    base.save(tmp_path / "model.keras")
    model = load_model(tmp_path / "model.keras")
    assert [layer.name for layer in model.layers] == [layer.name for layer in base.layers]
    changed = config(tmp_path / "model.keras")
    changed["config"]["layers"][-1] |= {"module": "keras.src.ops.numpy", "class_name": "Where"}
    other = rewritten(
        tmp_path / "model.keras", tmp_path / "x.keras", config=json.dumps(changed).encode()
    )
    assert "keras.src.ops.numpy.Where" in refused(other)
