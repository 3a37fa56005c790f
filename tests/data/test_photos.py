"""Every kind of picture file becomes the same upright RGB pixels, or a BadPhoto."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

from finetune.data.photos import RESIZE_MODES, SUFFIXES, BadPhoto, decode

SIZE = 32


def scene(width: int = 48, height: int = 32) -> Image.Image:
    """A picture without any symmetry: two gradients and a blue corner."""
    y, x = np.mgrid[:height, :width]
    pixels = np.stack([255 * x // width, 255 * y // height, np.zeros_like(x)], axis=-1).astype(
        np.uint8
    )
    pixels[: height // 4, : width // 4, 2] = 255
    return Image.fromarray(pixels)


def encode(photo: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    photo.save(file, kind, **options)
    return file.getvalue()


def expected(photo: Image.Image, size: int = SIZE) -> np.ndarray:
    return np.asarray(photo.convert("RGB").resize((size, size), Image.Resampling.BILINEAR))


def difference(data: bytes, pixels: np.ndarray) -> float:
    return float(np.abs(decode(data, len(pixels)).astype(int) - pixels).mean())


# How a camera that was held so has stored an upright scene: what undoes the orientation's meaning.
STORED = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def stored(photo: Image.Image, orientation: int, kind: str) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    turned = photo if STORED[orientation] is None else photo.transpose(STORED[orientation])
    return encode(
        turned, kind, exif=exif, **({"quality": 95, "subsampling": 0} if kind == "JPEG" else {})
    )


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("resize", RESIZE_MODES)
def test_exif_orientations_give_the_same_pixels(orientation: int, resize: str) -> None:
    upright = decode(encode(scene()), SIZE, resize)
    np.testing.assert_array_equal(
        decode(stored(scene(), orientation, "PNG"), SIZE, resize), upright
    )


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "TIFF"])
@pytest.mark.parametrize(
    "shape", [(48, 32), (400, 300)]
)  # the larger JPEG is scaled while it is decoded
def test_exif_orientations_of_other_formats(
    orientation: int, kind: str, shape: tuple[int, int]
) -> None:
    assert difference(stored(scene(*shape), orientation, kind), expected(scene(*shape))) < 4


def test_scaling_while_decoding_loses_nothing_that_shows() -> None:
    dots = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    data = encode(
        Image.fromarray(dots).resize((512, 512), Image.Resampling.NEAREST), "JPEG", quality=95
    )
    with Image.open(io.BytesIO(data)) as photo:
        assert difference(data, expected(photo, 64)) < 8


def test_result_is_square_rgb_bytes() -> None:
    for resize in RESIZE_MODES:
        pixels = decode(encode(scene()), 24, resize)
        assert pixels.shape == (24, 24, 3)
        assert pixels.dtype == np.uint8


def test_resize_modes() -> None:
    data = encode(scene(64, 32))
    np.testing.assert_array_equal(decode(data, 32), expected(scene(64, 32)))
    np.testing.assert_array_equal(decode(data, 32, "crop"), np.asarray(scene(64, 32))[:, 16:48])
    padded = decode(data, 32, "pad")
    assert not padded[:8].any()
    assert not padded[24:].any()
    assert padded[8:24].any(axis=-1).mean() > 0.9


def test_shrinking_is_antialiased() -> None:
    stripes = np.zeros((256, 256, 3), np.uint8)
    stripes[:, ::2] = 255
    pixels = decode(encode(Image.fromarray(stripes)), 32)
    assert abs(int(pixels.min()) - 127) < 8
    assert abs(int(pixels.max()) - 127) < 8


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "WEBP", "GIF"])
def test_lossless_formats(kind: str) -> None:
    photo = scene().quantize(64).convert("RGB")
    data = encode(photo, kind, **({"lossless": True} if kind == "WEBP" else {}))
    np.testing.assert_array_equal(decode(data, SIZE), expected(photo))


def test_suffixes_are_those_that_are_promised() -> None:
    assert {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif"} <= SUFFIXES


def test_cmyk_jpeg() -> None:
    colours = Image.new("RGB", (48, 32), (200, 40, 90))
    data = encode(colours.convert("CMYK"), "JPEG", quality=95)
    assert Image.open(io.BytesIO(data)).mode == "CMYK"
    assert difference(data, expected(colours)) < 4
    assert difference(encode(scene().convert("CMYK"), "TIFF"), expected(scene())) < 2


@pytest.mark.parametrize("mode", ["L", "1", "P"])
def test_grey_black_and_white_and_palette(mode: str) -> None:
    photo = scene().convert(mode)
    data = encode(photo)
    assert Image.open(io.BytesIO(data)).mode == mode
    np.testing.assert_array_equal(decode(data, SIZE), expected(photo))
    if mode != "P":
        assert (np.ptp(decode(data, SIZE), axis=-1) == 0).all()


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_alpha_shows_white_paper(mode: str) -> None:
    alpha = np.zeros((32, 32), np.uint8)
    alpha[:, 8:16], alpha[:, 16:] = 128, 255
    photo = Image.new(mode[:-1], (32, 32), 0)  # black under the alpha, which must not show
    photo.putalpha(Image.fromarray(alpha))
    assert photo.mode == mode
    pixels = decode(encode(photo), 32)
    assert (pixels[:, :8] == 255).all()
    assert (abs(pixels[:, 8:16].astype(int) - 127) <= 1).all()
    assert (pixels[:, 16:] == 0).all()


@pytest.mark.parametrize("kind", ["PNG", "GIF"])
def test_palette_with_transparency_shows_white_paper(kind: str) -> None:
    photo = Image.fromarray(
        np.repeat([[0, 1]], 16, axis=1).repeat(32, axis=0).astype(np.uint8), mode="P"
    )
    photo.putpalette([10, 20, 30, 200, 100, 50])
    pixels = decode(encode(photo, kind, transparency=0), 32)
    assert (pixels[:, :16] == 255).all()
    assert (pixels[:, 16:] == [200, 100, 50]).all()
    several = decode(encode(photo, transparency=bytes([0, 128])), 32) if kind == "PNG" else pixels
    assert (several[:, :16] == 255).all()


def test_rgb_with_a_transparent_colour() -> None:
    pixels = decode(encode(Image.new("RGB", (8, 8), (1, 2, 3)), transparency=(1, 2, 3)), 8)
    assert (pixels == 255).all()


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bit_grey_is_scaled_and_not_clipped(kind: str) -> None:
    ramp = np.linspace(0, 65535, 32, dtype=np.uint16)[None].repeat(32, axis=0)
    data = encode(Image.fromarray(ramp), kind)
    assert Image.open(io.BytesIO(data)).mode.startswith("I")
    pixels = decode(data, 32).astype(int)
    assert (abs(pixels - (ramp / 257)[..., None]) <= 1).all()
    assert pixels.min() == 0
    assert pixels.max() == 255


def test_floating_point_tiff() -> None:
    ramp = np.linspace(0, 1, 32, dtype=np.float32)[None].repeat(32, axis=0)
    assert (
        abs(decode(encode(Image.fromarray(ramp), "TIFF"), 32).astype(int) - 255 * ramp[..., None])
        <= 1
    ).all()
    with pytest.raises(BadPhoto, match="allowed: 0 to 1"):
        decode(encode(Image.fromarray(300 * ramp), "TIFF"), 32)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_first_frame_of_animations(kind: str) -> None:
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "lime", "blue")]
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encode(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    assert Image.open(io.BytesIO(data)).n_frames == 3
    assert (decode(data, 8) == [255, 0, 0]).all()


def test_one_pixel_and_long_strips() -> None:
    assert (decode(encode(Image.new("RGB", (1, 1), "red")), 16) == [255, 0, 0]).all()
    for resize in RESIZE_MODES:
        assert decode(encode(Image.new("RGB", (500, 1), "red")), 16, resize).shape == (16, 16, 3)


def test_decoding_is_by_content_and_repeatable() -> None:
    data = encode(scene(), "JPEG")
    np.testing.assert_array_equal(decode(data, SIZE), decode(bytes(data), SIZE))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP"])
@pytest.mark.parametrize("keep", [0.3, 0.9])
def test_truncated_files_are_bad(kind: str, keep: float) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    data = encode(noise, kind)
    decode(data, SIZE)
    with pytest.raises(BadPhoto):
        decode(data[: int(keep * len(data))], SIZE)


def test_large_truncated_jpeg_is_bad() -> None:
    data = encode(scene(800, 600), "JPEG")
    with pytest.raises(BadPhoto, match="truncated"):
        decode(data[: len(data) // 2], SIZE)


@pytest.mark.parametrize(
    "data", [b"", b"no picture at all\n" * 50, b"\xff\xd8\xff\xe0", b"RIFF....WEBP", bytes(1000)]
)
def test_no_picture_is_bad_and_says_why(data: bytes) -> None:
    with pytest.raises(BadPhoto) as caught:
        decode(data, SIZE)
    assert str(caught.value)


def test_a_picture_too_large_to_be_a_photo_is_bad() -> None:
    data = bytearray(encode(scene()))
    data[16:24] = struct.pack(">II", 30_000, 20_000)  # width and height in the PNG's header
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    with pytest.raises(BadPhoto, match="600000000 pixels"):
        decode(bytes(data), SIZE)


def test_exif_upright_equals_pillows_own() -> None:
    data = stored(scene(), 6, "PNG")
    with Image.open(io.BytesIO(data)) as photo:
        np.testing.assert_array_equal(decode(data, SIZE), expected(ImageOps.exif_transpose(photo)))
