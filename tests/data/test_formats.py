"""Photos as telephones and browsers save them: AVIF and HEIC, where Pillow can read them."""

import io

import numpy as np
import pytest
from PIL import Image, features

from finetune.data.decode import SUFFIXES, decode
from finetune.data.photos import list_photos

RAMP = np.linspace(0, 255, 64, dtype=np.uint8)
PICTURE = np.stack(np.broadcast_arrays(RAMP[:, None], RAMP[None], np.uint8(90)), axis=-1)


def saved(name: str) -> bytes:
    if name == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    if name == "HEIF":
        pytest.importorskip("pillow_heif").register_heif_opener()
    file = io.BytesIO()
    Image.fromarray(PICTURE).save(file, name, quality=90)
    return file.getvalue()


@pytest.mark.parametrize(("name", "suffixes"), [("AVIF", {".avif"}), ("HEIF", {".heic", ".heif"})])
def test_a_photo_is_listed_and_decoded(name, suffixes, tmp_path):
    data = saved(name)
    assert suffixes <= SUFFIXES
    found = decode(data, 64)
    assert found.shape == (64, 64, 3)
    assert np.abs(found.astype(int) - PICTURE).mean() < 4
    for suffix in suffixes:
        (tmp_path / f"a{suffix}").write_bytes(data)
    assert {path.suffix for path in list_photos([tmp_path])} == suffixes
