"""A thousand photo files: plain ones, 60 oddities that are photos, and 28 that are none.

python -m reliability.generators.photos FOLDER     (in tests/)
"""

import io
import random
import struct
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image


def scene(seed: int, width: int = 40, height: int = 30, mode: str = "RGB") -> Image.Image:
    """A gradient with noise, of any 8-bit mode."""
    noise = np.random.default_rng(seed).integers(0, 60, (height, width, 3))
    ramp = np.linspace(0, 190, width).astype(int)[None, :, None]
    return Image.fromarray((noise + ramp).astype(np.uint8)).convert(mode)


def encoded(photo: Image.Image, kind: str, **options: object) -> bytes:
    """A photo in a file format of Pillow's."""
    file = io.BytesIO()
    photo.save(file, kind, **options)
    return file.getvalue()


def array(values: np.ndarray, kind: str = "TIFF") -> bytes:
    """Raw samples as a file."""
    return encoded(Image.fromarray(values), kind)


def chunk(name: bytes, data: bytes) -> bytes:
    """A chunk of a PNG file."""
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(width: int, height: int, depth: int, color: int, body: bytes) -> bytes:
    """A PNG file whose header says what it likes."""
    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def exif(orientation: int) -> Image.Exif:
    """Nothing but an orientation."""
    found = Image.Exif()
    found[0x0112] = orientation
    return found


def _frames() -> dict[str, object]:
    return {"save_all": True, "append_images": [scene(90), scene(91)]}


_GREY = np.linspace(0, 1, 30 * 40, dtype=np.float32).reshape(30, 40)

# name -> bytes; every one of these is a photo.
ODD: dict[str, Callable[[], bytes]] = {
    **{
        f"png-{mode.replace(';', '')}.png": lambda mode=mode: encoded(scene(1, mode=mode), "PNG")
        for mode in ("1", "L", "LA", "P", "RGB", "RGBA")
    },
    **{f"exif-{n}.jpg": lambda n=n: encoded(scene(n), "JPEG", exif=exif(n)) for n in range(1, 9)},
    **{f"exif-{n}.webp": lambda n=n: encoded(scene(n), "WEBP", exif=exif(n)) for n in (6, 8)},
    **{f"exif-{n}.tif": lambda n=n: encoded(scene(n), "TIFF", exif=exif(n)) for n in (6, 8)},
    **{f"jpeg-{m}.jpg": lambda m=m: encoded(scene(2, mode=m), "JPEG") for m in ("L", "CMYK")},
    **{f"sub-{n}.jpg": lambda n=n: encoded(scene(3), "JPEG", subsampling=n) for n in (0, 1, 2)},
    **{f"quality-{n}.jpg": lambda n=n: encoded(scene(4), "JPEG", quality=n) for n in (1, 100)},
    **{f"bmp-{m}.bmp": lambda m=m: encoded(scene(5, mode=m), "BMP")
       for m in ("1", "L", "P", "RGB")},
    **{f"gif-{m}.gif": lambda m=m: encoded(scene(6, mode=m), "GIF") for m in ("L", "P")},
    **{f"tiff-{m}.tif": lambda m=m: encoded(scene(7, mode=m), "TIFF")
       for m in ("1", "L", "P", "RGB", "RGBA", "CMYK")},
    **{f"tiff-{c}.tiff": lambda c=c: encoded(scene(8), "TIFF", compression=c)
       for c in ("tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg")},
    "progressive.jpg": lambda: encoded(scene(9), "JPEG", progressive=True),
    "sixteen-bits.png": lambda: array((_GREY * 65535).astype(np.uint16), "PNG"),
    "sixteen-bits.tif": lambda: array((_GREY * 65535).astype(np.uint16)),
    "floats.tif": lambda: array(_GREY),
    "animation.gif": lambda: encoded(scene(11), "GIF", **_frames()),
    "animation.webp": lambda: encoded(scene(12), "WEBP", **_frames()),
    "animation.png": lambda: encoded(scene(13), "PNG", **_frames()),
    "pages.tif": lambda: encoded(scene(14), "TIFF", **_frames()),
    "two-views.jpg": lambda: encoded(scene(15), "MPO", **_frames()),
    "lossless.webp": lambda: encoded(scene(16), "WEBP", lossless=True),
    "one-pixel.png": lambda: encoded(scene(18, 1, 1), "PNG"),
    "line.png": lambda: encoded(scene(19, 3000, 1), "PNG"),
    "column.jpg": lambda: encoded(scene(20, 1, 3000), "JPEG"),
    "a-png.jpg": lambda: encoded(scene(21), "PNG"),
    "a-jpeg.png": lambda: encoded(scene(22), "JPEG"),
    "UPPER.JPEG": lambda: encoded(scene(23), "JPEG", optimize=True),
    "tail.jpg": lambda: encoded(scene(24), "JPEG") + b"tail" * 100,
    "comment.jpg": lambda: encoded(scene(25), "JPEG", comment=b"\0\x1b[31m" * 1000),
    "large.jpg": lambda: encoded(scene(26, 2000, 1500), "JPEG"),
}  # fmt: skip


