"""14 files that are no weights of VGG16, each refused for another reason."""

import os
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np

BLOCKS = ((2, 64), (2, 128), (3, 256), (3, 512), (3, 512))


def layers() -> dict[str, tuple[tuple[int, ...], tuple[int, ...]]]:
    """Name -> shapes of kernel and bias, of VGG16's convolutions."""
    found, depth = {}, 3
    for block, (count, width) in enumerate(BLOCKS, 1):
        for number in range(1, count + 1):
            found[f"block{block}_conv{number}"] = ((3, 3, depth, width), (width,))
            depth = width
    return found


def legacy(path: Path, change: Callable[[h5py.File], None] = lambda file: None) -> None:
    """Weights of zeros in Keras's legacy format, which take no room, and then a change."""
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = np.array(list(layers()), dtype="S")
        for name, shapes in layers().items():
            group = file.create_group(name)
            group.attrs["weight_names"] = np.array(["kernel", "bias"], dtype="S")
            for weight, shape in zip(("kernel", "bias"), shapes, strict=True):
                group.create_dataset(weight, shape, "f4", chunks=True)
        change(file)


def swapped(make: Callable[[h5py.Group], None]) -> Callable[[Path], None]:
    """A file whose first kernel is made otherwise."""

    def change(file: h5py.File) -> None:
        del file["block1_conv1"]["kernel"]
        make(file["block1_conv1"])

    return lambda path: legacy(path, change)


def dataset(shape: tuple[int, ...], dtype: str, value: object = None) -> Callable[[Path], None]:
    """A file whose first kernel has another shape, type or value; room is taken by no zeros."""
    fill = {} if value is None else {"fillvalue": value}
    return swapped(lambda group: group.create_dataset("kernel", shape, dtype, chunks=True, **fill))


def other_file(path: Path) -> str:
    """Another weight file beside it: a link there is a link out."""
    target = path.with_name("other.h5")
    legacy(target)
    return str(target)


def linked_dataset(path: Path) -> None:
    """The kernel is a link into another file."""
    link = h5py.ExternalLink(other_file(path), "block1_conv1/kernel")
    swapped(lambda group: group.__setitem__("kernel", link))(path)


def linked_group(path: Path) -> None:
    """The layer is a link into another file."""
    link = h5py.ExternalLink(other_file(path), "block1_conv1")

    def change(file: h5py.File) -> None:
        del file["block1_conv1"]
        file["block1_conv1"] = link

    legacy(path, change)


def outside(path: Path) -> None:
    """The kernel's bytes lie in another file."""
    stored = [(other_file(path), 0, h5py.h5f.UNLIMITED)]
    shape = (3, 3, 3, 64)
    swapped(lambda group: group.create_dataset("kernel", shape, "f4", external=stored))(path)


def virtual(path: Path) -> None:
    """The kernel is a view of another file."""
    layout = h5py.VirtualLayout((3, 3, 3, 64), "f4")
    layout[:] = h5py.VirtualSource(other_file(path), "block1_conv1/kernel", (3, 3, 3, 64))
    swapped(lambda group: group.create_virtual_dataset("kernel", layout))(path)


def cut(path: Path) -> None:
    """The end is missing."""
    legacy(path)
    os.truncate(path, path.stat().st_size // 2)


def circle(path: Path) -> None:
    """The kernel is a link to itself."""
    swapped(lambda group: group.__setitem__("kernel", h5py.SoftLink("/block1_conv1/kernel")))(path)


SHAPE = (3, 3, 3, 64)
HOSTILE: dict[str, Callable[[Path], None]] = {
    "text": lambda path: path.write_text("no weights"),
    "empty": lambda path: h5py.File(path, "w").close(),
    "cut short": cut,
    "a linked dataset": linked_dataset,
    "a linked group": linked_group,
    "bytes outside": outside,
    "a virtual dataset": virtual,
    "a link to itself": circle,
    "3 GB of nothing": dataset((3, 3, 3, 2**23 + 2**22), "f8"),
    "another shape": dataset((3, 3, 3, 63), "f4"),
    "complex numbers": dataset(SHAPE, "c8", 1j),
    "no numbers": dataset(SHAPE, "f4", np.nan),
    "text for numbers": dataset(SHAPE, "S8"),
    "a layer missing": lambda path: legacy(path, lambda file: file.__delitem__("block3_conv1")),
}
