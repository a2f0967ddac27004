"""A given picture, of which a part is kept while the rest is drawn anew."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from PIL import Image, ImageOps
from torch import Tensor

from dalle.errors import DataError, InputError
from dalle.picture_files import open_image, upright_rgb
from dalle.protocols import ImageTokenizer


@dataclass(frozen=True, kw_only=True, slots=True)
class Given:
    """An image prompt, encoded."""

    codes: Int[Tensor, "rows cols"]
    keep: Bool[Tensor, "rows cols"]
    rect: tuple[int, int]


@torch.no_grad()
def encode_prompt(
    image: Image.Image | str | Path,
    rect: tuple[int, int],
    image_tokenizer: ImageTokenizer,
    device: torch.device,
) -> Given:
    """A picture of which a part is kept; see `image_prompt` and `kept_cells`."""
    keep = kept_cells(rect, grid=image_tokenizer.grid)
    pixels = image_prompt(image, image_size=image_tokenizer.image_size)
    codes = image_tokenizer.encode(pixels.to(device))[0].cpu()
    return Given(codes=codes, keep=keep, rect=rect)


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
        InputError: it cannot be read, or is too large.
    """
    height, width = image_size
    try:
        picture = upright_rgb(image) if isinstance(image, Image.Image) else open_image(Path(image))
    except DataError as error:
        raise InputError(f"{error}; give another picture to begin with") from None
    fitted = ImageOps.fit(picture, (width, height), Image.Resampling.LANCZOS)
    pixels = torch.from_numpy(np.asarray(fitted, dtype=np.float32) / 255.0)
    return rearrange(pixels, "height width c -> 1 c height width")
