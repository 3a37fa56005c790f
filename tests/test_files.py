"""The commit protocol: the old file or the new one, never a part."""

import json
import os
import stat

import pytest

from finetune import files
from finetune.errors import BusyError
from finetune.files import commit, commit_by_name, commit_json, commit_text, locked


def half(file):
    file.write(b"half of the n")
    raise OSError(28, "No space left on device")


def half_by_name(path):
    with path.open("wb") as file:
        half(file)


@pytest.mark.parametrize(("how", "write"), [(commit, half), (commit_by_name, half_by_name)])
def test_a_failing_write_leaves_the_old_file_and_nothing_else(tmp_path, how, write):
    commit_text(tmp_path / "a.txt", "old")
    with pytest.raises(OSError, match="No space"):
        how(tmp_path / "a.txt", write)
    assert (tmp_path / "a.txt").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_the_file_is_synced_before_it_is_renamed_and_the_folder_after(tmp_path, monkeypatch):
    order = []
    fsync, replace = os.fsync, os.replace

    def synced(handle):
        order.append("folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else "file")
        fsync(handle)

    monkeypatch.setattr(files.os, "fsync", synced)
    monkeypatch.setattr(files.os, "replace", lambda a, b: (order.append("rename"), replace(a, b)))
    commit_text(tmp_path / "new" / "a.txt", "text")
    assert order == ["file", "rename", "folder"]
    commit_by_name(tmp_path / "new" / "a.txt", lambda path: path.write_text("by name"))
    assert order == 2 * ["file", "rename", "folder"]
    assert (tmp_path / "new" / "a.txt").read_text() == "by name"
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.txt"]


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
