"""Test side only: number the file-system steps of a process, and kill, fail or record it there.

A step is a file opened for writing, a rename, a removal or a folder made (PEP 578 audit events,
raised before the step is taken) or an ``os.fsync``, below one of the watched roots. The package
knows nothing of this. Variables, read at every step:

    FINETUNE_STEPS        folder of the counter, which all processes of a command share, and the log
    FINETUNE_STEPS_ROOTS  watched folders, separated by os.pathsep
    FINETUNE_STEPS_DO     count | record | kill:N:SECONDS | group:N:SECONDS | fail:N:ERRNO

``kill`` ends the process that takes step N, so many seconds later; ``group`` all of its group;
``fail`` refuses step N and all that follow it.
"""

import errno
import fcntl
import hashlib
import json
import os
import signal
import stat
import sys
import threading
from contextlib import contextmanager
from pathlib import Path

_OWN = threading.local()  # while the hook itself touches files
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_GROWING = {"open", "mkdir", "fsync"}  # what a full disk refuses; renames and removals still work
_BLOBS: dict[tuple, str] = {}


def install() -> None:
    """Hear of every step of this process from now on."""
    fsync = os.fsync

    def numbered(handle) -> None:
        number = handle if isinstance(handle, int) else handle.fileno()
        _step("fsync", os.readlink(f"/proc/self/fd/{number}"))
        fsync(handle)

    os.fsync = numbered
    sys.addaudithook(_hear)


def _hear(event: str, arguments: tuple) -> None:
    if event == "open":
        path, _, flags = arguments
        if isinstance(path, str | bytes | os.PathLike) and (flags or 0) & _WRITING:
            _step("open", _absolute(path))
    elif event in ("os.rename", "os.remove", "os.mkdir", "os.rmdir"):
        folder = arguments[2] if event in ("os.rename", "os.mkdir") else arguments[1]
        _step(event.removeprefix("os."), _absolute(arguments[0], folder))


def _absolute(path: str | bytes | os.PathLike, folder: int = -1) -> str:
    base = os.readlink(f"/proc/self/fd/{folder}") if folder >= 0 else os.getcwd()
    return os.path.join(base, os.fsdecode(path))


def _step(kind: str, path: str) -> None:
    roots = os.environ.get("FINETUNE_STEPS_ROOTS")
    if not roots or getattr(_OWN, "busy", False) or not path.startswith(tuple(roots.split(":"))):
        return
    _OWN.busy = True
    try:
        action, *parameters = os.environ["FINETUNE_STEPS_DO"].split(":")
        with _numbered() as number:
            _DO[action](number, kind, path, *parameters)
    finally:
        _OWN.busy = False


@contextmanager
def _numbered():
    """The number of this step, from 1, among those of all processes; they wait for each other."""
    with Path(os.environ["FINETUNE_STEPS"], "count").open("ab") as counter:
        fcntl.flock(counter, fcntl.LOCK_EX)
        counter.write(b".")
        counter.flush()
        yield counter.tell()


def _count(number: int, kind: str, path: str) -> None:
    with Path(os.environ["FINETUNE_STEPS"], "log").open("a") as log:
        log.write(json.dumps({"kind": kind, "path": path}) + "\n")


def _kill(number: int, kind: str, path: str, wanted: str, seconds: str, end=os.kill) -> None:
    if number == int(wanted):
        own = os.getpid() if end is os.kill else os.getpgid(0)
        if not float(seconds):
            end(own, signal.SIGKILL)
        timer = threading.Timer(float(seconds), end, (own, signal.SIGKILL))
        timer.daemon = True
        timer.start()


def _group(number: int, kind: str, path: str, wanted: str, seconds: str) -> None:
    _kill(number, kind, path, wanted, seconds, os.killpg)


def _fail(number: int, kind: str, path: str, first: str, name: str) -> None:
    if number >= int(first) and (kind in _GROWING or name != "ENOSPC"):
        code = getattr(errno, name)
        named = (path,) if kind in ("open", "mkdir") else ()  # as the system calls have it
        raise OSError(code, os.strerror(code), *named)


def _record(number: int, kind: str, path: str) -> None:
    """Log a step with all files as they are before it."""
    folder = Path(os.environ["FINETUNE_STEPS"])
    tree = {}
    for root in os.environ["FINETUNE_STEPS_ROOTS"].split(":"):
        for file in Path(root).rglob("*"):
            found = _file(file, folder / "blobs")
            if found:
                tree[str(file)] = found
    with (folder / "log").open("a") as log:
        log.write(json.dumps({"kind": kind, "path": path, "tree": tree}) + "\n")


def _file(file: Path, blobs: Path) -> tuple[int, str] | None:
    """Inode and digest of a file, its bytes kept under the digest; a folder has no digest."""
    try:
        found = file.lstat()
        if stat.S_ISDIR(found.st_mode):
            return found.st_ino, ""
        stamp = (found.st_ino, found.st_mtime_ns, found.st_size)
        if stamp not in _BLOBS:
            data = file.read_bytes()
            _BLOBS[stamp] = hashlib.sha256(data).hexdigest()
            blobs.mkdir(exist_ok=True)
            (blobs / _BLOBS[stamp]).write_bytes(data)
        return found.st_ino, _BLOBS[stamp]
    except FileNotFoundError:  # removed meanwhile by another process
        return None


_DO = {"count": _count, "record": _record, "kill": _kill, "group": _group, "fail": _fail}
