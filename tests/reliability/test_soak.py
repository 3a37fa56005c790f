"""Hours of work in one process: memory and open files stay flat."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil
import pytest

from reliability.generators.photos import encoded, scene
from reliability.harness import Warm, cold, share, story


@contextmanager
def watched(parent: psutil.Process, seconds: float = 1.0) -> Iterator[list[tuple[int, int]]]:
    """Resident bytes and open files of the largest process below a parent, once a second."""
    samples: list[tuple[int, int]] = []
    ended = threading.Event()

    def look() -> None:
        while not ended.wait(seconds):
            try:
                family = [parent, *parent.children(recursive=True)]
                largest = max(family, key=lambda process: process.memory_info().rss)
                samples.append((largest.memory_info().rss, largest.num_fds()))
            except psutil.Error:  # it ended while it was looked at
                continue

    thread = threading.Thread(target=look)
    thread.start()
    yield samples
    ended.set()
    thread.join()


def flat(samples: list[tuple[int, int]], growth: float) -> None:
    """The last quarter holds no more than the second, in bytes (by a share) and in files (by 2)."""
    quarter = len(samples) // 4
    early = np.median(samples[quarter : 2 * quarter], axis=0)
    late = np.median(samples[-quarter:], axis=0)
    print(f"resident {early[0] / 2**20:,.0f} -> {late[0] / 2**20:,.0f} MiB,", end=" ")
    print(f"open files {early[1]:.0f} -> {late[1]:.0f}")
    assert late[0] < (1 + growth) * early[0]
    assert late[1] <= early[1] + 2


@pytest.mark.reliability
def test_two_hundred_trials_in_one_comparison(few_photos: Path, tmp_path):
    trials = max(20, share(200))
    command = story("compare", few_photos, tmp_path / "place", trials)
    command.clear()
    with (
        cold(command, command.variables, timeout=3 * 3600) as process,
        watched(psutil.Process(process.pid)) as samples,
    ):
        process.wait(3 * 3600)
    assert process.returncode == 0
    assert len(list(command.place.rglob("metrics.json"))) == trials
    flat(samples, growth=0.1)


@pytest.mark.reliability
def test_ten_thousand_photos_through_predict(few_photos: Path, tmp_path, warm: Warm):
    training = story("train", few_photos, tmp_path / "place")
    training.clear()
    assert training.again(warm).code == 0
    (tmp_path / "photos").mkdir()
    photos = [encoded(scene(seed, 64, 48), "JPEG") for seed in range(100)]
    count = max(1000, share(10_000))
    for index in range(count):
        (tmp_path / "photos" / f"{index}.jpg").write_bytes(photos[index % 100])
    (tmp_path / "photos" / "bad.jpg").write_bytes(b"no photo")
    with watched(psutil.Process(), 0.2) as samples:
        arguments = ("--format", "csv", "--out", tmp_path / "rows.csv")
        done = warm(
            "predict", training.place / "out", tmp_path / "photos", *arguments, timeout=3600
        )
    assert done.code == 3, "one photo is bad"
    assert len((tmp_path / "rows.csv").read_text().splitlines()) == count + 1
    flat(samples, growth=0.1)


@pytest.mark.reliability
@pytest.mark.parametrize("name", ["extract", "train"])
def test_a_command_fifty_times_in_one_process(name, tell, warm: Warm):
    """What a server or a notebook does: everything is freed again."""
    command, _ = tell(name)
    answers = []
    for _ in range(max(16, share(50))):
        command.clear()
        start = time.perf_counter()
        answers.append(command.again(warm))
        assert answers[-1].code == 0, f"{time.perf_counter() - start:.0f} s: {answers[-1].stderr}"
    quarter = len(answers) // 4
    early = answers[quarter : 2 * quarter]
    late = answers[-quarter:]
    peaks = [np.median([answer.peak for answer in some]) / 2**20 for some in (early, late)]
    print(f"peak {peaks[0]:,.0f} -> {peaks[1]:,.0f} MiB,", end=" ")
    print(f"open files {early[0].files} -> {late[-1].files}")
    assert peaks[1] < 1.1 * peaks[0]
    assert late[-1].files <= early[0].files + 2