def part(kind: str, share: float) -> Callable[[], bytes]:
    """The beginning of a file."""
    return lambda: (data := encoded(scene(50, 200, 150), kind))[: int(share * len(data))]


def bomb(width: int, height: int) -> bytes:
    """A PNG of one grey bit per pixel, all black: a hundred megapixels in ten kilobytes."""
    squeeze = zlib.compressobj(9)
    row = bytes(1 + (width + 7) // 8)
    return png(
        width,
        height,
        1,
        0,
        b"".join(squeeze.compress(row) for _ in range(height)) + squeeze.flush(),
    )


_GIF = struct.pack("<6sHHBBB", b"GIF89a", 65535, 65535, 0x80, 0, 0) + bytes(6)
_FRAME = struct.pack("<BHHHHB", 0x2C, 0, 0, 65535, 65535, 0) + b"\x02\x02\x4c\x01\x00;"

# name -> bytes; none of these is a photo that can be had.
BROKEN: dict[str, Callable[[], bytes]] = {
    "empty.jpg": lambda: b"",
    "byte.png": lambda: b"\x89",
    "text.jpg": lambda: b"no photo",
    "page.jpg": lambda: b"<html><body>404</body></html>",
    **{f"part-{n}.jpg": part("JPEG", n / 100) for n in (2, 30, 60, 90)},
    **{f"part-{n}.png": part("PNG", n / 100) for n in (10, 50, 90)},
    **{f"part-{n}.webp": part("WEBP", n / 100) for n in (10, 50)},
    "part.bmp": part("BMP", 0.5),
    "part.tif": part("TIFF", 0.5),
    "noise.png": lambda: png(40, 30, 8, 2, b"\xff" * 500),
    "flat.png": lambda: png(0, 0, 8, 2, zlib.compress(b"")),
    "deep.png": lambda: png(40, 30, 99, 2, zlib.compress(bytes(4000))),
    "short.png": lambda: png(40, 30, 8, 2, zlib.compress(bytes(40))),
    "crc.png": lambda: encoded(scene(51), "PNG").replace(b"IHDR", b"IHDS", 1),
    "wide.png": lambda: bomb(60000, 60000),
    "wide.gif": lambda: _GIF + _FRAME,
    "postscript.jpg": lambda: encoded(scene(52), "EPS"),
    "document.jpg": lambda: encoded(scene(53), "PDF"),
    "portable.png": lambda: encoded(scene(54), "PPM"),
    "targa.jpg": lambda: encoded(scene(55), "TGA"),
    "nan.tif": lambda: array(np.full((30, 40), np.nan, np.float32)),
    "negative.tif": lambda: array(_GREY - 0.5),
}  # fmt: skip


def write(folder: Path, count: int = 1000) -> tuple[set[str], set[str]]:
    """Write ``count`` files into two classes; returns the names of the good and of the broken."""
    made = {name: make() for name, make in {**ODD, **BROKEN}.items()}
    draw = random.Random(0)
    for index in range(count - len(made)):
        size = draw.randint(8, 90), draw.randint(8, 90)
        kind = draw.choice(["JPEG", "PNG", "WEBP"])
        made[f"plain-{index}.{kind.lower()}"] = encoded(scene(1000 + index, *size), kind)
    for index, (name, data) in enumerate(sorted(made.items())):
        target = folder / ("apples", "plums")[index % 2] / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
    return set(made) - set(BROKEN), set(BROKEN)


# Bytes of file names (without suffix) that break careless programs.
NAMES = (
    b"caf\xe9", b"\xff\xfe", b"new\nline", b"tab\tand\rreturn", b"\x1b[31mred", b"\x1b]0;title\x07",
    b"=1+1", b"+cmd|' -C calc'!A0", b"-rf", b"@SUM(A1)", b'quote"d', b"com,ma;semi",
    b"<script>alert(1)",
    b"&amp;", b"{{7*7}}", b"{% raw %}", b"%s%n", b"$(reboot)", b"`id`", b"a b  c", b"x" * 240,
    "\u202eright-to-left".encode(), "e\u0301".encode(), "\u00e9".encode(), "\U0001f4f7".encode(),
    b"back\\slash", b"\\x41", b"dots..dots", b"#1?x=y", b"nul", b"c:drive",
)  # fmt: skip

if __name__ == "__main__":
    write(Path(sys.argv[1]))
