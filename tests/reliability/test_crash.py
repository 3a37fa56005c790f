"""Killed anywhere: the same command again ends as if nothing had happened, and nothing is left."""

import random
import subprocess
import sys
from pathlib import Path

import pytest

from reliability.harness import Story, Warm, cold, environment, names, share

KEPT = """
import sys
from pathlib import Path
from finetune.files import commit, commit_by_name, commit_json, locked
folder, text = Path(sys.argv[1]), sys.argv[2]
with locked(folder):
    commit_json(folder / "a.json", {"text": text})
    commit(folder / "b.bin", lambda file: file.write(text.encode() * 1000))
    commit_by_name(folder / "c.txt", lambda path: path.write_text(text))
"""


def kept(folder: Path, text: str, log: Path, do: str) -> int:
    """Commit three files in a process of its own; its exit code."""
    log.mkdir(parents=True, exist_ok=True)
    steps = {
        "FINETUNE_STEPS": str(log),
        "FINETUNE_STEPS_ROOTS": f"{folder}",
        "FINETUNE_STEPS_DO": do,
    }
    command = [sys.executable, "-c", KEPT, folder, text]
    return subprocess.run(command, env=environment(**steps), check=False).returncode


def steps(log: Path) -> int:
    """How many steps were taken."""
    return (log / "count").stat().st_size


def test_a_file_is_old_or_new_at_every_step_of_a_commit(tmp_path):
    """Every named crash point of files.py, each killed once."""
    assert kept(tmp_path / "whole", "new", tmp_path / "log", "count") == 0
    total = steps(tmp_path / "log")
    assert total >= 12, "three commits make a temporary file, sync, rename and sync their folder"
    for number in range(1, total + 1):
        folder = tmp_path / f"cut-{number}"
        assert kept(folder, "old", tmp_path / "none", "count") == 0
        assert kept(folder, "new", tmp_path / f"log-{number}", f"kill:{number}:0") == -9
        whole = ('{\n  "text": "%s"\n}\n', "%s" * 1000, "%s")
        for name, pattern in zip(("a.json", "b.bin", "c.txt"), whole, strict=True):
            allowed = {pattern.replace("%s", text) for text in ("old", "new")}
            assert (folder / name).read_text() in allowed, f"{name} torn at step {number}"
        assert kept(folder, "new", tmp_path / "none", "count") == 0
        assert names(folder) == names(tmp_path / "whole"), f"left over from step {number}"


def killed(command: Story, log: Path, number: int, delay: float = 0) -> None:
    """Run the command in a process of its own that is killed at a step, or soon after it."""
    command.clear()
    with cold(command, command.steps(log, f"kill:{number}:{delay}")):
        pass


def counted(command: Story, log: Path) -> int:
    """Steps of the uninterrupted command, in a process of its own as it will be killed."""
    with cold(command, command.steps(log, "count")) as process:
        pass
    assert process.returncode == 0
    return steps(log)


@pytest.mark.reliability
@pytest.mark.parametrize("name", ["extract", "train", "compare"])
def test_killed_at_each_step_once(name, tell, tmp_path, warm: Warm):
    command, expected = tell(name)
    total = counted(command, tmp_path / "log")
    for number in range(1, total + 1, total // share(total)):
        killed(command, tmp_path / f"log-{number}", number)
        done = command.again(warm)
        assert done.code == 0, f"killed at step {number}: {done.stderr}"
        assert command.result() == expected, f"killed at step {number}"


@pytest.mark.reliability
@pytest.mark.parametrize(("name", "kills"), [("extract", 100), ("train", 50), ("compare", 30)])
def test_killed_at_random(name, kills, tell, tmp_path, warm: Warm):
    """In a comparison the process that takes the step dies: the driver or the worker, alone."""
    command, expected = tell(name, trials=12)
    total = counted(command, tmp_path / "log")
    draw = random.Random(0)
    for index in range(share(kills)):
        number = draw.randint(1, total)
        killed(command, tmp_path / f"log-{index}", number, draw.uniform(0, 0.5))
        finished = results(command)
        done = command.again(warm, timeout=600)
        assert done.code == 0, f"kill {index} at step {number}: {done.stderr}"
        assert command.result() == expected, f"kill {index} at step {number}"
        assert {path: path.stat().st_mtime_ns for path in finished} == finished, "a trial redone"


def results(command: Story) -> dict[Path, int]:
    """When each finished run of a story was written."""
    found = command.place.rglob("metrics.json")
    return {path: path.stat().st_mtime_ns for path in found}


@pytest.mark.reliability
@pytest.mark.parametrize("delay", [0.0, 0.05, 0.3])
def test_driver_and_worker_killed_together(delay, tell, tmp_path, warm: Warm):
    command, expected = tell("compare")
    total = counted(command, tmp_path / "log")
    for number in range(total // 4, total, total // 4):
        command.clear()
        with cold(command, command.steps(tmp_path / f"log-{number}", f"group:{number}:{delay}")):
            pass
        assert command.again(warm).code == 0
        assert command.result() == expected
