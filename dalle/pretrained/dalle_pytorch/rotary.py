"""Rotary positions of DALLE-pytorch: one angle for the text, one for the row, one for the column.

A third of each head's channels turns by the place in the text, a third by the row and a third by
the column. Image slots have the text place 8192, text slots the row and column -10, where the grid
spans -1 ... 1.

Source: lucidrains/DALLE-pytorch, dalle_pytorch/transformer.py; rotary-embedding-torch.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dalle.layout import StreamLayout

PLACE_OF_IMAGE = 8192.0
PLACE_OF_TEXT = -10.0


@dataclass(frozen=True, slots=True)
class Rotation:
    """By how much the channels of some slots are turned."""

    cos: Float[Tensor, "t turned"]
    sin: Float[Tensor, "t turned"]

    def at(self, slots: Int[Tensor, " s"]) -> "Rotation":
        """That of chosen slots."""
        return Rotation(self.cos.index_select(0, slots), self.sin.index_select(0, slots))


def rotate(x: Float[Tensor, "b h t d"], rotation: Rotation) -> Float[Tensor, "b h t d"]:
    """Turn neighbouring pairs of the first channels; the others stay."""
    cos, sin = rotation.cos.to(x.dtype), rotation.sin.to(x.dtype)
    turned = cos.shape[-1]
    head, rest = x[..., :turned], x[..., turned:]
    pairs = head.unflatten(-1, (-1, 2))
    across = torch.stack([-pairs[..., 1], pairs[..., 0]], dim=-1).flatten(-2)
    return torch.cat([head * cos + across * sin, rest], dim=-1)


def turned_channels(head_width: int) -> int:
    """How many channels of a head are turned."""
    return 3 * 2 * (head_width // 3 // 2)


def angles(layout: StreamLayout, head_width: int) -> Float[Tensor, "length turned"]:
    """The angle of every channel of every slot, in radians."""
    third = head_width // 3
    pairs = third // 2
    by_text = 10000.0 ** -(torch.arange(0, 2 * pairs, 2) / third)
    # Named, since torch forgets to ask which device is taken for what transformers once put in
    # linspace's place.
    device = by_text.device
    by_pixel = torch.linspace(1.0, 5.0, pairs, device=device) * math.pi
    text, image = layout.image_start, layout.image

    place = torch.cat([torch.arange(text).float(), torch.full((image,), PLACE_OF_IMAGE)])
    row = torch.linspace(-1.0, 1.0, layout.rows, device=device).repeat_interleave(layout.cols)
    col = torch.linspace(-1.0, 1.0, layout.cols, device=device).repeat(layout.rows)
    outside = torch.full((text,), PLACE_OF_TEXT)
    parts = [
        place[:, None] * by_text,
        torch.cat([outside, row])[:, None] * by_pixel,
        torch.cat([outside, col])[:, None] * by_pixel,
    ]
    return torch.cat([part.repeat_interleave(2, dim=-1) for part in parts], dim=-1)
