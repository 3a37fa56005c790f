"""The power fails: writes that no fsync followed are lost, torn or reordered; nothing is believed.

A command is recorded once, with all files as they were before each step (``hooks/steps.py``). A
disk after a power cut is made from that: a file whose last content was never synced holds it, an
earlier one, a part of it, zeros or nothing, and an entry of a folder that was not synced since
(made, renamed or removed) is there or is not, each for itself. So POSIX allows it; a journal
allows less (Pillai et al., OSDI 2014).
"""

import json
import random
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import pytest

from reliability.harness import Warm, environment, share
from reliability.test_crash import KEPT

Tree = dict[str, tuple[int, str]]  # path -> inode and digest ("" for a folder)


class Item(NamedTuple):
    """A file or folder as an entry names it."""

    inode: int
    digest: str  # of what was written; "" for a folder
    synced: str | None  # of its content at the last fsync


@dataclass
class Disk:
    """What is certain to survive at some point of a recorded command."""

    blobs: Path
    synced: dict[int, str] = field(default_factory=dict)  # inode -> digest at the last fsync
    entries: dict[str, dict[str, Item]] = field(default_factory=dict)  # synced folder -> entries

    def take(self, step: dict) -> None:
        """One step more."""
        tree: Tree = step["tree"]
        alive = {inode for inode, _ in tree.values()}  # numbers of removed files are given anew
        self.synced = {inode: digest for inode, digest in self.synced.items() if inode in alive}
        path = step["path"]
        if step["kind"] == "fsync" and path in tree and tree[path][1]:
            self.synced[tree[path][0]] = tree[path][1]
        elif step["kind"] == "fsync":
            inside = [name for name in tree if str(Path(name).parent) == path]
            self.entries[path] = {name: self._item(tree[name]) for name in inside}

    def cut(self, tree: Tree, draw: random.Random) -> dict[str, bytes]:
        """Files that a power cut at this point leaves, one possibility of many."""
        found: dict[str, bytes] = {}
        gone: set[str] = set()
        certain = {path for entries in self.entries.values() for path in entries}
        for path in sorted(certain | set(tree)):
            item = self._entry(path, tree, draw)
            if item is None or str(Path(path).parent) in gone:
                gone.add(path)
            elif item.digest:
                found[path] = self._content(item, draw)
        return found

    def _item(self, found: tuple[int, str]) -> Item:
        return Item(*found, self.synced.get(found[0]))

    def _entry(self, path: str, tree: Tree, draw: random.Random) -> Item | None:
        old = self.entries.get(str(Path(path).parent), {}).get(path)
        new = self._item(tree[path]) if path in tree else None
        same = old and new and old.inode == new.inode
        return new if same else draw.choice([old, new])

    def _content(self, item: Item, draw: random.Random) -> bytes:
        data = (self.blobs / item.digest).read_bytes()
        if item.synced == item.digest:
            return data
        earlier = (self.blobs / (item.synced or item.digest)).read_bytes()
        torn = data[: draw.randint(0, len(data))]
        return draw.choice([data, earlier, torn, bytes(len(data)), b""])


def recorded(log: Path) -> list[dict]:
    """The steps of a recorded command, in order."""
    return [json.loads(line) for line in (log / "log").read_text().splitlines()]


def restore(files: dict[str, bytes], place: Path) -> None:
    """Make a place hold these files and nothing else."""
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    for path, data in files.items():
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_bytes(data)


def final(log: Path, place: Path) -> dict:
    """A last step that does nothing: all files as the command leaves them."""
    sys.path.insert(0, str(Path(__file__).with_name("hooks")))
    import steps

    tree = {str(file): steps._file(file, log / "blobs") for file in place.rglob("*")}
    return {"kind": "end", "path": "", "tree": tree}


def kept_twice(place: Path, log: Path) -> list[dict]:
    """Commit three files, and again with other content; the steps of the second time."""
    for text in ("old", "new"):
        (log / text).mkdir(parents=True)
        variables = {
            "FINETUNE_STEPS": str(log / text),
            "FINETUNE_STEPS_ROOTS": str(place),
            "FINETUNE_STEPS_DO": "record",
        }
        command = [sys.executable, "-c", KEPT, place, text]
        subprocess.run(command, env=environment(**variables), check=True)
    return [*recorded(log / "new"), final(log / "new", place)]


def test_a_commit_is_old_or_new_after_a_power_cut(tmp_path):
    place = tmp_path / "place"
    steps = kept_twice(place, tmp_path / "log")
    disk = Disk(tmp_path / "log" / "new" / "blobs")
    before = steps[0]["tree"]
    disk.synced = dict(before.values())
    disk.take({"kind": "fsync", "path": str(place), "tree": before})
    whole = {"a.json": '{\n  "text": "%s"\n}\n', "b.bin": "%s" * 1000, "c.txt": "%s"}
    draw = random.Random(0)
    for number, step in enumerate(steps):
        texts = ("new",) if step["kind"] == "end" else ("old", "new")
        for files in [disk.cut(step["tree"], draw) for _ in range(20)]:
            for name, pattern in whole.items():
                allowed = [pattern.replace("%s", text).encode() for text in texts]
                assert files[str(place / name)] in allowed, f"{name} torn at step {number}"
        disk.take(step)


@pytest.mark.reliability
@pytest.mark.parametrize(("name", "points"), [("extract", 80), ("train", 80), ("compare", 40)])
def test_the_same_command_mends_what_a_power_cut_left(name, points, tell, tmp_path, warm: Warm):
    command, expected = tell(name)
    assert warm(*command.arguments, **command.steps(tmp_path / "log", "record")).code == 0
    steps = [*recorded(tmp_path / "log"), final(tmp_path / "log", command.place)]
    draw = random.Random(0)
    chosen = [*sorted(draw.choices(range(len(steps)), k=share(points))), len(steps) - 1]
    disk = Disk(tmp_path / "log" / "blobs")
    taken = 0
    for point in chosen:
        for step in steps[taken:point]:
            disk.take(step)
        taken = max(taken, point)
        restore(disk.cut(steps[point]["tree"], draw), command.place)
        if point == len(steps) - 1:
            assert command.result() == expected, "what had ended was lost"
        done = command.again(warm)
        assert done.code == 0, f"power cut before step {point}: {done.stderr}"
        assert command.result() == expected, f"power cut before step {point}"
