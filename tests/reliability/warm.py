"""A process with TensorFlow loaded that runs one ``finetune`` command per line of its stdin.

A command in a process of its own takes seconds to start; thousands of them would take hours. What
a command answers comes back as one line of JSON: exit code, both streams, peak memory in bytes,
seconds, bytes written, and the number of open files afterwards.
"""

import gc
import io
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGPIPE)


def answer(arguments: list[str], environment: dict[str, str]) -> dict:
    """Run one command as ``python -m finetune`` would."""
    import keras

    from finetune.cli.app import main

    sys.argv = ["finetune", *arguments]
    streams = [io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2)]
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak memory so far, man 5 proc
    before = _written()
    start = time.perf_counter()
    with _undone(environment), redirect_stdout(streams[0]), redirect_stderr(streams[1]):
        code = _code(main)
    seconds = time.perf_counter() - start
    out, err = (stream.buffer.getvalue().decode("utf-8", "replace") for stream in streams)
    status = Path("/proc/self/status").read_text()
    peak = int(status.partition("VmHWM:")[2].split()[0]) * 1024
    keras.utils.clear_session()
    gc.collect()
    files = len(os.listdir("/proc/self/fd"))
    return {"code": code, "stdout": out, "stderr": err, "peak": peak, "seconds": seconds,
            "files": files, "written": _written() - before}  # fmt: skip


def _written() -> int:
    """Bytes that this process has given to write(2) since its start, man 5 proc."""
    return int(Path("/proc/self/io").read_text().partition("wchar:")[2].split()[0])


@contextmanager
def _undone(environment: dict[str, str]) -> Iterator[None]:
    """Variables for one command; they and the signals are afterwards what they were."""
    variables = dict(os.environ)
    signals = {number: signal.getsignal(number) for number in SIGNALS}
    os.environ.update(environment)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(variables)
        for number, handler in signals.items():
            signal.signal(number, handler)


def _code(main) -> int:
    try:
        main()
        return 0
    except SystemExit as leaving:
        return leaving.code or 0
    except BaseException:  # what the command line let through is what the tests look for
        traceback.print_exc()
        return 1


if __name__ == "__main__":
    from finetune.backend import load_keras

    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library writes to descriptor 1 is no answer
    load_keras()
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        print(json.dumps(answer(**json.loads(line))), file=answers, flush=True)
