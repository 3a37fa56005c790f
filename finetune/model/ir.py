"""Networks as OpenVINO's intermediate representation (IR): made once, kept with their digests,
verified when read.

    <folder>/manifest.json     what the network is a function of, its cuts, and the sha256 of both
    files
             <digest>.xml      the graph
             <digest>.bin      its weights

An artefact exists from the moment its manifest is there. Nothing here imports Keras or TensorFlow,
so that a command can run a stored network at once; ``convert`` takes a Keras model and needs both.
"""

import functools
import hashlib
import importlib.metadata
import json
import os
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from finetune.backend import load_openvino
from finetune.disk import library_writes, space_reported
from finetune.errors import IntegrityError
from finetune.files import LOCK, READ_ONLY, commit, commit_json, writing

if TYPE_CHECKING:
    import keras

FORMAT_VERSION = 1
_MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Artefact:
    """A network that is kept.

    Attributes:
        folder: where it lies.
        fields: JSON values that it is a function of.
        cuts: names of its outputs, in order.
        sha256: file name -> digest, of the graph and the weights.
        made: seconds since the epoch.
    """

    folder: Path
    fields: dict[str, Any]
    cuts: tuple[str, ...]
    sha256: dict[str, str]
    made: float

    @property
    def digest(self) -> str:
        """sha256 over graph and weights: what results of a quantized trunk depend on."""
        return hashlib.sha256("".join(sorted(self.sha256.values())).encode()).hexdigest()

    @property
    def size(self) -> int:
        """Bytes of both files, as far as they are there."""
        files = [self.folder / name for name in self.sha256]
        return sum(file.stat().st_size for file in files if file.exists())

    def graph(self, cuts: Sequence[str] = ()) -> Any:
        """Read the network from exactly the bytes that were verified.

        Args:
            cuts: the outputs that are wanted, in this order; empty for all.

        Returns:
            ``openvino.Model``.

        Raises:
            IntegrityError: a file is missing, or is not the one that was written.
        """
        content = {
            Path(name).suffix: _verified(self.folder / name, sha)
            for name, sha in self.sha256.items()
        }
        graph = load_openvino().Core().read_model(content[".xml"], content[".bin"])
        return select(graph, self.cuts, cuts or self.cuts)


def _verified(path: Path, sha256: str) -> bytes:
    content = path.read_bytes() if path.is_file() else b""
    if hashlib.sha256(content).hexdigest() != sha256:
        raise IntegrityError(
            f"{path} is missing or damaged: its sha256 is not the one in {_MANIFEST} beside it. "
            f"Remove the folder {path.parent}; it is made anew when it is needed."
        )
    return content


def select(graph: Any, names: Sequence[str], wanted: Sequence[str]) -> Any:
    """The part of a graph that leads to the wanted ones of its outputs; ``names`` are those of all
    outputs, in order.
    """
    results = dict(zip(names, graph.get_results(), strict=True))
    return load_openvino().Model([results[name] for name in wanted], graph.get_parameters())


def convert(model: "keras.Model") -> Any:
    """A Keras model with one input and any number of outputs as ``openvino.Model``, outputs in
    Keras's order.

    OpenVINO itself sorts several outputs by the names of their tensors.
    """
    ov = load_openvino()
    with (
        warnings.catch_warnings()
    ):  # OpenVINO passes Keras a tuple of one input, which Keras warns of
        warnings.filterwarnings("ignore", "The structure of `inputs`")
        graph = ov.convert_model(model)
    if len(model.outputs) == 1:
        return graph
    names = [output.any_name for output in graph.outputs]
    return select(graph, names, [tensor.name for tensor in model.outputs])


def mirrored(graph: Any) -> Any:
    """A classifier's graph that gives the mean over a photo and its mirror image, which pass as one
    batch: what ``model.mirror.mirrored`` is to Keras.
    """
    ops = load_openvino().opset13
    (photo,) = graph.get_parameters()
    (result,) = graph.get_results()
    below = photo.output(0).get_target_inputs()
    image = ops.slice(photo, [-1], [np.iinfo(np.int64).min], [-1], [2])
    both = ops.concat([photo, image], 0)
    for place in below:
        place.replace_source_output(both.output(0))
    halves = ops.split(result.input_value(0), np.int64(0), 2)
    total = ops.add(halves.output(0), halves.output(1))
    mean = ops.multiply(total, np.float32(0.5))
    return load_openvino().Model([ops.result(mean)], [photo])


def keep(folder: Path, graph: Any, fields: Mapping[str, Any], cuts: Sequence[str]) -> Artefact:
    """Commit a network: both files under names that hold their digest, then the manifest that makes
    them visible.

    Of two processes that keep the same network at once, the later manifest counts.
    """
    with writing(folder), space_reported(folder, 0):
        sha256 = _commit_graph(folder, graph)
        made = {"format": FORMAT_VERSION, "fields": dict(fields), "cuts": list(cuts)}
        commit_json(folder / _MANIFEST, {**made, "sha256": sha256, "made": time.time()})
    return load(folder)


