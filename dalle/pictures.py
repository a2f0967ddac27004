"""Pictures side by side in one."""

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor


def to_uint8(images: Float[Tensor, "b 3 height width"]) -> UInt8[np.ndarray, "b height width 3"]:
    """Pictures in [0, 1] as bytes, rounded."""
    pixels = (images.detach().float().clamp(0, 1) * 255).round().to(torch.uint8)
    return pixels.movedim(1, -1).cpu().numpy()


def grid(images: Float[Tensor, "b 3 height width"], *, columns: int, gap: int = 2) -> Image.Image:
    """Pictures in rows of `columns`, on grey, `gap` pixels apart.

    Small pictures are enlarged by whole factors to at least 64 pixels, so that they can be seen.
    """
    pixels = to_uint8(images)
    count, height, width = pixels.shape[:3]
    factor = max(1, -(-64 // max(height, width)))
    pixels = pixels.repeat(factor, axis=1).repeat(factor, axis=2)
    height, width = height * factor + gap, width * factor + gap
    rows = -(-count // columns)
    sheet = np.full((rows * height + gap, columns * width + gap, 3), 128, dtype=np.uint8)
    for i, picture in enumerate(pixels):
        top, left = i // columns * height + gap, i % columns * width + gap
        sheet[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
    return Image.fromarray(sheet)
