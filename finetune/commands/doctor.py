"""`finetune doctor`: what this installation is, and what is wrong with it."""

import importlib.metadata
import os
import platform
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

from finetune import __version__
from finetune.activations.remote import check_remote
from finetune.backend import backend_problem
from finetune.errors import FinetuneError
from finetune.files import cache_dir

PACKAGE = "finetune-cut"
# Extra -> what it adds; those for developers are left out.
ADDS = {
    "offline": "ImageNet weights of vgg16 from a package, with --weights imagenet",
    "onnx": "export --format onnx",
    "litert": "export --format tflite",
    "parquet": "tables of photos and predictions as Parquet",
    "tensorboard": "run and compare --track tensorboard",
    "mlflow": "run and compare --track mlflow",
    "wandb": "run and compare --track wandb",
    "heif": "photos in HEIC and HEIF",
    "int8": "--precision int8",
    "weights": "--weights FILE of .safetensors and .onnx",
    "kaggle": "--weights kaggle://...",
    "serve": "finetune serve",
    "hf": "push, predict hf://USER/REPO, --data hf:NAME and --weights hf://...",
    "tune": "finetune tune",
    "ray": "compare and tune --on ray",
    "remote": "FINETUNE_CACHE=s3://BUCKET/PREFIX",
}
_LEAST_FREE = 2**30  # bytes; a run folder and the activations of a few thousand photos


def doctor() -> dict[str, Any]:
    """Say what is installed, what it can do on this machine, and how to mend what is wrong.

    Returns:
        What ``doctor --json`` prints: ``versions``, ``devices``, ``precision``, ``weights``
        (backbone -> file, None where they would be downloaded), ``cache``, ``extras`` and
        ``problems``, each with its ``mend``; ``ok`` if there is none. Nothing is downloaded or
        verified.
    """
    problems = [*_requirements(), *_environment()]
    openvino, broken = _openvino()
    cache, full = _cache()
    problems += [problem for problem in (broken, full, _remote()) if problem]
    return {
        "ok": not problems,
        "versions": _versions(),
        "devices": openvino["devices"] + _gpus(),
        "precision": openvino["precision"],
        "weights": _weights(),
        "cache": cache,
        "extras": _extras(),
        "problems": problems,
    }


def _problem(what: str, mend: str) -> dict[str, str]:
    return {"problem": what, "mend": mend}


def _required(extra: str = "") -> list[Requirement]:
    """What the installed package asks for on this machine, for itself or for an extra."""
    try:
        lines = importlib.metadata.requires(PACKAGE) or []
    except importlib.metadata.PackageNotFoundError:
        return []  # run from a source tree; `_requirements` says so
    found = [Requirement(line) for line in lines]
    own = [item for item in found if not (item.marker and "extra" in str(item.marker))]
    wanted = [item for item in found if item not in own] if extra else own
    return [
        item for item in wanted if item.marker is None or item.marker.evaluate({"extra": extra})
    ]