def _commit_graph(folder: Path, graph: Any) -> dict[str, str]:
    """Write both files; name -> sha256."""
    sha256 = {}
    with tempfile.TemporaryDirectory(dir=folder, prefix=".", suffix=".tmp") as temporary:
        with library_writes(folder):
            path = Path(temporary, "model.xml")
            load_openvino().save_model(graph, path, compress_to_fp16=False)
        for suffix in (".xml", ".bin"):
            content = path.with_suffix(suffix).read_bytes()
            digest = hashlib.sha256(content).hexdigest()
            name = f"{digest[:16]}{suffix}"
            commit(folder / name, functools.partial(_write, content))
            sha256[name] = digest
    return sha256


def _write(content: bytes, file: BinaryIO) -> None:
    file.write(content)


def load(folder: Path) -> Artefact:
    """The artefact of a folder, its files not read yet.

    Raises:
        IntegrityError: there is no manifest, or it cannot be made sense of.
    """
    try:
        found = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))
        sha256 = {name: str(sha) for name, sha in found["sha256"].items()}
        if sorted(Path(name).suffix for name in sha256) != [".bin", ".xml"] or any(
            Path(name).name != name for name in sha256
        ):
            raise ValueError("it does not name one graph and its weights")
        return Artefact(folder, found["fields"], tuple(found["cuts"]), sha256, float(found["made"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise IntegrityError(
            f"{folder / _MANIFEST} describes no network ({error}). Remove the folder {folder}; "
            "it is made anew when it is needed."
        ) from error


# Artefacts of the cache


def cached_folder(cache: Path, fields: Mapping[str, Any], cuts: Sequence[str]) -> Path:
    """Where the cache keeps a network."""
    key = json.dumps([FORMAT_VERSION, dict(fields), list(cuts)], sort_keys=True)
    return cache / "openvino" / hashlib.sha256(key.encode()).hexdigest()[:32]


def artefacts(cache: Path) -> list[Artefact]:
    """Every network that the cache keeps, the earliest first; folders without a readable manifest
    are left out.
    """
    return sorted(_readable(cache), key=lambda artefact: (artefact.made, artefact.folder.name))


def _readable(cache: Path) -> Iterator[Artefact]:
    for manifest in (cache / "openvino").glob(f"*/{_MANIFEST}"):
        try:
            yield load(manifest.parent)
        except IntegrityError:
            continue  # `leftovers` lists it


def intact(artefact: Artefact) -> bool:
    """Whether both files have the sha256 of the manifest."""
    try:
        for name, sha in artefact.sha256.items():
            _verified(artefact.folder / name, sha)
    except IntegrityError:
        return False
    return True


def leftovers(cache: Path) -> list[Path]:
    """Files below the cache's networks that no readable manifest names: of interrupted writes, or
    set aside.
    """
    named = {artefact.folder / name for artefact in artefacts(cache) for name in artefact.sha256}
    manifests = {artefact.folder / _MANIFEST for artefact in artefacts(cache)}
    files = {path for path in (cache / "openvino").rglob("*") if path.is_file()}
    return sorted(path for path in files - named - manifests if path.name != LOCK)


def set_aside(artefact: Artefact) -> None:
    """Take a damaged artefact out of use: without its manifest it is invisible."""
    manifest = artefact.folder / _MANIFEST
    with suppress(FileNotFoundError):  # another process was first
        manifest.rename(manifest.with_suffix(".damaged"))


def find(cache: Path, fields: Mapping[str, Any], cuts: Sequence[str]) -> Artefact | None:
    """The earliest intact artefact of these fields that has these cuts among its outputs; a damaged
    one is set aside.
    """
    for artefact in artefacts(cache):
        if set(cuts) <= set(artefact.cuts) and artefact.fields == json.loads(
            json.dumps(dict(fields))
        ):
            if intact(artefact):
                with suppress(OSError):  # a cache that may only be read stays as it is
                    os.utime(artefact.folder / _MANIFEST)  # the last use, by which `cache gc` goes
                return artefact
            set_aside(artefact)
    return None


def converted(
    cache: Path,
    fields: Mapping[str, Any],
    cuts: Sequence[str],
    build: Callable[[Sequence[str]], "keras.Model"],
) -> Any:
    """The float32 network to some cuts as ``openvino.Model``, converted once.

    From Keras that takes 0.4 to 5 seconds, from the cache 0.1 to 0.5. A cache that may only be read
    stays as it is.

    Args:
        cache: the cache directory.
        fields: what the network is a function of: backbone, weights, preprocessing, image size.
        cuts: names of the outputs.
        build: called with the cuts, and only if the cache has no such network.
    """
    versions = {name: importlib.metadata.version(name) for name in ("keras", "openvino")}
    fields = {"precision": "float32", **versions, **fields}
    found = find(cache, fields, cuts)
    if found:
        return found.graph(cuts)
    graph = convert(build(cuts))
    try:
        keep(cached_folder(cache, fields, cuts), graph, fields, cuts)
    except OSError as error:
        if error.errno not in READ_ONLY:
            raise
    return graph
