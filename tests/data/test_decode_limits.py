"""What the one place that opens photos refuses, from the header alone: nothing hangs, fills memory
or runs a program.
"""

import io
import os
import struct
import subprocess
import sys
import textwrap
import zlib

import numpy as np
import pytest
from PIL import Image, features

from finetune.data.decode import FORMATS, MAX_BYTES, MAX_MEMORY, BadPhoto, decode, sides
from finetune.data.photos import Pixels, read_photos


def saved(photo: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    photo.save(file, kind, **options)
    return file.getvalue()


def png(width: int, height: int, colour: int = 2) -> bytes:
    """A PNG of zeros that is compressed a thousand to one."""
    channels = {0: 1, 2: 3, 6: 4}[colour]
    packer = zlib.compressobj(9)
    rows = [packer.compress(bytes(1 + channels * width)) for _ in range(height)]
    body = b"".join(rows) + packer.flush()

    def chunk(name: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    head = struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0)
    parts = chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


@pytest.mark.parametrize("kind", ["EPS", "PPM", "ICO", "PDF", "TGA"])
def test_formats_beyond_the_list_are_no_photos(kind):
    with pytest.raises(BadPhoto, match="no picture in a known format"):
        decode(saved(Image.new("RGB", (32, 32)), kind), 8)


def test_a_photo_of_many_pixels_is_refused_before_it_is_decoded():
    with pytest.raises(BadPhoto, match="megapixels would take"):
        decode(png(9000, 9000), 8)
    with pytest.raises(BadPhoto, match="megapixels would take"):  # long: resized sideways first
        decode(png(1, 2_000_000, 0), 224)


def test_a_large_jpeg_is_scaled_while_it_is_decoded():
    data = saved(Image.new("RGB", (9000, 9000)), "JPEG")
    assert decode(data, 8).shape == (8, 8, 3)
    assert sides(data) == (9000, 9000)


def test_a_progressive_jpeg_holds_all_its_coefficients():
    with pytest.raises(BadPhoto, match="megapixels would take"):
        decode(saved(Image.new("RGB", (13_000, 13_000)), "JPEG", progressive=True), 8)


def test_endless_scans_are_refused():
    data = saved(Image.new("RGB", (64, 64)), "JPEG", progressive=True)
    start = data.rindex(b"\xff\xda")
    end = data.rindex(b"\xff\xd9")
    with pytest.raises(BadPhoto, match="scans; allowed"):
        decode(data[:end] + data[start:end] * 1000 + data[end:], 8)


def test_a_tiff_whose_tile_is_larger_than_any_photo_is_refused():
    # width, height, bits, Adobe deflate, black is zero, samples, the tile's sides, offset, bytes
    tags = {
        256: 16,
        257: 16,
        258: 8,
        259: 8,
        262: 1,
        277: 1,
        322: 10_000,
        323: 10_000,
        324: 8,
        325: 9,
    }
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    directory = struct.pack("<H", len(tags)) + entries + bytes(4)
    data = b"II*\0" + struct.pack("<I", 20) + bytes(12) + directory
    assert sides(data) == (16, 16)
    with pytest.raises(BadPhoto, match="would take"):
        decode(data, 8)


@pytest.mark.parametrize(
    "pixels",
    [
        np.full((8, 8), np.nan, np.float32),
        np.full((8, 8), -0.5, np.float32),
        np.full((8, 8), np.inf, np.float32),
        np.full((8, 8), -7, np.int32),
        np.full((8, 8), 70_000, np.int32),
    ],
)
def test_values_that_no_photo_has_are_bad_and_not_black(pixels):
    with pytest.raises(BadPhoto, match="allowed: 0 to"):
        decode(saved(Image.fromarray(pixels), "TIFF"), 8)


def test_a_sparse_giant_is_refused_without_being_read(tmp_path):
    path = tmp_path / "x.jpg"
    path.touch()
    os.truncate(path, 2_500_000_000)
    ((_, reason),) = read_photos(Pixels(8), [path])
    assert f"{MAX_BYTES:,}" in reason


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow has no AVIF")
def test_avif_is_a_photo_where_pillow_has_it():
    assert "AVIF" in FORMATS
    assert decode(saved(Image.new("RGB", (32, 32), "red"), "AVIF"), 8)[0, 0, 0] > 240


def test_decoding_says_nothing_on_stderr():
    """libtiff writes to file descriptor 2 by itself, and Pillow warns."""
    program = """
        import io, warnings
        from PIL import Image
        from finetune.data.decode import BadPhoto, decode
        file = io.BytesIO()
        Image.effect_noise((64, 64), 50).save(file, "TIFF", compression="tiff_lzw")
        data = file.getvalue()
        for cut in range(8, len(data), len(data) // 50):
            for broken in (data[:cut], data[:cut] + bytes(20) + data[cut + 20:]):
                try:
                    decode(broken, 8)
                except BadPhoto:
                    pass
        file = io.BytesIO()
        Image.new("L", (9500, 9500)).save(file, "JPEG")
        decode(file.getvalue(), 8)
    """
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, check=True
    )
    assert result.stderr == ""


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak from /proc")
@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "I;16", "RGB"])
def test_the_largest_photo_stays_below_its_limit(mode):
    """At a tenth of the size: what is held at once is proportional to the pixels."""
    side = int((MAX_MEMORY / 10 / 16) ** 0.5) - 20
    program = f"""
        import io, resource
        from PIL import Image
        from finetune.data.decode import decode
        from finetune.backend import peak_bytes, reset_peak
        small, large = (io.BytesIO(), io.BytesIO())
        extra = {{"transparency": 0}} if {mode!r} == "P" else {{}}
        Image.new({mode!r}, (32, 32)).save(small, "PNG", **extra)
        Image.new({mode!r}, ({side}, {side})).save(large, "PNG", **extra)
        decode(small.getvalue(), 224)
        reset_peak()
        before = peak_bytes()
        decode(large.getvalue(), 224)
        print(peak_bytes() - before)
    """
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, check=True
    )
    assert int(result.stdout) < MAX_MEMORY / 10 + 10_000_000
