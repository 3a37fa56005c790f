"""Text on contact sheets: any file name can be laid out."""

import pytest
from PIL import Image

from finetune.evaluation.overlays import Tile, contact_sheet


@pytest.mark.parametrize(
    "name", ["two\nlines.png", "tab\t.png", "bad \udcff byte.png", "nul\0.png"]
)
def test_any_file_name_can_be_written(name):
    tile = Tile(Image.new("RGB", (20, 20)), [name, name])
    plain = Tile(Image.new("RGB", (20, 20)), ["plain.png"] * 2)
    assert contact_sheet([[tile]], title=name).height == contact_sheet([[plain]], title="x").height
