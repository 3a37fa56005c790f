"""The report's galleries find their photos again."""

import os
from pathlib import Path

import pytest
from conftest import paint

from finetune.data.photos import printable
from finetune.report import galleries


@pytest.mark.skipif(os.name == "nt", reason="file names are text there")
@pytest.mark.parametrize("name", [b"caf\xe9.png", b"back\\slash.png", b"new\nline.png"])
def test_a_photo_of_any_name_is_shown(tmp_path, name):
    path = tmp_path / os.fsdecode(name)
    paint(path, (200, 60, 50), 0)
    file = printable(Path(os.fsdecode(name)))
    file.encode()
    shown = galleries.thumbnail(tmp_path, file)
    assert (shown["width"], shown["height"]) == (160, 120)
    assert shown["src"]
