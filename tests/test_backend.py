"""What a process runs on."""

import ctypes
import gc
import os
import subprocess
import sys
import weakref
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from finetune import backend
from finetune.errors import UsageError


def test_the_peak_begins_anew_and_counts_what_was_held():
    backend.reset_peak()
    before = backend.peak_bytes()
    held = np.ones(20_000_000)
    assert backend.peak_bytes() - before > held.nbytes / 2


def test_decoding_takes_half_of_the_processors_and_all_beside_a_gpu(monkeypatch):
    processors = set(range(12))
    monkeypatch.setattr(backend.os, "sched_getaffinity", lambda process: processors, raising=False)
    monkeypatch.setattr(backend, "has_gpu", lambda: False)
    monkeypatch.setitem(sys.modules, "tensorflow", SimpleNamespace())
    assert backend.threads() == 6
    monkeypatch.setattr(backend, "has_gpu", lambda: True)
    assert backend.threads() == 12
    processors = {0}
    monkeypatch.setattr(backend, "has_gpu", lambda: False)
    assert backend.threads() == 2


def test_what_tensorflow_warns_of_in_python_is_for_verbose_only(capfd):
    """Trials of many shapes are traced anew by intent; nobody could do anything about it."""
    backend.load_keras()
    import tensorflow as tf

    tf.get_logger().warning("5 out of the last 5 calls triggered tf.function retracing")
    assert capfd.readouterr().err == ""


def test_windows_is_asked_in_its_own_way(monkeypatch):
    def answer(process, counters, size):
        assert counters[0] == size == ctypes.sizeof(counters)
        counters[1] = 123

    windll = SimpleNamespace(kernel32=SimpleNamespace(K32GetProcessMemoryInfo=answer))
    monkeypatch.setattr(ctypes, "windll", windll, raising=False)
    monkeypatch.setattr(backend, "_STATUS", Path("nowhere"))
    monkeypatch.setattr(sys, "platform", "win32")
    assert backend.peak_bytes() == 123


def test_a_linux_whose_status_names_no_peak_is_asked_as_any_unix(monkeypatch, tmp_path):
    """gVisor's /proc/self/status has VmSize and VmRSS alone."""
    status = tmp_path / "status"
    status.write_text("Name:\tpython\nVmSize:\t  900000 kB\nVmRSS:\t  500000 kB\n")
    monkeypatch.setattr(backend, "_STATUS", status)
    assert backend.peak_bytes() > 2**20


def test_another_backend_of_keras_is_refused_before_keras_is_loaded(monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    with pytest.raises(UsageError, match="KERAS_BACKEND is 'jax'; allowed is tensorflow. `unset"):
        backend.load_keras()


def test_it_imports_where_there_is_no_resource_module():
    code = "import sys; sys.modules['resource'] = None; import finetune.backend as b; b.threads()"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_what_fed_a_training_is_freed_and_its_threads_end():
    import keras

    class Feed(keras.utils.PyDataset):
        def __len__(self):
            return 2

        def __getitem__(self, index):
            return np.zeros((2, 3), np.float32), np.zeros(2)

    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    model.compile(loss="sparse_categorical_crossentropy")
    feed = Feed()
    freed = weakref.ref(feed)
    model.fit(feed, verbose=0)
    del feed
    backend.release_generators()
    gc.collect()
    assert freed() is None


def test_tensorflow_and_cuda_say_nothing_while_they_begin():
    quiet = {name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"}
    script = "from finetune.backend import has_gpu; has_gpu()"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=quiet, check=True
    )
    assert done.stderr == ""
