"""The crops of the paper: where they may lie, how large they are, and that bits are kept."""

import itertools
from collections.abc import Callable
from random import Random

import numpy as np
import pytest
import torch
from PIL import Image

from dalle.data.transforms import center_crop, dalle_augment, dvae_augment, to_float
from dalle.errors import ConfigError

Augment = Callable[..., np.ndarray]


def noise(height: int, width: int, seed: int = 0) -> Image.Image:
    values = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


def ramp(height: int, width: int) -> Image.Image:
    """Red is the column, green the row: a crop tells where it was taken."""
    rows, cols = np.mgrid[0:height, 0:width]
    values = np.stack([cols * 255 / (width - 1), rows * 255 / (height - 1), 0 * rows], -1)
    return Image.fromarray(values.round().astype(np.uint8))


SIZES = [(1, 1), (7, 300), (300, 7), (48, 64), (96, 128), (97, 131), (200, 90), (20, 20)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("target", [(48, 64), (33, 17), (1, 1)])
def test_every_picture_gives_the_asked_size(size: tuple[int, int], target: tuple[int, int]) -> None:
    height, width = target
    for seed in range(3):
        for augment in (dvae_augment, dalle_augment):
            pixels = augment(noise(*size), Random(seed), height=height, width=width)
            assert pixels.shape == (height, width, 3)
            assert pixels.dtype == np.uint8
    assert center_crop(noise(*size), height=height, width=width).shape == (height, width, 3)


def test_a_picture_of_the_right_size_keeps_its_bits() -> None:
    image = noise(48, 64)
    pixels = np.asarray(image)
    for seed in range(4):
        random = Random(seed)
        assert (dalle_augment(image, random, height=48, width=64) == pixels).all()
        assert (dvae_augment(image, random, height=48, width=64, flip=False) == pixels).all()
    assert (center_crop(image, height=48, width=64) == pixels).all()


def test_center_crop_takes_the_middle_without_resampling_where_it_can() -> None:
    tall, wide = noise(90, 64), noise(48, 71)
    assert (center_crop(tall, height=48, width=64) == np.asarray(tall)[21:69]).all()
    assert (center_crop(wide, height=48, width=64) == np.asarray(wide)[:, 3:67]).all()


def test_center_crop_is_the_short_side_resized_and_the_centre_cropped() -> None:
    image = noise(120, 200)
    resized = image.resize((100, 60), Image.Resampling.LANCZOS)
    expected = np.asarray(resized.crop((20, 0, 80, 60))).astype(int)
    assert np.abs(center_crop(image, height=60, width=60) - expected).max() <= 1


def test_extreme_shapes_need_no_memory_for_what_is_cropped_away() -> None:
    # Resized first, this one would have 128 x 2,560,000 pixels.
    assert center_crop(noise(1, 20000), height=128, width=128).shape == (128, 128, 3)
    assert dvae_augment(noise(1, 20000), Random(0), height=64, width=64).shape == (64, 64, 3)


def test_half_of_the_pictures_are_mirrored_for_the_vae_and_none_for_the_decoder() -> None:
    image = ramp(64, 64)
    random = Random(0)
    mirrored = [dvae_augment(image, random, height=64, width=64)[0, 0, 0] > 128 for _ in range(400)]
    assert 160 < sum(mirrored) < 240  # standard deviation 10
    for augment in (dalle_augment, no_flip):
        assert all(augment(image, random, height=64, width=64)[0, 0, 0] < 128 for _ in range(50))


def reach(augment: Augment, image: Image.Image, *, height: int, width: int) -> np.ndarray:
    """For many draws: (left, right, top, bottom) of the crop as fractions of the picture."""
    random, found = Random(0), []
    for _ in range(200):
        pixels = augment(image, random, height=height, width=width).astype(float) / 255
        cols, rows = pixels[..., 0], pixels[..., 1]
        found.append((cols.min(), cols.max(), rows.min(), rows.max()))
    return np.array(found)


def no_flip(image: Image.Image, random: Random, *, height: int, width: int) -> np.ndarray:
    return dvae_augment(image, random, height=height, width=width, flip=False)


def test_vae_crops_have_the_published_range_of_scales() -> None:
    # Target 32 of a 512 x 512 picture: sides 36..48, so a crop shows 32/48 .. 32/36 of it.
    left, right, top, bottom = reach(no_flip, ramp(512, 512), height=32, width=32).T
    shown = right - left + 1 / 32
    assert 0.66 < shown.min() < 0.70
    assert 0.87 < shown.max() < 0.92
    assert left.min() < 0.03
    assert right.max() > 0.97
    assert top.min() < 0.03
    assert bottom.max() > 0.97


def test_decoder_crops_have_the_published_range_of_scales() -> None:
    # Sides 32..36: a crop shows 32/36 .. all of the picture.
    left, right, *_ = reach(dalle_augment, ramp(512, 512), height=32, width=32).T
    shown = right - left + 1 / 32
    assert 0.87 < shown.min() < 0.92
    assert shown.max() > 0.98


def test_decoder_crops_stay_near_the_centre_and_vae_crops_do_not() -> None:
    # 512 high, 1536 wide: 1024 columns to spare, of which the left edge takes 3/8 .. 5/8.
    wide = ramp(512, 1536)
    left, right, *_ = reach(dalle_augment, wide, height=32, width=32).T
    assert left.min() >= 1024 / 1536 * 3 / 8 - 0.01
    assert right.max() <= 1024 / 1536 * 5 / 8 + 1 / 3 + 0.01
    assert np.ptp(left) > 0.1
    left, right, *_ = reach(no_flip, wide, height=32, width=32).T
    assert left.min() < 0.05
    assert right.max() > 0.95
    *_, top, bottom = reach(dalle_augment, ramp(1536, 512), height=32, width=32).T
    assert top.min() >= 1024 / 1536 * 3 / 8 - 0.01
    assert bottom.max() <= 1024 / 1536 * 5 / 8 + 1 / 3 + 0.01
    *_, top, bottom = reach(no_flip, ramp(1536, 512), height=32, width=32).T
    assert top.min() < 0.05
    assert bottom.max() > 0.95


def test_crops_that_are_not_square_keep_the_aspect() -> None:
    # A circle stays one: rows and columns are scaled by the same factor.
    for augment, (height, width) in itertools.product(
        (no_flip, dalle_augment), ((32, 48), (48, 32))
    ):
        found = reach(augment, ramp(400, 800), height=height, width=width)
        per_col = (found[:, 1] - found[:, 0]) * 799 / (width - 1)
        per_row = (found[:, 3] - found[:, 2]) * 399 / (height - 1)
        assert np.abs(per_col / per_row - 1).max() < 0.06


def test_small_pictures_are_enlarged_smoothly() -> None:
    for augment in (no_flip, dalle_augment):
        pixels = augment(ramp(8, 8), Random(0), height=64, width=64)
        steps = np.abs(np.diff(pixels[32, :, 0].astype(int)))
        assert steps.max() < 20  # nearest neighbours would jump by 36


def test_shrinking_takes_the_mean_of_areas() -> None:
    image = noise(96, 96)
    random = Random(0)
    # The shorter side is 96 = 12/8 of 64, and drawn from 72..96: wait for a draw of 72.
    means = np.asarray(image).astype(float).mean((0, 1))
    pixels = np.concatenate(
        [dvae_augment(image, random, height=64, width=64).reshape(-1, 3) for _ in range(200)]
    )
    assert np.abs(pixels.mean(0) - means).max() < 2
    half = center_crop(noise(2, 2), height=1, width=1)
    exact = dvae_augment(noise(2, 2), random, height=1, width=1)
    assert half.shape == exact.shape == (1, 1, 3)


def test_crops_are_a_function_of_the_generator() -> None:
    image = noise(100, 140)
    for augment in (dvae_augment, dalle_augment):
        one, same = (augment(image, Random(5), height=32, width=40) for _ in range(2))
        other = augment(image, Random(6), height=32, width=40)
        assert (one == same).all()
        assert (one != other).any()


def test_pixels_become_numbers_between_0_and_1() -> None:
    pixels = torch.tensor([[[[0, 51, 255]], [[1, 2, 3]]]], dtype=torch.uint8)
    images = to_float(pixels)
    assert images.shape == (1, 3, 2, 1)
    assert images.dtype == torch.float32
    torch.testing.assert_close(images[0, :, 0, 0], torch.tensor([0.0, 0.2, 1.0]))
    assert (pixels == torch.tensor([[[[0, 51, 255]], [[1, 2, 3]]]])).all()


def test_a_target_without_pixels_is_refused() -> None:
    for height, width in ((0, 5), (5, -1)):
        with pytest.raises(ConfigError, match="at least 1 x 1"):
            center_crop(noise(4, 4), height=height, width=width)
        with pytest.raises(ConfigError, match="at least 1 x 1"):
            dalle_augment(noise(4, 4), Random(0), height=height, width=width)