def _installed(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _unmet(wanted: list[Requirement]) -> list[str]:
    """Those that are missing or of a version that is not allowed, as pip takes them."""
    versions = {item: _installed(item.name) for item in wanted}
    return [
        f"{item.name}{item.specifier}"
        for item, version in versions.items()
        if version is None or not item.specifier.contains(version, prereleases=True)
    ]


def _requirements() -> Iterator[dict[str, str]]:
    if _installed(PACKAGE) is None:
        yield _problem(
            f"{PACKAGE} is not installed: it runs from a source tree, and what it requires is not "
            "known.",
            "`pip install -e .` in the source tree.",
        )
    for text in _unmet(_required()):
        name = Requirement(text).name
        yield _problem(
            f"{text} is needed, and {_installed(name) or 'none'} is installed.",
            f'`pip install "{text}"`.',
        )


def _environment() -> Iterator[dict[str, str]]:
    """Variables that point nowhere."""
    problem = backend_problem()
    if problem:
        yield _problem(problem, "`unset KERAS_BACKEND`.")
    for name in ("FINETUNE_DATA_DIR", "FINETUNE_WEIGHTS_DIR"):
        folder = os.environ.get(name)
        if folder and not Path(folder).is_dir():
            yield _problem(
                f"{name} is '{folder}', which is no folder.",
                f"Make it name the folder of your files, or `unset {name}`.",
            )


def _versions() -> dict[str, str | None]:
    packages = {item.name: _installed(item.name) for item in _required()}
    own = {"finetune": __version__, "python": platform.python_version()}
    return {**own, "platform": platform.platform(), **packages}


def _openvino() -> tuple[dict[str, Any], dict[str, str] | None]:
    """Devices of OpenVINO, and whether each precision runs here; what is wrong if it does not
    load.
    """
    from finetune.backend import load_openvino
    from finetune.errors import UsageError

    try:
        core = load_openvino().Core()
        name = core.get_property("CPU", "FULL_DEVICE_NAME")
    except Exception as error:  # the loader's own, and OpenVINO's
        mend = "`pip install --force-reinstall openvino`."
        return {"devices": [], "precision": {}}, _problem(f"OpenVINO does not load: {error}.", mend)
    from finetune.activations.engine import PRECISIONS, resolve_precision

    precision: dict[str, Any] = {"auto": resolve_precision("auto", "openvino")}
    for wanted in PRECISIONS:
        try:
            resolve_precision(wanted, "openvino")
            precision[wanted] = "yes"
        except UsageError as error:
            precision[wanted] = str(error)
    return {"devices": [f"CPU: {name}"], "precision": precision}, None


def _gpus() -> list[str]:
    """GPUs that TensorFlow sees; it is imported only where there is a device to see."""
    if backend_problem() or not any(Path("/dev").glob("nvidia[0-9]*")):
        return []
    from finetune.backend import load_keras

    load_keras()
    import tensorflow as tf

    return [f"GPU: {device.name}" for device in tf.config.list_physical_devices("GPU")]


def _weights() -> dict[str, str | None]:
    from finetune.model.backbones import BACKBONES
    from finetune.model.weight_places import found_weights

    found = {name: found_weights(row) for name, row in BACKBONES.items()}
    return {name: None if path is None else str(path) for name, path in found.items()}


def _cache() -> tuple[dict[str, Any], dict[str, str] | None]:
    folder = cache_dir()
    place = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(place).free
    found = {"folder": str(folder), "bytes": _size(folder), "free": free}
    elsewhere = "name another folder with FINETUNE_CACHE"
    if not (place.is_dir() and os.access(place, os.W_OK)):
        return found, _problem(
            f"{place}, for the cache, cannot be written.", f"Make it writable, or {elsewhere}."
        )
    if free < _LEAST_FREE:
        return found, _problem(
            f"{free / 2**20:,.0f} MiB are free on the disk of the cache; a run needs about "
            f"{_LEAST_FREE / 2**20:,.0f}.",
            f"`finetune cache gc --older-than 7`, or {elsewhere}.",
        )
    return found, None


def _remote() -> dict[str, str] | None:
    """Whether the store at a URL answers, if there is one."""
    try:
        check_remote()
    except FinetuneError as error:
        return _problem(str(error), "Mend it, or name a folder with FINETUNE_CACHE.")
    return None


def _size(folder: Path) -> int:
    """Bytes of the files in a folder; those that vanish meanwhile count nothing."""
    total = 0
    for root, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(root, name)
            total += os.path.getsize(path) if os.path.exists(path) else 0
    return total


def _extras() -> dict[str, dict[str, Any]]:
    """``missing`` is None where the installed package is too old to know the extra."""
    wanted = {name: _required(name) for name in ADDS}
    return {
        name: {
            "adds": adds,
            "missing": _unmet(wanted[name]) if wanted[name] else None,
            "install": f'pip install "{PACKAGE}[{name}]"',
        }
        for name, adds in ADDS.items()
    }
