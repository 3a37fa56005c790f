"""A Ray cluster: how this process becomes its driver, and what it offers to a task."""

import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Any

from finetune.errors import UsageError, need
from finetune.recipe.recipe import Recipe

_CORES = 4  # of a task at most: a trunk gains little from more, and memory is per process
_CONNECT_SECONDS = 5.0


@contextmanager
def connected(on: str) -> Iterator[Any]:
    """Ray, connected to the cluster that ``on`` names, see ``places.opened``.

    Raises:
        UsageError: see ``connect``.
    """
    with redirect_stdout(sys.stderr):  # Ray tells there of dead nodes; stdout belongs to data
        ray = connect(on)
        try:
            yield ray
        finally:
            ray.shutdown()


def connect(on: str) -> Any:
    """Ray, connected; without telemetry and without a dashboard.

    Raises:
        UsageError: there is no cluster at the address, or it runs other versions.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray = need("ray", "ray")
    address = on if "://" in on else os.environ.get("RAY_ADDRESS", "auto")
    quiet = {"log_to_driver": False, "logging_level": "CRITICAL"}
    terminated = signal.getsignal(signal.SIGTERM)  # which ray.init replaces
    _check_reachable(address)
    try:
        try:
            ray.init(address=address, **quiet)
        except ConnectionError:
            if address != "auto":
                raise
            _stay_on_loopback(ray)
            ray.init(address="local", include_dashboard=False, **quiet)
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        raise UsageError(
            f"The Ray cluster at {address} cannot be used: {sentence(error)} The cluster and this "
            "machine need the same versions of Python, Ray and finetune."
        ) from error
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, terminated)
    return ray


def _stay_on_loopback(ray: Any) -> None:
    """A cluster of this machine's own listens on 127.0.0.1, as Ray does on macOS and Windows; on
    Linux it would listen everywhere.
    """
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # for the processes that it starts
    ray._private.ray_constants.ENABLE_RAY_CLUSTER = False


def _check_reachable(address: str) -> None:
    """Ray itself tries for half a minute."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if address in ("auto", "local"):
        return
    if not (host and port.isdecimal() and int(port) < 2**16):
        raise UsageError(f"{address!r} is no address of a Ray cluster; expected HOST:PORT.")
    try:
        socket.create_connection((host.strip("[]"), int(port)), _CONNECT_SECONDS).close()
    except OSError as error:
        raise UsageError(
            f"No Ray cluster answers at {address} ({error}). `ray start --head` on its first "
            "machine starts one and prints its address; ray:// is its Ray Client server, port "
            "10001. `--on ray` alone uses the cluster of this machine, or starts one."
        ) from error


def sentence(error: Exception) -> str:
    """The first lines of an error in one paragraph."""
    text = " ".join(str(error).split())[:500]
    return text if text.endswith(".") else f"{text}."


def cores(ray: Any) -> tuple[int, bool]:
    """Cores of a task, as many as the smallest node has; and whether the cluster has a GPU.

    Raises:
        UsageError: no node has a core.
    """
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    found = [int(node["CPU"]) for node in nodes if node.get("CPU", 0) >= 1]
    if not found:
        raise UsageError("The Ray cluster has no node with a core (num_cpus) for tasks.")
    return min(_CORES, *found), any(node.get("GPU") for node in nodes)


def resources(recipe: Recipe, cores: int, has_gpu: bool) -> dict[str, int]:
    """What a task of a recipe takes: a GPU where there are some, unless its engine is OpenVINO."""
    if has_gpu and recipe.engine != "openvino":
        return {"num_cpus": 1, "num_gpus": 1}
    return {"num_cpus": cores}


def slots(ray: Any) -> int:
    """How many tasks run at once: those that take a GPU where there are some."""
    each, has_gpu = cores(ray)
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if has_gpu:
        return sum(int(node.get("GPU", 0)) for node in nodes)
    return sum(int(node.get("CPU", 0)) // each for node in nodes)
