"""Import Keras and OpenVINO at the moment when a command needs them and not before: they take seconds."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
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
