"""What a process runs on: Keras and OpenVINO, imported when a command needs them, its processors
and its memory.
"""

import ctypes
import functools
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import ModuleType

from finetune.errors import UsageError


def backend_problem() -> str:
    """What is wrong with KERAS_BACKEND, in a sentence; empty if nothing is."""
    wanted = os.environ.get("KERAS_BACKEND", "tensorflow")
    if wanted == "tensorflow":
        return ""
    return f"KERAS_BACKEND is '{wanted}'; allowed is tensorflow."


def load_keras() -> None:
    """Import Keras and TensorFlow quietly, unless TF_CPP_MIN_LOG_LEVEL is 0, which -v sets.

    TensorFlow's C++ side writes to file descriptor 2 before it reads that variable, so the
    descriptor is turned away while it loads. A failing import still raises.

    Raises:
        UsageError: KERAS_BACKEND names another backend.
    """
    problem = backend_problem()
    if problem:
        raise UsageError(f"{problem} `unset KERAS_BACKEND`, and run again.")
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    loud = os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3") == "0"
    with nullcontext() if loud or "tensorflow" in sys.modules else stderr_to_nowhere():
        import keras
        import tensorflow  # noqa: F401
    if not loud:  # trials of many shapes are traced anew by intent, which it warns of
        logging.getLogger("tensorflow").setLevel(logging.ERROR)
    keras.utils.disable_interactive_logging()  # progress bars go to stdout, which belongs to data


def load_openvino() -> ModuleType:
    """Import OpenVINO without its telemetry.

    Unless a user has opted out, ``import openvino``, every ``convert_model`` and NNCF report to
    Google Analytics, each from a fork of this process, which holds TensorFlow and its threads. Both
    go on without where the telemetry package is missing (openvino/tools/ovc/telemetry_stub.py), and
    None in ``sys.modules`` is how Python spells missing.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    return openvino


def release_generators() -> None:
    """Free what fed the trainings that are over.

    Keras feeds TensorFlow by ``Dataset.from_generator``, whose Python functions the outermost graph
    keeps as long as the process lives (``script_ops._internal_py_func``), and with them all that
    they refer to: photos, rows, networks, threads.
    """
    import tensorflow as tf

    getattr(tf.compat.v1.get_default_graph(), "_py_funcs_used_in_graph", []).clear()


@contextmanager
def stderr_to_nowhere() -> Iterator[None]:
    """Turn file descriptor 2 away: C++ libraries write to it without asking."""
    sys.stderr.flush()
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


@functools.cache
def has_gpu() -> bool:
    """Whether TensorFlow sees a GPU; imports TensorFlow. CUDA complains where there is none."""
    load_keras()
    import tensorflow as tf

    with stderr_to_nowhere():
        return bool(tf.config.list_physical_devices("GPU"))


def devices() -> list[str]:
    """Names of TensorFlow's GPUs; without any those of its CPU devices, which is one unless a
    program has asked for several logical ones.
    """
    import tensorflow as tf

    logical = tf.config.list_logical_devices
    return [device.name for device in logical("GPU") or logical("CPU")]


def gpu_has_bfloat16() -> bool:
    """Whether every GPU computes bfloat16 natively: NVIDIA's compute capability 8.0 (Ampere) and
    later.
    """
    import tensorflow as tf

    details = map(tf.config.experimental.get_device_details, tf.config.list_physical_devices("GPU"))
    return all(found.get("compute_capability", (0, 0)) >= (8, 0) for found in details)


def threads() -> int:
    """How many threads decode photos: all processors beside a GPU, half of them (at least 2) beside
    a trunk on the CPU.
    """
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    processors = usable or 2
    beside_gpu = "tensorflow" in sys.modules and has_gpu()
    return processors if beside_gpu else max(2, processors // 2)


_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")


def reset_peak() -> None:
    """Begin a new stretch: Linux forgets the peak so far when a 5 is written to clear_refs (man 5
    proc).
    """
    if _CLEAR.exists():
        _CLEAR.write_text("5")


def peak_bytes() -> int:
    """Largest resident memory of this process since ``reset_peak``, in bytes; since its start where
    the system does not count anew: elsewhere than on Linux, and in gVisor.
    """
    status = _STATUS.read_text().splitlines() if _STATUS.exists() else []
    peaks = [line.split()[1] for line in status if line.startswith("VmHWM")]
    if peaks:  # gVisor says none
        return int(peaks[0]) * 1024
    if sys.platform == "win32":
        return _windows_peak()
    import resource  # Unix only

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _windows_peak() -> int:
    """PeakWorkingSetSize of PROCESS_MEMORY_COUNTERS (psapi.h): on 64 bits, the second of its nine
    words.
    """
    size = 9 * ctypes.sizeof(ctypes.c_size_t)
    counters = (ctypes.c_size_t * 9)(size)
    kernel32 = ctypes.windll.kernel32  # type: ignore[attr-defined,unused-ignore]
    kernel32.K32GetProcessMemoryInfo(ctypes.c_void_p(-1), counters, size)  # -1: this process
    return counters[1]
