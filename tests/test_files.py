"""The commit protocol: the old file or the new one, never a part."""

import errno
import json
import os
import re
import stat
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from finetune import files
from finetune.errors import BusyError
from finetune.files import (
    commit,
    commit_by_name,
    commit_json,
    commit_text,
    digest_of,
    locked,
    writing,
)


def half(file):
    file.write(b"half of the n")
    raise OSError(28, "No space left on device")


def half_by_name(path):
    with path.open("wb") as file:
        half(file)


@pytest.mark.parametrize(("how", "write"), [(commit, half), (commit_by_name, half_by_name)])
def test_a_failing_write_leaves_the_old_file_and_nothing_else(tmp_path, how, write):
    commit_text(tmp_path / "a.txt", "old")
    with pytest.raises(BusyError, match=r"disk is full: .*a\.txt \(1,234 bytes\)") as caught:
        how(tmp_path / "a.txt", write, 1234)
    assert caught.value.exit_code == 75
    assert (tmp_path / "a.txt").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


@pytest.mark.parametrize("call", [1, 2, 3])  # of the new folder's entry, the file, the folder
def test_every_sync_that_finds_a_full_disk_names_the_path(tmp_path, monkeypatch, call):
    calls = []

    def full(handle):
        calls.append(handle)
        if len(calls) == call:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(BusyError, match=re.escape(str(tmp_path / "new"))):
        commit_text(tmp_path / "new" / "a.txt", "text")


def test_the_file_is_synced_before_it_is_renamed_and_the_folder_after(tmp_path, monkeypatch):
    order = []
    fsync, replace = os.fsync, os.replace

    def synced(handle):
        order.append("folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else "file")
        fsync(handle)

    monkeypatch.setattr(files.os, "fsync", synced)
    monkeypatch.setattr(files.os, "replace", lambda a, b: (order.append("rename"), replace(a, b)))
    commit_text(tmp_path / "new" / "a.txt", "text")
    assert order == ["folder", "file", "rename", "folder"], "the new folder's own entry first"
    order.clear()
    commit_by_name(tmp_path / "new" / "a.txt", lambda path: path.write_text("by name"))
    assert order == ["file", "rename", "folder"]
    assert (tmp_path / "new" / "a.txt").read_text() == "by name"
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.txt"]


@pytest.mark.skipif(sys.platform != "linux", reason="/proc names what is synced")
def test_all_of_a_folder_is_synced_before_it_is_renamed(tmp_path, monkeypatch):
    synced = []
    fsync = os.fsync

    def noted(handle):
        synced.append(Path(os.readlink(f"/proc/self/fd/{handle}")).name)
        fsync(handle)

    def write(folder):
        (folder / "a").mkdir()
        (folder / "a" / "1.png").write_bytes(b"photo")

    monkeypatch.setattr(files.os, "fsync", noted)
    files.commit_folder(tmp_path / "set", write)
    assert (tmp_path / "set" / "a" / "1.png").read_bytes() == b"photo"
    assert {"1.png", "a"} < set(synced)
    assert synced[-1] == tmp_path.name, "the rename comes after"


def test_modes_follow_the_umask_and_json_refuses_nan(tmp_path):
    (tmp_path / "plain").write_text("")
    commit_json(tmp_path / "a.json", {"x": [1, "é"]})
    assert json.loads((tmp_path / "a.json").read_text()) == {"x": [1, "é"]}
    assert (tmp_path / "a.json").stat().st_mode == (tmp_path / "plain").stat().st_mode
    with pytest.raises(ValueError, match="JSON"):
        commit_json(tmp_path / "a.json", {"x": float("nan")})
    assert json.loads((tmp_path / "a.json").read_text()) == {"x": [1, "é"]}


def test_a_folder_is_held_by_one(tmp_path):
    with (
        locked(tmp_path / "f"),
        pytest.raises(BusyError, match="Another process works in") as caught,
        locked(tmp_path / "f"),
    ):
        pass
    assert caught.value.exit_code == 75
    with locked(tmp_path / "f"):
        pass


def commit_then_fail(path):
    commit_text(path, "kept")
    raise RuntimeError


def test_a_failure_leaves_no_empty_folder_and_takes_no_one_elses(tmp_path):
    with pytest.raises(RuntimeError), locked(tmp_path / "new"):
        raise RuntimeError
    assert not (tmp_path / "new").exists()
    (tmp_path / "old").mkdir()
    with pytest.raises(RuntimeError), locked(tmp_path / "old"):
        raise RuntimeError
    assert (tmp_path / "old").exists()
    with pytest.raises(RuntimeError), locked(tmp_path / "used"):
        commit_then_fail(tmp_path / "used" / "a.txt")
    assert (tmp_path / "used" / "a.txt").read_text() == "kept"


def test_temporary_files_of_killed_writers_are_swept(tmp_path):
    (tmp_path / ".model.keras.x.tmp").mkdir()
    (tmp_path / ".model.keras.x.tmp" / "model.keras").write_text("half")
    (tmp_path / ".a.txt.y.tmp").write_text("half")
    (tmp_path / "mine.tmp").write_text("kept")
    with locked(tmp_path):
        pass
    assert {path.name for path in tmp_path.iterdir()} <= {"mine.tmp", ".lock"}


def test_a_digest_is_of_the_value_and_not_of_its_text():
    assert digest_of({"a": 1, "b": [0.1]}) == digest_of({"b": [0.1], "a": 1})
    assert digest_of({"a": 1}) != digest_of({"a": 2})


def test_a_table_keeps_its_digits_and_holds_no_formula(tmp_path):
    table = pd.DataFrame({"=file": ["=1+1", "'quoted", "plain"], "p": np.float32([0.1, 0.2, 1])})
    files.commit_csv(tmp_path / "a.csv", table)
    text = (tmp_path / "a.csv").read_text()
    assert text == "'=file,p\n'=1+1,0.1\n''quoted,0.2\nplain,1.0\n"
    files.commit_csv(tmp_path / "empty.csv", table[:0])
    assert (tmp_path / "empty.csv").read_text() == "'=file,p\n"


def test_a_writer_of_the_cache_sweeps_what_killed_ones_left(tmp_path):
    folder = tmp_path / "cache" / "networks"
    folder.mkdir(parents=True)
    (folder / ".graph.xml.x.tmp").write_text("half")
    with writing(folder):
        commit_text(folder / "graph.xml", "whole")
    assert {path.name for path in folder.iterdir()} == {"graph.xml", ".lock"}
