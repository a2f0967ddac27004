"""Pictures as the models want them: the published crops, from RGB pictures to arrays of pixels."""

from random import Random

import numpy as np
from einops import rearrange
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from dalle.errors import ConfigError

Pixels = UInt8[np.ndarray, "height width 3"]


def dvae_augment(
    image: Image.Image, random: Random, *, height: int, width: int, flip: bool = True
) -> Pixels:
    """A random crop at a random scale, half of them mirrored: what the discrete VAE trains on.

    For a square target of side n: a random square crop as large as the picture's shorter side s;
    resized to a side drawn from min(s, 9n/8) .. min(s, 12n/8), 288 and 384 at n = 256; a random
    crop of n; mirrored with probability 1/2. For other shapes all boxes have the target's aspect
    and sides are measured along its shorter one. A picture smaller than the target, which
    the publication does not provide for, is enlarged to it by bicubic interpolation.

    Area interpolation is Pillow's BOX filter. The crops and the resizing are one call, which reads
    only the part of the picture that is needed. A picture that already has the target's size
    keeps its bits (but for the mirroring).

    Args:
        image: RGB.
        random: the sample's own generator.
        height, width: of the target, in pixels.
        flip: whether half of the pictures are mirrored.

    Source: arXiv 2102.12092, listing 1.
    """
    short, least = _short_sides(image, height, width)
    crop_h, crop_w = _crop_size(image, height, width)
    top = random.randint(0, image.height - crop_h)
    left = random.randint(0, image.width - crop_w)
    low, high = min(short, round(least * 9 / 8)), min(short, round(least * 12 / 8))
    pixels = _random_part(
        image, random, (top, left, crop_h, crop_w), (low, high), height=height, width=width
    )
    if flip and random.random() < 0.5:
        pixels = np.ascontiguousarray(pixels[:, ::-1])
    return pixels


def dalle_augment(image: Image.Image, random: Random, *, height: int, width: int) -> Pixels:
    """A slight crop near the centre, never mirrored (pictures hold text): for the transformer.

    For a square target of side n: a square crop as large as the picture's shorter side s, its
    offset between 3/8 and 5/8 of what the other side has left over; resized to a side drawn from
    n .. min(s, 9n/8), 288 at n = 256; a random crop of n. Other shapes, small pictures and the
    interpolation as in `dvae_augment`.

    Args:
        image: RGB.
        random: the sample's own generator.
        height, width: of the target, in pixels.

    Source: arXiv 2102.12092, listing 2.
    """
    short, least = _short_sides(image, height, width)
    crop_h, crop_w = _crop_size(image, height, width)
    top = _central_offset(image.height - crop_h, random)
    left = _central_offset(image.width - crop_w, random)
    sides = (least, max(least, min(short, round(least * 9 / 8))))
    return _random_part(
        image, random, (top, left, crop_h, crop_w), sides, height=height, width=width
    )


def center_crop(image: Image.Image, *, height: int, width: int) -> Pixels:
    """The largest central part of the target's aspect, resized by Lanczos interpolation.

    It is the short side resized and the centre cropped, without the parts outside ever being
    computed. A picture whose short side fits already is cropped without resampling.

    Args:
        image: RGB.
        height, width: of the target, in pixels.

    Source: the usage notebook of github.com/openai/DALL-E (resize with Lanczos, centre crop).
    """
    _check_target(height, width)
    scale = min(image.height / height, image.width / width)
    if scale == 1:
        left, top = (image.width - width) // 2, (image.height - height) // 2
        return np.array(image.crop((left, top, left + width, top + height)))
    wide, tall = min(width * scale, image.width), min(height * scale, image.height)
    start = ((image.width - wide) / 2, (image.height - tall) / 2)
    box = (*start, min(start[0] + wide, image.width), min(start[1] + tall, image.height))
    return np.array(image.resize((width, height), Image.Resampling.LANCZOS, box=box))


def to_float(pixels: UInt8[Tensor, "b height width 3"]) -> Float[Tensor, "b 3 height width"]:
    """Pixels of 0..255 as numbers in [0, 1], channels first."""
    return rearrange(pixels, "b height width c -> b c height width").float().div_(255)


def _check_target(height: int, width: int) -> None:
    if height < 1 or width < 1:
        raise ConfigError(f"pictures of {width} x {height} pixels; expected at least 1 x 1")


def _short_sides(image: Image.Image, height: int, width: int) -> tuple[int, int]:
    """The shorter side of the largest crop of the target's aspect, and of the target."""
    _check_target(height, width)
    return min(_crop_size(image, height, width)), min(height, width)


def _crop_size(image: Image.Image, height: int, width: int) -> tuple[int, int]:
    """(height, width) of the largest box of the target's aspect inside the picture."""
    scale = min(image.height / height, image.width / width)
    crop_h = min(image.height, max(1, round(height * scale)))
    return crop_h, min(image.width, max(1, round(width * scale)))


def _central_offset(slack: int, random: Random) -> int:
    low = 3 * slack // 8
    return random.randrange(low, max(low + 1, 5 * slack // 8))


def _random_part(
    image: Image.Image,
    random: Random,
    crop: tuple[int, int, int, int],
    sides: tuple[int, int],
    *,
    height: int,
    width: int,
) -> Pixels:
    """Resize the crop (top, left, height, width) to a random shorter side, crop the target."""
    top, left, crop_h, crop_w = crop
    side, least = random.randint(*sides), min(height, width)
    tall = max(height, round(side * height / least))
    wide = max(width, round(side * width / least))
    down, right = random.randint(0, tall - height), random.randint(0, wide - width)
    per_row, per_col = crop_h / tall, crop_w / wide
    box = (
        left + right * per_col,
        top + down * per_row,
        min(left + (right + width) * per_col, image.width),
        min(top + (down + height) * per_row, image.height),
    )
    enlarged = tall > crop_h or wide > crop_w
    method = Image.Resampling.BICUBIC if enlarged else Image.Resampling.BOX
    return np.array(image.resize((width, height), method, box=box))
