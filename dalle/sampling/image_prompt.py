"""A given picture, of which a part is kept while the rest is drawn anew."""

import warnings
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Bool, Float
from PIL import Image, ImageOps
from torch import Tensor

from dalle.errors import InputError

FORMATS = ("JPEG", "PNG", "WEBP", "GIF")
"""What is opened: formats whose decoders run nothing."""
MAX_PIXELS = 64_000_000


def kept_cells(rect: tuple[int, int], *, grid: tuple[int, int]) -> Bool[Tensor, "rows cols"]:
    """True for the cells outside the rectangle that reaches the bottom-right corner.

        rect = (1, 2) in a grid of 3 x 4:   k k k k
                                            k k . .      . is drawn anew
                                            k k . .      k is kept

    Args:
        rect: (top, left), the first row and column of the rectangle; (k, 0) gives the top k rows.
        grid: (rows, cols).

    Source: the January 2021 announcement of DALL·E, "regenerate any rectangular region of an
    existing image that extends to the bottom-right corner".
    """
    (top, left), (rows, cols) = rect, grid
    if not (0 <= top < rows and 0 <= left < cols):
        raise InputError(
            f"rect is ({top}, {left}), the first row and column to draw anew; with a grid of "
            f"{rows} x {cols} expected 0 <= row < {rows} and 0 <= column < {cols}"
        )
    keep = torch.ones(rows, cols, dtype=torch.bool)
    keep[top:, left:] = False
    return keep


def image_prompt(
    image: Image.Image | str | Path, *, image_size: tuple[int, int]
) -> Float[Tensor, "1 3 height width"]:
    """The picture as the image tokenizer takes it: in [0, 1], cropped around its centre.

    Args:
        image: a picture or the path of one. Transparent parts are laid on white, and a picture
            that its camera turned is turned back.
        image_size: (height, width) in pixels.

    Raises:
        InputError: it cannot be read, or has too many pixels.
    """
    height, width = image_size
    picture = _as_rgb(image) if isinstance(image, Image.Image) else _open(Path(image))
    fitted = ImageOps.fit(picture, (width, height), Image.Resampling.LANCZOS)
    pixels = torch.from_numpy(np.asarray(fitted, dtype=np.float32) / 255.0)
    return rearrange(pixels, "height width c -> 1 c height width")


def _open(path: Path) -> Image.Image:
    if not path.exists():
        raise InputError(f"there is no picture {path}")
    if not path.is_file():
        raise InputError(f"{path} is no picture but a folder or a device; give a picture's path")
    try:
        with warnings.catch_warnings():
            # Broken metadata beside a good picture is no reason to complain.
            warnings.simplefilter("ignore")
            with Image.open(path, formats=FORMATS) as image:
                # Before anything is decoded: a small file can unpack to any size.
                if image.width * image.height > MAX_PIXELS:
                    raise InputError(
                        f"{path} has {image.width} x {image.height} pixels; at most "
                        f"{MAX_PIXELS:,} are taken: make it smaller"
                    )
                image.load()
                return _as_rgb(image)
    except (InputError, MemoryError):
        raise
    except Image.UnidentifiedImageError:
        raise InputError(f"{path} is not a picture; expected one of {', '.join(FORMATS)}") from None
    except Exception as error:  # decoders meet damaged files with errors of every kind
        raise InputError(f"{path} is damaged: {error}; give another copy of it") from None


def _as_rgb(image: Image.Image) -> Image.Image:
    image = _upright(image)
    if image.mode.startswith("I;16"):
        # Pillow's own conversion clips 16 bits to white.
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise InputError(
            f"the picture has pixels of mode {image.mode!r}, of which no one says how bright "
            "they are; save it as a PNG or JPEG of 8 bits"
        )
    if image.has_transparency_data:
        layered = image.convert("RGBA")
        white = Image.new("RGBA", layered.size, "white")
        image = Image.alpha_composite(white, layered)
    return image.convert("RGB")


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # a damaged block says nothing about the orientation
        return image
