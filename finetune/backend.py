"""Import Keras on TensorFlow, at the moment when a command needs it and not before: it takes seconds."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager


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
        with _stderr_to_nowhere():
            import keras
            import tensorflow  # noqa: F401
    keras.utils.disable_interactive_logging()  # Keras's progress bars go to stdout, which belongs to data


@contextmanager
def _stderr_to_nowhere() -> Iterator[None]:
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
