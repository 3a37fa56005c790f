"""A full disk is met before work begins, and told from other failures."""

import os

import pytest

from finetune.disk import library_writes, need_space
from finetune.errors import BusyError


def test_space_is_asked_for_before_work_begins(tmp_path):
    need_space(tmp_path / "not" / "there", 1)
    with pytest.raises(BusyError, match="bytes are needed"):
        need_space(tmp_path / "not" / "there", 2**60)


def fail():
    raise RuntimeError("basic_ios::clear: iostream error")


def test_a_library_that_failed_on_a_full_disk_says_so(tmp_path, monkeypatch):
    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(BusyError, match=f"The disk is full: {tmp_path}"), library_writes(tmp_path):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_a_library_that_failed_for_another_reason_is_not_explained_away(tmp_path):
    with pytest.raises(RuntimeError, match="iostream"), library_writes(tmp_path):
        fail()
    assert list(tmp_path.iterdir()) == []
