"""Weights: every source verified before anything is set."""

import importlib.metadata
import shutil
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest
from conftest import NETWORKS

from finetune.errors import DataError, IntegrityError, UsageError
from finetune.model import weights
from finetune.model.backbones import BACKBONES
from finetune.model.base import build_base
from finetune.model.hdf5 import check_hdf5
from finetune.model.weight_files import check_shapes, layer_digest, read_hdf5, weights_digest
from finetune.model.weights import base_arrays, load_weights


@pytest.fixture(scope="module")
def vgg16() -> keras.Model:
    return build_base("vgg16", 32)


@pytest.fixture
def no_network(monkeypatch, tmp_path):
    """Keras's cache is empty and its server refuses at once: a closed port on loopback."""
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.setattr(keras.utils, "get_file", _get_file_from_closed_port(tmp_path))
    monkeypatch.delenv("FINETUNE_WEIGHTS_DIR", raising=False)


def _get_file_from_closed_port(cache: Path):
    real = keras.utils.get_file
    return lambda name, url, **rest: real(
        name, "http://127.0.0.1:9/" + name, cache_dir=str(cache), **rest
    )


def forge(source: Path, target: Path, layer: str) -> Path:
    """A copy of a weight file in which one bias of one layer differs in its last digit."""
    shutil.copy(source, target)
    target.chmod(0o644)
    with h5py.File(target, "r+") as file:
        bias = file[layer][file[layer].attrs["weight_names"][1]]
        bias[0] = np.nextafter(bias[0], np.float32(1))
    return target


def test_the_real_file_has_the_published_values(vgg16, vgg16_file, monkeypatch):
    monkeypatch.setenv("FINETUNE_WEIGHTS_DIR", str(vgg16_file.parent))
    loaded = load_weights(vgg16, "vgg16", "imagenet")
    bias = vgg16.get_layer("block5_conv3").get_weights()[1]
    values = [bias.mean(), bias.std(), bias.min(), bias.max()]
    np.testing.assert_allclose(values, [0.14986369, 0.4928213, -0.50036746, 9.431553], rtol=1e-6)
    assert loaded.source == str(vgg16_file)
    assert loaded.digest == weights_digest(base_arrays(vgg16))


def test_a_forged_file_is_named_by_its_layer_and_nothing_is_loaded(
    vgg16, vgg16_file, tmp_path, monkeypatch
):
    forge(vgg16_file, tmp_path / vgg16_file.name, "block3_conv2")
    monkeypatch.setenv("FINETUNE_WEIGHTS_DIR", str(tmp_path))
    before = weights_digest(base_arrays(vgg16))
    with pytest.raises(IntegrityError, match="1 of 13 layers differ, first block3_conv2") as caught:
        load_weights(vgg16, "vgg16", "imagenet")
    assert caught.value.exit_code == 4
    assert weights_digest(base_arrays(vgg16)) == before


def test_the_offline_package_carries_the_same_weights(vgg16, no_network):
    try:
        importlib.metadata.distribution(weights.OFFLINE_PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        pytest.skip(f"the package {weights.OFFLINE_PACKAGE} (extra offline) is not installed")
    loaded = load_weights(vgg16, "vgg16", "imagenet")
    assert loaded.source.startswith(weights.OFFLINE_PACKAGE)
    assert {n: layer_digest(a) for n, a in base_arrays(vgg16).items()} == BACKBONES[
        "vgg16"
    ].layer_digests


@pytest.mark.parametrize("name", ["densenet121"])
def test_no_route_is_said_with_three_ways_out(name, no_network):
    base = build_base(name, 32)
    with pytest.raises(
        DataError, match="Tried: .*FINETUNE_WEIGHTS_DIR is not set.*download failed.*Three ways out"
    ) as caught:
        load_weights(base, name, "imagenet")
    assert BACKBONES[name].weights_file in str(caught.value)


@pytest.mark.parametrize("name", NETWORKS)
def test_both_hdf5_formats_are_read_as_data(name, tmp_path):
    base = keras.applications.__dict__[BACKBONES[name].builder](
        include_top=False, weights=None, input_shape=(32, 32, 3)
    )
    base.save_weights(tmp_path / "new.weights.h5")
    with h5py.File(tmp_path / "legacy.h5", "w") as file:
        file.attrs["layer_names"] = [
            layer.name.replace("conv1_conv", "conv1/conv") for layer in base.layers
        ]
        for layer in base.layers:
            group = file.create_group(layer.name.replace("conv1_conv", "conv1/conv"))
            names = [f"{layer.name}/{v.name}:0" for v in layer.weights]
            group.attrs["weight_names"] = np.array(names, dtype="S")
            for weight_name, value in zip(names, layer.get_weights(), strict=True):
                group[weight_name] = value
    expected = {layer.name: layer.get_weights() for layer in base.layers if layer.weights}
    for file_name in ("new.weights.h5", "legacy.h5"):
        ours = build_base(name, 32)
        loaded = load_weights(ours, name, str(tmp_path / file_name))
        assert loaded.digest == weights_digest(expected), file_name


def test_wrong_files_are_integrity_errors(vgg16, tmp_path):
    (tmp_path / "text.h5").write_text("no weights")
    with pytest.raises(IntegrityError, match="no weight file that can be read"):
        load_weights(vgg16, "vgg16", str(tmp_path / "text.h5"))
    h5py.File(tmp_path / "empty.h5", "w").close()
    with pytest.raises(IntegrityError, match="neither Keras's legacy"):
        load_weights(vgg16, "vgg16", str(tmp_path / "empty.h5"))
    keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)]).save_weights(
        tmp_path / "dense.weights.h5"
    )
    with pytest.raises(IntegrityError, match=r"Nothing was loaded"):
        load_weights(vgg16, "vgg16", str(tmp_path / "dense.weights.h5"))


