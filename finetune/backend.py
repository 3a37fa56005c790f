"""What a process runs on: Keras and OpenVINO imported when a command needs them and not before, and its peak memory."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType


def load_keras(verbose: bool = False) -> None:
    """Import Keras and TensorFlow quietly; their own messages are for -v.

    TensorFlow's C++ side writes to file descriptor 2 before it reads TF_CPP_MIN_LOG_LEVEL, so that is turned away while it
    loads. A failing import still raises.
    """
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    if verbose:
        import keras
    else:
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        with stderr_to_nowhere():
            import keras
            import tensorflow  # noqa: F401
    keras.utils.disable_interactive_logging()  # Keras's progress bars go to stdout, which belongs to data


def load_openvino() -> ModuleType:
    """Import OpenVINO without its telemetry.

    Unless a user has opted out, ``import openvino`` and every ``convert_model`` report to Google Analytics, each from a
    fork of this process, which holds TensorFlow and its threads. OpenVINO itself goes on without where the telemetry
    package is missing (openvino/tools/ovc/telemetry_stub.py), and None in ``sys.modules`` is how Python spells missing.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    return openvino


@contextmanager
def stderr_to_nowhere() -> Iterator[None]:
    """Turn file descriptor 2 away: C++ libraries write to it without asking."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def reset_peak() -> None:
    """Begin a new stretch: Linux forgets the peak so far when a 5 is written to clear_refs (man 5 proc)."""
    if _CLEAR.exists():
        _CLEAR.write_text("5")


def peak_bytes() -> int:
    """Largest resident memory of this process since ``reset_peak``, in bytes; elsewhere than on Linux since its start."""
    if _STATUS.exists():
        line = next(line for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    import resource  # Unix only

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
