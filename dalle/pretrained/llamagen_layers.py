"""LlamaGen's layers: RMS norms, gated MLPs, and rotation by the row and column of a token.

Source: FoundationVision/LlamaGen (MIT), autoregressive/models/gpt.py; arXiv 2406.06525.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from dalle.layout import StreamLayout
from dalle.nn.attention import Attend
from dalle.nn.linear import Linear

ROTATION_BASE = 10000.0
NORM_EPSILON = 1e-5

Rotation = Float[Tensor, "t pairs 2"]
"""Cosine and sine for each pair of channels at each slot."""


class RotaryBlock(nn.Module):
    """One attention and one gated MLP, each a residual branch: "b t d" -> "b t d"."""

    def __init__(self, *, width: int, heads: int, mlp_width: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm = nn.RMSNorm(width, eps=NORM_EPSILON)
        self.qkv = Linear(width, 3 * width, bias=False)
        self.attention_out = Linear(width, width, bias=False)
        self.mlp_norm = nn.RMSNorm(width, eps=NORM_EPSILON)
        self.mlp_gate = Linear(width, mlp_width, bias=False)
        self.mlp_in = Linear(width, mlp_width, bias=False)
        self.mlp_out = Linear(mlp_width, width, bias=False)

    def forward(
        self, x: Float[Tensor, "b t d"], rotation: Rotation, layer: int, attend: Attend
    ) -> Tensor:
        qkv = self.qkv(self.attention_norm(x)).unflatten(-1, (3, self.heads, -1))
        queries, keys, values = qkv.permute(2, 0, 3, 1, 4)  # each b h t d
        queries, keys = rotated(queries, rotation), rotated(keys, rotation)
        x = x + self.attention_out(attend(layer, queries, keys, values).transpose(1, 2).flatten(2))
        hidden = self.mlp_norm(x)
        return x + self.mlp_out(F.silu(self.mlp_gate(hidden)) * self.mlp_in(hidden))


def rotated(x: Float[Tensor, "b h t d"], rotation: Rotation) -> Float[Tensor, "b h t d"]:
    """Each pair of neighbouring channels, turned by its slot's angle; in 32 bits."""
    first, second = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    cosine, sine = rotation.unbind(-1)
    turned = (first * cosine - second * sine, second * cosine + first * sine)
    return torch.stack(turned, dim=-1).flatten(-2).to(x.dtype)


def rotation_table(layout: StreamLayout, head_width: int) -> Rotation:
    """Zeros for the condition. For cell (r, c), half of the pairs turn by r f and half by c f, with
    frequencies f falling from 1 by powers of the base."""
    half = head_width // 2
    frequencies = ROTATION_BASE ** (-torch.arange(0, half, 2) / half)
    cells = torch.arange(layout.image)
    places = torch.stack([cells // layout.cols, cells % layout.cols], dim=1)
    angles = (places[:, :, None] * frequencies).flatten(1)  # cells pairs
    turns = torch.stack([angles.cos(), angles.sin()], dim=-1)
    return torch.cat([turns.new_zeros(layout.image_start, half, 2), turns])