def test_wrong_shapes_name_the_layers(vgg16, tmp_path):
    arrays = {n: [v.copy() for v in a] for n, a in base_arrays(vgg16).items()}
    arrays["block4_conv2"][0] = arrays["block4_conv2"][0][..., :-1]
    with pytest.raises(IntegrityError, match=r"1 layers differ, first block4_conv2: expected"):
        check_shapes(vgg16, arrays, "test")
    arrays = base_arrays(vgg16)
    arrays["block1_conv1"][1][0] = np.nan
    with pytest.raises(IntegrityError, match="NaN or infinity in block1_conv1"):
        weights._check_finite(arrays, "test")


def legacy(path: Path) -> h5py.File:
    """The beginning of a legacy weight file of one layer."""
    file = h5py.File(path, "w")
    file.attrs["layer_names"] = ["block1_conv1"]
    file.create_group("block1_conv1").attrs["weight_names"] = ["kernel", "bias"]
    return file


def hostile_files(folder: Path) -> dict[str, Path]:
    """Files that would make HDF5 read other files, fill the memory, or load something else than
    what is there.
    """
    with h5py.File(folder / "secret.h5", "w") as file:
        file["layer/kernel"] = np.zeros((3, 3, 3, 64), np.float32)
        file["layer/bias"] = np.zeros(64, np.float32)
        file["layer"].attrs["weight_names"] = ["kernel", "bias"]
    found = {}
    for name in (
        "link",
        "group link",
        "soft link",
        "external",
        "virtual",
        "sparse",
        "complex",
        "text",
    ):
        path = folder / f"{name}.h5"
        with legacy(path) as file:
            group = file["block1_conv1"]
            if name != "group link":
                group["bias"] = np.zeros(64, np.float32)
            if name == "link":
                group["kernel"] = h5py.ExternalLink("secret.h5", "layer/kernel")
            elif name == "group link":
                del file["block1_conv1"]
                file["block1_conv1"] = h5py.ExternalLink("secret.h5", "layer")
            elif name == "soft link":
                group["kernel"] = h5py.SoftLink("/block1_conv1/bias")
            elif name == "external":
                where = [(str(folder / "secret.h5"), 0, h5py.h5f.UNLIMITED)]
                group.create_dataset("kernel", (3, 3, 3, 64), "f4", external=where)
            elif name == "virtual":
                layout = h5py.VirtualLayout((3, 3, 3, 64), "f4")
                layout[:] = h5py.VirtualSource("secret.h5", "layer/kernel", (3, 3, 3, 64))
                group.create_virtual_dataset("kernel", layout)
            elif name == "sparse":
                group.create_dataset("kernel", (3, 3, 3, 2**25), "f4", chunks=(1, 1, 1, 2**16))
            elif name == "complex":
                group["kernel"] = np.zeros((3, 3, 3, 64), np.complex64)
            else:
                group["kernel"] = np.full((3, 3, 3, 64), b"1.0")
        found[name] = path
    return found


def test_hostile_files_are_refused_before_any_data_is_read(vgg16, tmp_path, monkeypatch):
    def read(*_):
        pytest.fail("data were read")

    files = hostile_files(tmp_path)
    monkeypatch.setattr(h5py.Dataset, "__getitem__", read)
    for name, path in files.items():
        with pytest.raises(IntegrityError) as caught:
            read_hdf5(path, vgg16)
        assert str(path) in str(caught.value), name


def test_a_lattice_of_hard_links_is_walked_once(tmp_path):
    """40 groups, each twice in the one above: 2^40 paths."""
    with h5py.File(tmp_path / "lattice.h5", "w") as file:
        group = file
        for _ in range(40):
            below = group.create_group("a")
            group["b"] = below
            group = below
        file["c"] = np.zeros(4, np.float32)
        check_hdf5(file, largest=16)
        with pytest.raises(ValueError, match="16 bytes, at most 15"):
            check_hdf5(file, largest=15)


def test_a_wrong_file_in_kerass_cache_is_an_integrity_error(tmp_path, monkeypatch):
    monkeypatch.delenv("FINETUNE_WEIGHTS_DIR", raising=False)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    planted = tmp_path / "models" / BACKBONES["resnet50"].weights_file
    planted.parent.mkdir()
    planted.write_bytes(b"not what Keras pins")
    with pytest.raises(IntegrityError, match=f"{planted}.*Keras pins.*delete the file") as caught:
        load_weights(build_base("resnet50", 32), "resnet50", "imagenet")
    assert caught.value.exit_code == 4


def test_random_weights_are_the_same_in_every_run_and_other_words_are_refused(vgg16):
    bases = build_base("vgg16", 32), build_base("vgg16", 64)
    assert load_weights(bases[0], "vgg16", "random") == load_weights(bases[1], "vgg16", "random")
    with pytest.raises(
        UsageError, match="weights is 'imagnet'; allowed are imagenet, random, the path"
    ):
        load_weights(vgg16, "vgg16", "imagnet")


def test_a_foreign_file_under_kerass_name_fails_its_md5(tmp_path, monkeypatch):
    monkeypatch.setenv("FINETUNE_WEIGHTS_DIR", str(tmp_path))
    base = build_base("resnet50", 32)
    base.save_weights(tmp_path / "x.weights.h5")
    (tmp_path / "x.weights.h5").rename(tmp_path / BACKBONES["resnet50"].weights_file)
    with pytest.raises(
        IntegrityError, match="its md5 is .*, Keras pins 4d473c1dd8becc155b73f8504c6f6626"
    ):
        load_weights(base, "resnet50", "imagenet")
