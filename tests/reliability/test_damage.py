"""Bits flip and files are cut short: a result is the same, or it is refused; it is never wrong."""

import os
import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from reliability.harness import Done, Story, Warm, share

# What of a story's place is damaged, and the exit codes that the command may end with, run again.
KINDS: dict[str, tuple[str, str, set[int]]] = {
    "cache": ("extract", "cache/**/*", {0}),
    "checkpoint": ("train", "out/checkpoint.npz", {0, 4}),
    "comparison": ("compare", "out/**/*", {0}),
}
# Files of a run folder that each command reads.
READ = {
    "predict": ("model.keras", "classes.json", "recipe.yaml"),
    "ensemble": ("metrics.json", "predictions.csv", "recipe.yaml", "classes.json", "model.keras"),
}


def damaged(data: bytes, draw: random.Random) -> bytes:
    """A copy with one bit flipped, its end missing, or a disk sector of zeros."""
    place = draw.randrange(len(data))
    flipped = data[:place] + bytes([data[place] ^ 1 << draw.randrange(8)]) + data[place + 1 :]
    zeros = data[:place] + bytes(len(data[place : place + 512])) + data[place + 512 :]
    return draw.choice([flipped, flipped, data[:place], zeros])


def copy(pristine: Path, place: Path) -> None:
    """The files of a place as hard links: whatever replaces one leaves the other alone."""
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(pristine, place, copy_function=os.link)


def replaced(file: Path, draw: random.Random) -> str:
    """Damage a file; what it is called in a message."""
    data = damaged(file.read_bytes(), draw)
    file.unlink()
    file.write_bytes(data)
    return f"{file.name} ({len(data):,} bytes)"


def fault(done: Done, same: Callable[[], bool], allowed: set[int]) -> str | None:
    """What is wrong with how a command met damage, or None."""
    if not done.clean or done.code not in allowed:
        return f"exit {done.code}: {done.stderr[-200:]}"
    return "silent" if done.code == 0 and not same() else None


def unfinished(command: Story, warm: Warm, log: Path) -> None:
    """Run a training until its first checkpoint is written, and no further."""
    warm(*command.arguments, **command.variables)  # rows are committed by time as well: here first
    shutil.rmtree(command.place / "out")
    warm(*command.arguments, **command.steps(log, "count"))
    lines = (log / "log").read_text().splitlines()
    first = next(
        i for i, line in enumerate(lines, 1) if ".checkpoint.npz" in line and "rename" in line
    )
    shutil.rmtree(command.place / "out")
    done = warm(*command.arguments, **command.steps(log / "2", f"fail:{first + 3}:ENOSPC"))
    assert done.code != 0
    assert (command.place / "out" / "checkpoint.npz").exists()


def meet(kind: str, times: int, tell, warm: Warm, tmp_path: Path) -> list[str]:
    """Damage files of a kind, one at a time, and run the command that reads them; its faults."""
    name, pattern, allowed = KINDS[kind]
    command, expected = tell(name)
    if kind == "checkpoint":
        unfinished(command, warm, tmp_path / "log")
    else:
        assert command.again(warm).code == 0
    pristine = tmp_path / "pristine"
    shutil.copytree(command.place, pristine)
    skipped = (".lock", "log.txt", ".damaged")
    files = [p for p in sorted(pristine.glob(pattern)) if p.is_file() and p.stat().st_size]
    files = [p.relative_to(pristine) for p in files if not p.name.endswith(skipped)]
    draw = random.Random(0)
    faults = []
    for index in range(times):
        copy(pristine, command.place)
        what = replaced(command.place / files[index % len(files)], draw)
        done = command.again(warm)
        wrong = fault(
            done, lambda: without_names(command.result()) == without_names(expected), allowed
        )
        faults += [f"{what}: {wrong}"] if wrong else []
    return faults


def without_names(result: dict) -> dict:
    """A result without its list of files: what was set aside may lie there."""
    return {key: value for key, value in result.items() if key != "names"}


def test_a_damaged_cache_is_computed_again(tell, warm: Warm, tmp_path):
    assert meet("cache", 6, tell, warm, tmp_path) == []


@pytest.mark.reliability
@pytest.mark.parametrize(
    ("kind", "times"), [("cache", 350), ("checkpoint", 150), ("comparison", 150)]
)
def test_damage_is_never_silent(kind, times, tell, warm: Warm, tmp_path):
    assert meet(kind, share(times), tell, warm, tmp_path) == []


@pytest.mark.reliability
@pytest.mark.parametrize(("command", "times"), [("predict", 200), ("ensemble", 150)])
def test_a_damaged_run_is_refused(command, times, tell, warm: Warm, few_photos, tmp_path):
    first, _ = tell("train")
    assert first.again(warm).code == 0
    run, other, pristine = first.place / "out", tmp_path / "other", tmp_path / "pristine"
    second = replace(first, arguments=(*first.arguments, "--seed", "1", "--out", str(other)))
    assert second.again(warm).code == 0
    shutil.copytree(run, pristine)
    arguments = {
        "predict": ("predict", run, few_photos / "test", "--json"),
        "ensemble": ("ensemble", run, other, "--out", tmp_path / "both", "--json"),
    }[command]
    undamaged = warm(*arguments).stdout
    draw, faults = random.Random(0), []
    for index in range(share(times)):
        shutil.rmtree(tmp_path / "both", ignore_errors=True)
        copy(pristine, run)
        what = replaced(run / READ[command][index % len(READ[command])], draw)
        done = warm(*arguments)
        wrong = fault(done, lambda: done.stdout == undamaged, {0, 2, 3, 4})  # noqa: B023
        faults += [f"{what}: {wrong}"] if wrong else []
    assert faults == []
