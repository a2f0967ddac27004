"""Given pictures: every kind that a viewer shows, and none that harms."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dalle.errors import InputError
from dalle.sampling.image_prompt import image_prompt, kept_cells

SIZE = (8, 12)


def noise(height: int, width: int, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (height, width, channels), dtype=np.uint8)


def test_a_picture_of_the_right_size_keeps_its_pixels(tmp_path: Path) -> None:
    pixels = noise(8, 12)
    image = Image.fromarray(pixels)
    image.save(tmp_path / "a.png")
    expected = torch.from_numpy(pixels).float().div(255)
    for given in (image, tmp_path / "a.png", str(tmp_path / "a.png")):
        result = image_prompt(given, image_size=SIZE)
        assert result.shape == (1, 3, 8, 12)
        assert torch.equal(result[0].movedim(0, -1), expected)


@pytest.mark.parametrize("size", [(100, 30), (3, 50), (1, 1), (13, 9)])
def test_other_sizes_are_cropped_around_the_centre(size: tuple[int, int]) -> None:
    result = image_prompt(Image.new("RGB", size, (255, 0, 51)), image_size=SIZE)
    assert result.shape == (1, 3, 8, 12)
    assert torch.allclose(result[0, :, 0, 0], torch.tensor([1.0, 0.0, 0.2]))


def test_the_centre_is_what_is_left() -> None:
    pixels = np.zeros((8, 36, 3), np.uint8)
    pixels[:, 12:24] = noise(8, 12)
    result = image_prompt(Image.fromarray(pixels), image_size=SIZE)
    assert torch.equal(
        result[0].movedim(0, -1), torch.from_numpy(pixels[:, 12:24].copy()).float().div(255)
    )


def test_transparent_parts_are_white() -> None:
    pixels = np.zeros((8, 12, 4), np.uint8)
    pixels[..., 0] = 255  # red that must not be seen
    assert bool((image_prompt(Image.fromarray(pixels), image_size=SIZE) == 1.0).all())


def test_sixteen_bits_are_scaled(tmp_path: Path) -> None:
    grey = Image.fromarray(np.full((8, 12), 0x8000, np.uint16))
    grey.save(tmp_path / "grey.png")
    result = image_prompt(tmp_path / "grey.png", image_size=SIZE)
    assert result.mean().item() == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "CMYK", "RGBA", "PA"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    image = Image.fromarray(noise(8, 12)).convert(mode)
    assert image_prompt(image, image_size=SIZE).shape == (1, 3, 8, 12)


def test_a_picture_is_turned_as_its_camera_says(tmp_path: Path) -> None:
    pixels = noise(12, 8)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    result = image_prompt(tmp_path / "a.png", image_size=SIZE)
    turned = torch.from_numpy(np.rot90(pixels, -1).copy()).float().div(255)
    assert torch.equal(result[0].movedim(0, -1), turned)


def claiming(width: int, height: int) -> bytes:
    """A PNG whose header promises more than its data holds."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(bytes(10))), (b"IEND", b""))
    parts = (
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("none.png", None, "No such file"),
        ("empty.png", b"", "is no JPEG, PNG, WebP or GIF"),
        ("page.png", b"<html>not found</html>", "is no JPEG, PNG, WebP or GIF"),
        ("bomb.png", claiming(12_000, 12_000), "12000 x 12000 .* at most 64000000"),
        ("huge.png", claiming(40_000, 40_000), "cannot be decoded: .*exceeds limit"),
        ("short.png", claiming(8, 8), "cannot be decoded"),
        (
            "drawing.eps",
            b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
            "is no JPEG, PNG, WebP or GIF",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) and "." in value else "",
)
def test_bad_files_are_refused(tmp_path: Path, name: str, data: bytes | None, message: str) -> None:
    if data is not None:
        (tmp_path / name).write_bytes(data)
    with pytest.raises(InputError, match=message) as error:
        image_prompt(tmp_path / name, image_size=SIZE)
    assert name in str(error.value)


def test_a_folder_is_no_picture(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a regular file"):
        image_prompt(tmp_path, image_size=SIZE)


def test_numbers_without_a_scale_are_refused() -> None:
    with pytest.raises(InputError, match="floating-point"):
        image_prompt(Image.fromarray(np.zeros((8, 12), np.float32)), image_size=SIZE)


def test_the_rectangle_as_it_is_drawn() -> None:
    drawn = ["kkkk", "kk..", "kk.."]
    expected = torch.tensor([[cell == "k" for cell in row] for row in drawn])
    assert torch.equal(kept_cells((1, 2), grid=(3, 4)), expected)
