"""Broken and odd picture files: each is decoded rightly or refused with its name, never guessed."""

import io
import os
import struct
import time
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from random import Random

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from dalle.errors import DataError
from dalle.picture_files import open_image

ROWS, COLS = np.mgrid[0:48, 0:64]
PIXELS = np.stack([COLS * 4, ROWS * 5, (COLS + ROWS) * 2], -1).astype(np.uint8)
PICTURE = Image.fromarray(PIXELS)
GREY = np.asarray(PICTURE.convert("L"))


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(width: int, height: int, depth: int, colour: int, data: bytes, extra: bytes = b"") -> bytes:
    """A PNG of any header: `data` are the rows, each with its filter byte."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + extra
        + chunk(b"IDAT", zlib.compress(data, 9))
        + chunk(b"IEND", b"")
    )


def deep(channels: np.ndarray) -> bytes:
    """The rows of a 16-bit PNG, 257 times the 8-bit values."""
    wide = (channels.astype(np.uint32) * 257).astype(">u2")
    return b"".join(b"\0" + row.tobytes() for row in wide)


JPEG = encoded(PICTURE, "JPEG", quality=95)
PNG = encoded(PICTURE, "PNG")
DECODED_JPEG = np.asarray(Image.open(io.BytesIO(JPEG)).convert("RGB"))


def flipped() -> bytes:
    data = bytearray(PNG)
    data[(PNG.index(b"IDAT") + len(PNG)) // 2] ^= 0xFF
    return bytes(data)


def lying() -> bytes:
    header = struct.pack(">IIBBBBB", 4096, 4096, 8, 2, 0, 0, 0)
    return PNG[:8] + chunk(b"IHDR", header) + PNG[33:]


def text_bomb() -> bytes:
    text = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(b"A" * (64 << 20), 1))
    return PNG[:33] + text + PNG[33:]


BROKEN: dict[str, tuple[Callable[[], bytes], str]] = {
    "half.png": (lambda: PNG[: len(PNG) // 2], "cannot be decoded"),
    "header.png": (lambda: PNG[:20], "cannot be decoded"),
    "no-palette.png": (lambda: png(8, 8, 8, 3, 8 * bytes(9)), r"cannot be decoded: \w"),
    "cut.jpg": (lambda: JPEG[: len(JPEG) * 6 // 10], "truncated"),
    "header-only.jpg": (lambda: JPEG[:180], "is no JPEG, PNG, WebP or GIF"),
    "no-end.jpg": (lambda: JPEG[:-2], "truncated"),
    "empty.jpg": (lambda: b"", "is no JPEG, PNG, WebP or GIF"),
    "page.png": (lambda: b"<!DOCTYPE html><title>404 Not Found</title>", "is no JPEG"),
    "flipped.png": (flipped, "cannot be decoded"),
    "lying.png": (lying, "truncated"),
    "text-bomb.png": (text_bomb, "too large"),
    "bomb.png": (lambda: png(40000, 40000, 1, 0, b"\0" * 5001), "1600000000 pixels"),
    "large.png": (lambda: png(12000, 10000, 1, 0, b"\0" * 1501), "12000 x 10000 pixels"),
    "large.webp": (lambda: webp_header(16383, 16383), "cannot be decoded|pixels"),
    "float.tiff": (lambda: encoded(PICTURE.convert("F"), "TIFF"), "is no JPEG"),
    "two-pages.tiff": (lambda: encoded(PICTURE, "TIFF"), "is no JPEG"),
    "bitmap.bmp": (lambda: encoded(PICTURE, "BMP"), "is no JPEG"),
    "program.eps": (lambda: encoded(PICTURE, "EPS"), "is no JPEG"),
    "vector.svg": (lambda: b'<svg xmlns="http://www.w3.org/2000/svg"/>', "is no JPEG"),
    "half.gif": (lambda: encoded(PICTURE, "GIF")[:-400], "cannot be decoded"),
    "half.webp": (lambda: encoded(PICTURE, "WEBP")[:100], "cannot be decoded|is no JPEG"),
}


def webp_header(width: int, height: int) -> bytes:
    body = b"VP8X" + struct.pack("<I", 10) + bytes([2, 0, 0, 0])
    body += struct.pack("<I", width - 1)[:3] + struct.pack("<I", height - 1)[:3]
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files_are_refused_by_name(name: str, tmp_path: Path) -> None:
    content, message = BROKEN[name]
    path = tmp_path / name
    path.write_bytes(content())
    start = time.process_time()
    with pytest.raises(DataError, match=message) as caught:
        open_image(path)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)
    assert time.process_time() - start < 3


def turned(code: int) -> bytes:
    """PICTURE stored so that EXIF orientation `code` puts it upright."""
    exif = Image.Exif()
    exif[0x0112] = code
    undo = {6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}
    same = [
        Image.Transpose.FLIP_LEFT_RIGHT,
        Image.Transpose.ROTATE_180,
        Image.Transpose.FLIP_TOP_BOTTOM,
        Image.Transpose.TRANSPOSE,
        Image.Transpose.TRANSVERSE,
    ]
    undo |= dict(zip((2, 3, 4, 5, 7), same, strict=True))
    stored = PICTURE.transpose(undo[code]) if code in undo else PICTURE
    return encoded(stored, "PNG", exif=exif)


def transparent(mode: str) -> bytes:
    """Red that is fully transparent around an opaque green square."""
    colour = Image.new("RGBA", (20, 10), (255, 0, 0, 0))
    colour.paste((0, 160, 0, 255), (5, 2, 15, 8))
    return encoded(colour.convert(mode), "PNG")


def animated(kind: str) -> bytes:
    frames = [PICTURE.rotate(angle) for angle in (0, 60, 120)]
    options = {"lossless": True} if kind == "WEBP" else {}
    return encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)


def with_transparent_value(mode: str) -> bytes:
    return encoded(PICTURE.convert(mode), "PNG", transparency=0)


SQUARE = np.full((10, 20, 3), 255, dtype=np.uint8)
SQUARE[2:8, 5:15] = (0, 160, 0)
RED = np.array([[[255, 0, 0]]])
GREY3 = np.repeat(GREY[..., None], 3, -1)

EXACT: dict[str, tuple[Callable[[], bytes], np.ndarray]] = {
    "control.png": (lambda: PNG, PIXELS),
    "control.jpg": (lambda: JPEG, DECODED_JPEG),
    "png-named.jpg": (lambda: PNG, PIXELS),
    "webp-named.png": (lambda: encoded(PICTURE, "WEBP", lossless=True), PIXELS),
    "UPPER.PNG": (lambda: PNG, PIXELS),
    "no-extension": (lambda: PNG, PIXELS),
    "grey.png": (lambda: encoded(PICTURE.convert("L"), "PNG"), GREY3),
    "grey-16.png": (lambda: png(64, 48, 16, 0, deep(GREY)), GREY3),
    "colour-16.png": (lambda: png(64, 48, 16, 2, deep(PIXELS)), PIXELS),
    "one-bit.png": (lambda: encoded(Image.new("1", (5, 3), 1), "PNG"), np.full((3, 5, 3), 255)),
    "pixel.png": (lambda: encoded(Image.new("RGB", (1, 1), "red"), "PNG"), RED),
    "hidden.png": (lambda: transparent("RGBA"), SQUARE),
    "animated.png": (lambda: animated("PNG"), PIXELS),
    "animated.webp": (lambda: animated("WEBP"), PIXELS),
    "garbage-after.jpg": (lambda: JPEG + b"\0" * 4096 + b"GARBAGE" * 500, DECODED_JPEG),
    "profile.jpg": (
        lambda: encoded(PICTURE, "JPEG", quality=95, icc_profile=b"not a profile" * 20),
        DECODED_JPEG,
    ),
    "broken-exif.jpg": (
        lambda: encoded(PICTURE, "JPEG", quality=95, exif=b"Exif\0\0MM\0*\xff\xff\xff\xff\x01\x12"),
        DECODED_JPEG,
    ),
    "rubbish-exif.png": (lambda: encoded(PICTURE, "PNG", exif=b"XXXXXXXXXXXX"), PIXELS),
    "cut-exif.webp": (
        lambda: encoded(PICTURE, "WEBP", lossless=True, exif=b"II+\0\x08\0\0\0\xff\xff"),
        PIXELS,
    ),
    **{f"turned-{code}.png": (partial(turned, code), PIXELS) for code in range(1, 10)},
}


@pytest.mark.parametrize("name", EXACT)
def test_odd_files_are_decoded_exactly(name: str, tmp_path: Path) -> None:
    content, expected = EXACT[name]
    path = tmp_path / name
    path.write_bytes(content())
    image = open_image(path)
    assert image.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(image), expected)


@pytest.mark.parametrize(
    ("content", "tolerance"),
    [
        (encoded(PICTURE.convert("CMYK"), "JPEG", quality=95), 12),
        (encoded(PICTURE, "JPEG", quality=95, progressive=True), 12),
        (encoded(PICTURE, "GIF"), 30),
        (encoded(PICTURE.quantize(64), "PNG"), 30),
    ],
    ids=["cmyk", "progressive", "gif", "palette"],
)
def test_other_kinds_show_the_same_colours(content: bytes, tolerance: int) -> None:
    pixels = np.asarray(open_image(content)).astype(int)
    assert np.abs(pixels - PIXELS).max() <= tolerance


def test_transparency_shows_white_in_every_mode() -> None:
    palette = PICTURE.quantize(16)
    plain = np.asarray(palette.convert("RGB"))
    seen = np.asarray(open_image(encoded(palette, "PNG", transparency=bytes([0] + [255] * 15))))
    first = np.asarray(palette) == 0
    assert (seen[first] == 255).all()
    assert (seen[~first] == plain[~first]).all()
    half = Image.merge("LA", (Image.new("L", (4, 2), 100), Image.new("L", (4, 2), 128)))
    assert np.abs(np.asarray(open_image(encoded(half, "PNG"))).astype(int) - 177).max() <= 1
    value = chunk(b"tRNS", struct.pack(">H", int(GREY[0, 0]) * 257))
    deep_grey = np.asarray(open_image(png(64, 48, 16, 0, deep(GREY), value)))
    hidden = np.equal(GREY, GREY[0, 0])
    assert (deep_grey[hidden] == 255).all()
    assert (deep_grey[~hidden] == GREY3[~hidden]).all()


def test_sixteen_bits_are_scaled_and_not_clipped() -> None:
    ramp = np.linspace(0, 65535, 4096).astype(">u2").reshape(64, 64)
    rows = b"".join(b"\0" + row.tobytes() for row in ramp)
    pixels = np.asarray(open_image(png(64, 64, 16, 0, rows)))[..., 0]
    assert (np.abs(pixels - ramp / 257) <= 0.5).all()


def test_extreme_shapes_load() -> None:
    for size in ((20000, 1), (1, 20000)):
        assert open_image(encoded(Image.new("RGB", size), "PNG")).size == size


def test_large_jpegs_are_decoded_small_but_never_too_small() -> None:
    data = encoded(PICTURE.resize((1600, 1200)), "JPEG")
    assert open_image(data).size == (1600, 1200)
    assert open_image(data, at_least=600).size == (800, 600)
    assert open_image(data, at_least=601).size == (1600, 1200)
    assert open_image(data, at_least=32).size == (200, 150)
    assert open_image(PNG, at_least=8).size == (64, 48)


def test_limits_are_those_given(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"64 x 48 pixels; at most 3071"):
        open_image(PNG, max_pixels=3071)
    assert open_image(PNG, max_pixels=3072).size == (64, 48)
    path = tmp_path / "a.png"
    path.write_bytes(PNG)
    for source in (path, PNG):
        with pytest.raises(DataError, match=rf"has {len(PNG)} bytes; at most 10"):
            open_image(source, max_bytes=10)


def test_only_regular_files_are_opened(tmp_path: Path) -> None:
    (tmp_path / "folder.png").mkdir()
    os.mkfifo(tmp_path / "pipe.png")
    for name in ("folder.png", "pipe.png"):
        with pytest.raises(DataError, match="not a regular file"):
            open_image(tmp_path / name)
    os.symlink("loop.png", tmp_path / "loop.png")
    with pytest.raises(DataError, match="cannot be read: Too many levels"):
        open_image(tmp_path / "loop.png")
    with pytest.raises(DataError, match=r"'the third': cannot|'the third' cannot be read: No such"):
        open_image(tmp_path / "missing.png", name="the third")


def test_names_are_printed_safely() -> None:
    with pytest.raises(DataError, match=r"^'a\\x1b\[31m\\udcff\.png' is no"):
        open_image(b"", name="a\x1b[31m\udcff.png")


def test_changed_and_cut_files_never_raise_anything_else() -> None:
    random = Random(0)
    kinds = {"JPEG": JPEG, "PNG": PNG}
    kinds |= {kind: encoded(PICTURE, kind) for kind in ("WEBP", "GIF")}
    refused = 0
    for data in kinds.values():
        for _ in range(100):
            changed = bytearray(data)
            for _ in range(random.randint(1, 4)):
                changed[random.randrange(len(changed))] = random.randrange(256)
            try:
                open_image(bytes(changed[: random.randint(len(data) // 2, len(data))]))
            except DataError:
                refused += 1
    assert refused > 150


def test_metadata_of_pictures_is_no_trap() -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("XML:com.adobe.xmp", "<x tiff:Orientation='nonsense'>" * 50)
    assert open_image(encoded(PICTURE, "PNG", pnginfo=info)).size == (64, 48)
