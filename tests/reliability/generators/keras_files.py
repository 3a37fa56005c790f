"""42 `.keras` files that are no plain model: code in them, links out of them, bombs, and damage."""

import io
import json
import os
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np

SECRET = "secret.h5"  # a file of this machine that weights must not be read from
Members = dict[str, bytes]


def plain(folder: Path) -> Members:
    """The members of a sound model: 32 x 32 photos, a dense layer of two classes."""
    import keras

    layers = [keras.Input((32, 32, 3), dtype="uint8"), keras.layers.Rescaling(1 / 255)]
    layers += [keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(2, activation="softmax")]
    keras.Sequential(layers).save(folder / "plain.keras")
    with zipfile.ZipFile(folder / "plain.keras") as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def packed(
    members: Members,
    *extra: tuple[zipfile.ZipInfo | str, bytes],
    compression: int = zipfile.ZIP_STORED,
) -> bytes:
    """An archive of members, and of more under names that may stand twice; Keras deflates none."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, data in [*members.items(), *extra]:
            archive.writestr(name, data)
    return file.getvalue()


def config(members: Members, change: Callable[[dict], object]) -> bytes:
    """The model with another configuration."""
    content = json.loads(members["config.json"])
    change(content)
    return packed({**members, "config.json": json.dumps(content).encode()})


def layer(class_name: str, module: str = "keras.layers", **settings: object) -> dict:
    """A layer as Keras writes it."""
    return {"class_name": class_name, "module": module, "config": {"name": "x", **settings},
            "registered_name": None}  # fmt: skip


LAMBDA = {"class_name": "__lambda__", "config": {"value": "4wEAAAA=", "defaults": None}}


def added(part: dict) -> Callable[[Members], bytes]:
    """The model with one layer more."""
    return lambda members: config(members, lambda c: c["config"]["layers"].append(part))


def dense(**settings: object) -> Callable[[Members], bytes]:
    """The model with other settings of its last layer."""
    return lambda m: config(m, lambda c: c["config"]["layers"][-1]["config"].update(settings))


def shown(*sides: int) -> Callable[[Members], bytes]:
    """The model with photos of another shape."""
    shape = [None, *sides]
    return lambda m: config(
        m, lambda c: c["config"]["layers"][0]["config"].update(batch_shape=shape)
    )


def wide(members: Members) -> bytes:
    """Two dense layers of 200,000 units, one above the other, beside a stored vector as long."""

    def change(content: dict) -> None:
        layers = content["config"]["layers"]
        layers.append(json.loads(json.dumps(layers[-1])))
        layers[-1]["config"]["name"] = "more"
        for part in layers[-2:]:
            part["config"]["units"] = 200_000
            part["build_config"] = None

    vector = weights(lambda file: file.__setitem__("vector", np.zeros(200_000, "f4")))
    with zipfile.ZipFile(io.BytesIO(vector(members))) as archive:
        return config({name: archive.read(name) for name in archive.namelist()}, change)


def text(content: bytes) -> Callable[[Members], bytes]:
    """The model with bytes for its configuration."""
    return lambda members: packed({**members, "config.json": content})


def extra(name: zipfile.ZipInfo | str, data: bytes = b"x") -> Callable[[Members], bytes]:
    """The model with one member more."""
    return lambda members: packed(members, (name, data))


def without(name: str) -> Callable[[Members], bytes]:
    """The model with one member less."""
    return lambda members: packed({key: members[key] for key in members if key != name})


def weights(change: Callable[[h5py.File], object]) -> Callable[[Members], bytes]:
    """The model with other weights."""

    def made(members: Members) -> bytes:
        file = io.BytesIO(members["model.weights.h5"])
        with h5py.File(file, "r+") as opened:
            change(opened)
        return packed({**members, "model.weights.h5": file.getvalue()})

    return made


def kernel(make: Callable[[h5py.Group], object]) -> Callable[[Members], bytes]:
    """The model with another kernel."""

    def change(file: h5py.File) -> None:
        group = file["layers/dense/vars"]
        del group["0"]
        make(group)

    return weights(change)


def lattice(file: h5py.File) -> None:
    """40 groups, each linked twice in the one before: 2^39 paths."""
    above = file
    for _ in range(40):
        below = above.create_group("a")
        above["b"] = below
        above = below


def link() -> zipfile.ZipInfo:
    """The name of a member that is a symbolic link."""
    member = zipfile.ZipInfo("assets")
    member.create_system = 3
    member.external_attr = (stat.S_IFLNK | 0o777) << 16
    return member


def bomb(name: str, size: int) -> Callable[[Members], bytes]:
    """The model with a member that unpacks to so many bytes of blanks."""
    return lambda members: packed(
        {**members, name: b" " * size + members[name]}, compression=zipfile.ZIP_DEFLATED
    )


def marker(change: Callable[[bytes], bytes]) -> Callable[[Members], bytes]:
    """The archive itself changed."""
    return lambda members: change(packed(members))


HIDDEN = layer("Lambda", function=LAMBDA)
RUN = {"class_name": "system", "module": "os", "config": {"command": "touch owned"}}
FETCH = {
    "class_name": "get_file",
    "module": "keras.utils",
    "config": {"origin": "http://127.0.0.1:9/x"},
}

HOSTILE: dict[str, Callable[[Members], bytes]] = {
    "a lambda layer": added(layer("Lambda", function=LAMBDA)),
    "a lambda in a wrapper": added(layer("TimeDistributed", layer=HIDDEN)),
    "a saved model's layer": added(layer("TFSMLayer", filepath="/tmp")),
    "a torch module": added(layer("TorchModuleWrapper", module="UEsDBA==")),
    "a jax layer": added(layer("JaxLayer", call_fn=LAMBDA)),
    "a flax layer": added(layer("FlaxLayer", module=LAMBDA)),
    "a system call": added({**RUN, "registered_name": None}),
    "a built-in": added(layer("exec", module="builtins")),
    "a function of operator": added(layer("attrgetter", module="operator")),
    "a download": added(FETCH),
    "a registered class": added({**layer("Dense"), "registered_name": "mine>Dense"}),
    "a module of ours": added(layer("Recipe", module="finetune.recipe.recipe")),
    "an initializer that calls": dense(kernel_initializer=RUN),
    "a regularizer that calls": dense(kernel_regularizer=RUN),
    "an activation that calls": dense(activation=RUN),
    "a lambda as activation": dense(activation=LAMBDA),
    "a billion units": dense(units=10**9),
    "units beyond 64 bits": dense(units=10**30),
    "ten billion features": shown(10**10),
    "photos of 30 GB": shown(10**5, 10**5, 3),
    "two wide layers": wide,
    "negative units": dense(units=-1),
    "text for units": dense(units="many"),
    "a missing configuration": without("config.json"),
    "missing weights": without("model.weights.h5"),
    "no configuration": text(b"not json"),
    "an empty configuration": text(b"null"),
    "brackets without end": text(b"[" * 100_000 + b"]" * 100_000),
    "a bomb of a configuration": bomb("config.json", 400 * 2**20),
    "a bomb of weights": bomb("model.weights.h5", 600 * 2**20),
    "one member more": extra("assets/run.py"),
    "a member outside": extra("../../owned"),
    "a member twice": extra("config.json", b"{}"),
    "a link as member": extra(link(), b"/etc"),
    "no archive": marker(lambda data: b"no archive"),
    "nothing": marker(lambda data: b""),
    "cut short": marker(lambda data: data[: len(data) // 2]),
    "a dataset outside": kernel(lambda g: g.__setitem__("0", h5py.ExternalLink(SECRET, "0"))),
    "a virtual dataset": kernel(lambda g: g.create_virtual_dataset("0", _layout())),
    "bytes outside": kernel(lambda g: g.create_dataset("0", (3, 2), "f4", external=SECRET)),
    "a lattice of links": weights(lattice),
    "no numbers": kernel(lambda g: g.create_dataset("0", data=np.full((3, 2), np.nan, "f4"))),
}  # fmt: skip


def _layout() -> h5py.VirtualLayout:
    layout = h5py.VirtualLayout((3, 2), "f4")
    layout[:] = h5py.VirtualSource(SECRET, "0", (3, 2))
    return layout


def secret(folder: Path) -> None:
    """Write the file that hostile weights ask for."""
    with h5py.File(folder / SECRET, "w") as file:
        file["0"] = np.ones((3, 2), "f4")
    os.chmod(folder / SECRET, 0o600)
