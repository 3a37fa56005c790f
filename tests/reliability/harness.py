"""What the tests of this folder share: commands that are run warm or cold, and three stories."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
from conftest import paint

HERE = Path(__file__).parent
_ENOUGH = (
    4 * 2**30
)  # bytes; a warm process that has grown to that is started anew, to twice that killed
BASE = ("--backbone", "mini-resnet", "--weights", "random", "--image-size", "32")
COUNTS = {"train": (7, 5), "validation": (3, 4), "test": (4, 3)}  # apples and plums
COLORS = {"apples": (200, 60, 50), "plums": (70, 60, 160)}


@dataclass(frozen=True)
class Done:
    """A command that has ended; -9: killed, also because it took too long or too much memory."""

    code: int
    stdout: str = ""
    stderr: str = ""
    peak: int = 0
    seconds: float = 0.0
    files: int = 0
    written: int = 0

    @property
    def clean(self) -> bool:
        """Whether it ended as commands may: no unforeseen error, no traceback."""
        return self.code not in (1, -9) and "Traceback" not in self.stderr


def environment(**changes: str) -> dict[str, str]:
    """The environment of a command whose steps are heard of, see ``hooks/steps.py``."""
    paths = [str(HERE / "hooks"), str(HERE.parents[1]), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), **changes}


class Warm:
    """A process with TensorFlow loaded that runs commands one by one; started again if it dies."""

    def __init__(self) -> None:
        self._process: subprocess.Popen | None = None

    def __call__(self, *arguments: object, timeout: float = 600, **changes: str) -> Done:
        """Run a command; ``changes`` are variables of its environment."""
        self._process = self._process or self._started()
        cache = os.environ.get("FINETUNE_CACHE", "")  # of the test; none while a session begins
        variables = {"FINETUNE_CACHE": cache, **changes}
        line = json.dumps({"arguments": list(map(str, arguments)), "environment": variables})
        answered = threading.Event()
        guard = threading.Thread(target=_guard, args=(self._process.pid, answered, timeout))
        guard.start()
        print(line, file=self._process.stdin, flush=True)
        answer = self._process.stdout.readline()
        answered.set()
        guard.join()
        done = Done(**json.loads(answer)) if answer else Done(-9)
        if not answer or done.peak > _ENOUGH:
            self.close()
        return done

    def _started(self) -> subprocess.Popen:
        process = subprocess.Popen(
            [sys.executable, HERE / "warm.py"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment(),
        )
        assert process.stdout.readline() == "ready\n"
        return process

    def close(self) -> None:
        """End the process."""
        if self._process:
            self._process.kill()
            self._process.communicate()
            self._process = None


def _guard(pid: int, answered: threading.Event, timeout: float) -> None:
    """Kill a process that takes too long, or memory that other programs of this machine need."""
    deadline = time.monotonic() + timeout
    process = psutil.Process(pid)
    while not answered.wait(0.2):
        if time.monotonic() > deadline or process.memory_info().rss > 2 * _ENOUGH:
            process.kill()
            return


@dataclass(frozen=True)
class Story:
    """A command that writes, as it runs in a place of its own with a cache and an output folder."""

    name: str
    arguments: tuple[str, ...]
    place: Path

    @property
    def variables(self) -> dict[str, str]:
        """Where the command keeps its cache."""
        return {"FINETUNE_CACHE": str(self.place / "cache")}

    def steps(self, log: Path, do: str) -> dict[str, str]:
        """Variables that have the steps of this story heard of, see ``hooks/steps.py``."""
        log.mkdir(parents=True, exist_ok=True)
        return {
            **self.variables,
            "FINETUNE_STEPS": str(log),
            "FINETUNE_STEPS_ROOTS": str(self.place),
            "FINETUNE_STEPS_DO": do,
        }

    def clear(self) -> None:
        """Make the place empty."""
        shutil.rmtree(self.place, ignore_errors=True)
        self.place.mkdir(parents=True)

    def result(self) -> dict[str, Any]:
        """What must not depend on how often the command was cut short, and which files are left."""
        return _RESULTS[self.name](self.place / "out") | {"names": names(self.place)}

    def again(self, warm: Warm, **changes: str) -> Done:
        """The same command once more; a run that was finished already says so with 2."""
        done = warm(*self.arguments, **{**self.variables, **changes})
        finished = (self.place / "out" / "metrics.json").exists()
        return Done(0) if done.code == 2 and self.name == "train" and finished else done


def share(cases: int) -> int:
    """So many cases, or the share of them that FINETUNE_RELIABILITY_SHARE (0-1) asks for."""
    return max(1, round(cases * float(os.environ.get("FINETUNE_RELIABILITY_SHARE", "1"))))


def names(folder: Path) -> list[str]:
    """Files below a folder, each kind once: digits that are drawn anew in each run are left out."""
    files = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    kinds = {re.sub(r"[0-9a-f]{12,}", "#", name) for name in files}
    return sorted(name for name in kinds if not name.endswith((".lock", "/log.txt")))


def _features(out: Path) -> dict[str, Any]:
    rows = np.load(out / "features.npy", allow_pickle=False)
    return {"rows": rows.tobytes(), "index": (out / "index.csv").read_text()}


def _run(out: Path) -> dict[str, Any]:
    metrics = json.loads((out / "metrics.json").read_text())
    history = pd.read_csv(out / "history.csv").drop(columns="seconds")
    return {
        "predictions": (out / "predictions.csv").read_text(),
        "history": history.to_csv(),
        **{name: metrics[name] for name in ("validation", "test")},
    }


def _comparison(out: Path) -> dict[str, Any]:
    table = pd.read_csv(out / "results.csv")
    varying = ("seconds", "memory", "extracted", "images_per")
    steady = [name for name in table.columns if not any(word in name for word in varying)]
    return {"table": table[steady].to_csv()}


_RESULTS = {"extract": _features, "train": _run, "compare": _comparison}


def story(name: str, photos: Path, place: Path, trials: int = 3) -> Story:
    """One of the three stories, its place still empty."""
    recipe = photos.parent / f"trials-{trials}.yaml"
    seeds = list(range(trials))
    recipe.write_text(
        f"data: {photos}\nbackbone: mini-resnet\nweights: random\nimage_size: 32\n"
        "batch_size: 8\nepochs: 2\n"
        f"strategy: frozen-base\nhead: {{pool: gap, dropout: 0.3}}\nmatrix: {{seed: {seeds}}}\n"
    )
    training = ("--strategy", "frozen-base", "--epochs", "3", "--set", "batch_size=8")
    arguments = {
        "extract": ("extract-features", "--data", str(photos), *BASE),
        "train": ("run", "--data", str(photos), *BASE, *training),
        "compare": ("compare", str(recipe)),
    }[name]
    return Story(name, (*arguments, "--out", str(place / "out"), "--json"), place)


def paint_photos(folder: Path) -> Path:
    """26 photos of two classes that any network can tell apart, the same bytes in every session."""
    seed = 0
    for split, counts in COUNTS.items():
        for (name, color), count in zip(COLORS.items(), counts, strict=True):
            for index in range(count):
                seed += 1
                paint(folder / split / name / f"{index}.png", color, seed)
    return folder


@contextmanager
def cold(
    command: Story, variables: dict[str, str], timeout: float = 600
) -> Iterator[subprocess.Popen]:
    """The command in a process of its own; it and whatever it started must be gone in the end."""
    token = uuid.uuid4().hex
    with tempfile.TemporaryFile() as nowhere:
        process = subprocess.Popen(
            [sys.executable, "-m", "finetune", *command.arguments],
            stdout=nowhere,
            stderr=nowhere,
            env=environment(**variables, FINETUNE_TEST_TOKEN=token),
            start_new_session=True,
        )
        try:
            yield process
            process.wait(timeout)
            assert left(token, 15) == [], "processes outlive their parent"
        finally:
            for orphan in left(token, 0):
                orphan.send_signal(signal.SIGKILL)
            process.wait()


def left(token: str, seconds: float) -> list[psutil.Process]:
    """Processes that carry a token in their environment and still live after so many seconds."""
    deadline = time.monotonic() + seconds
    while (found := _carrying(token)) and time.monotonic() < deadline:
        time.sleep(0.1)
    return found


def _carrying(token: str) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if (
                process.environ().get("FINETUNE_TEST_TOKEN") == token
                and process.status() != psutil.STATUS_ZOMBIE
            ):
                found.append(process)
        except psutil.Error:  # gone meanwhile, or another user's
            continue
    return found
