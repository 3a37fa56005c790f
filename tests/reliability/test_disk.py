"""The disk is full, has no inode left, may only be read; many processes share one cache."""

import random
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from reliability.harness import Done, Story, Warm, share, story
from reliability.test_crash import steps


def refused(done: Done, place: Path) -> str | None:
    """What is wrong with how a command met a disk that takes no more, or None."""
    if done.code == 0:
        return None
    if done.code != 75 or not done.clean:
        return f"exit {done.code}: {done.stderr[-300:]}"
    return None if str(place) in done.stderr else f"names no path: {done.stderr[-300:]}"


def fill(name: str, tries: int, error: str, tell, warm: Warm, tmp_path: Path) -> list[str]:
    """Let the disk refuse everything from some step on, then run again with room; the faults."""
    command, expected = tell(name)
    assert warm(*command.arguments, **command.steps(tmp_path / "log", "count")).code == 0
    total, faults = steps(tmp_path / "log"), []
    for first in sorted(random.Random(0).sample(range(1, total), min(tries, total - 1))):
        command.clear()
        log = tmp_path / f"log-{first}"
        done = warm(*command.arguments, **command.steps(log, f"fail:{first}:{error}"))
        wrong = refused(done, command.place)
        again = command.again(warm)
        if again.code or command.result() != expected:
            wrong = f"{wrong}; the next run: {again.code}, {again.stderr[-200:]}"
        faults += [f"step {first}: {wrong}"] if wrong else []
    return faults


def test_a_disk_without_room_is_said_and_nothing_is_lost(tell, warm: Warm, tmp_path):
    assert fill("extract", 3, "ENOSPC", tell, warm, tmp_path) == []


@pytest.mark.reliability
@pytest.mark.parametrize("error", ["ENOSPC", "EDQUOT"])
@pytest.mark.parametrize("name", ["extract", "train"])
def test_the_disk_refuses_at_any_step(name, error, tell, warm: Warm, tmp_path):
    assert fill(name, share(60), error, tell, warm, tmp_path) == []


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Mounts a file system in memory, or mounts it anew with other options."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(options: str) -> Path:
        mounted = "remount," if folder.is_mount() else ""
        command = ["mount", "-t", "tmpfs", "-o", mounted + options, "tmpfs", folder]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"only root may mount: {done.stderr.strip()}")
        return folder

    yield mount
    if folder.is_mount():
        subprocess.run(["umount", "-l", folder], check=True)


KIB = {"extract": (8, 16, 32, 64, 96, 128, 192, 256, 320, 448)}  # sizes of the file system
KIB["train"] = (64, 128, 256, 512, 768, 1024, 1536, 2048, 3072, 4096)
LIMITS = [
    *((name, f"size={size}k") for name, sizes in KIB.items() for size in sizes),
    *(("extract", f"size=64m,nr_inodes={count}") for count in (2, 4, 6, 8, 10, 12)),
]


@pytest.mark.reliability
@pytest.mark.parametrize(("name", "limit"), LIMITS)
def test_a_real_file_system_is_full(name, limit, disk, tell, few_photos, warm: Warm):
    _, expected = tell(name)
    command = story(name, few_photos, disk(limit) / "place")
    assert refused(command.again(warm), command.place.parent) is None
    disk("size=512m,nr_inodes=0")
    again = command.again(warm)
    assert again.code == 0, again.stderr
    assert command.result() == expected


@pytest.mark.reliability
def test_a_cache_that_may_only_be_read(disk, tell, few_photos, warm: Warm, tmp_path):
    _, expected = tell("extract")
    cache = disk("size=64m")
    there = story("extract", few_photos, tmp_path / "there")
    variables = {"FINETUNE_CACHE": str(cache)}
    assert warm(*there.arguments, **variables).code == 0
    disk("ro")
    assert warm(*there.arguments, **variables).code == 0, "all rows are there"
    assert there.result()["rows"] == expected["rows"]
    missing = warm(*there.arguments, "--image-size", "48", **variables)
    assert missing.clean
    assert "FINETUNE_CACHE" in missing.stderr


def together(commands: list[Story], processes: list[Warm], cache: Path) -> list[Done]:
    """Run commands at the same time, each in a process of its own, on one cache."""
    with ThreadPoolExecutor(len(commands)) as pool:
        return list(
            pool.map(
                lambda warm, command: warm(*command.arguments, FINETUNE_CACHE=str(cache)),
                processes,
                commands,
            )
        )


@pytest.mark.reliability
@pytest.mark.parametrize(("count", "rounds"), [(2, 60), (4, 30), (8, 10)])
def test_many_processes_on_one_cache(count, rounds, tell, few_photos, warm: Warm, tmp_path):
    """All end well with the same rows, and the rows are computed once."""
    _, expected = tell("extract")
    alone = tmp_path / "alone"
    assert warm(*story("extract", few_photos, alone).arguments, FINETUNE_CACHE=str(alone)).code == 0
    processes = [Warm() for _ in range(count)]
    try:
        for number in range(share(rounds)):
            places = [tmp_path / f"{number}-{index}" for index in range(count)]
            commands = [story("extract", few_photos, place) for place in places]
            done = together(commands, processes, tmp_path / f"cache-{number}")
            assert {one.code for one in done} == {0}, [one.stderr for one in done]
            assert all(one.result()["rows"] == expected["rows"] for one in commands)
            assert stored(tmp_path / f"cache-{number}") < 1.5 * stored(alone), "computed twice"
    finally:
        for process in processes:
            process.close()


def stored(cache: Path) -> int:
    """Bytes of activations."""
    return sum(path.stat().st_size for path in cache.rglob("*.npy"))
