"""The blocks of VQGANs: normalised residual convolutions, attention over the grid, Haar wavelets.

Source: arXiv 2012.09841 (taming-transformers); every layer and name is as there, so that published
weights need no renaming.
"""

import math
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

GROUPS = 32
"""Of channels that are normalised together."""


def group_norm(channels: int) -> nn.GroupNorm:
    """Normalisation over groups of channels, each with its grid."""
    return nn.GroupNorm(GROUPS, channels, eps=1e-6)


class ResidualBlock(nn.Module):
    """x + two 3x3 convolutions, each after a normalisation and a swish."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.norm1 = group_norm(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.norm2 = group_norm(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.nin_shortcut = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else None

    def forward(self, x: Float[Tensor, "b c rows cols"]) -> Float[Tensor, "b d rows cols"]:
        y = self.conv1(F.silu(self.norm1(x)))
        y = self.conv2(F.silu(self.norm2(y)))
        return (x if self.nin_shortcut is None else self.nin_shortcut(x)) + y


class AttentionBlock(nn.Module):
    """x + attention of every cell to every cell, with one head as wide as the channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = group_norm(channels)
        self.q = nn.Conv2d(channels, channels, 1)
        self.k = nn.Conv2d(channels, channels, 1)
        self.v = nn.Conv2d(channels, channels, 1)
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Float[Tensor, "b c rows cols"]) -> Float[Tensor, "b c rows cols"]:
        h = self.norm(x)
        q, k, v = (conv(h).flatten(2).transpose(1, 2) for conv in (self.q, self.k, self.v))
        read = F.scaled_dot_product_attention(q, k, v)  # b cells c
        return x + self.proj_out(read.transpose(1, 2).unflatten(2, x.shape[2:]))


class Downsample(nn.Module):
    """Half the size; the padding is at the bottom and at the right only."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Float[Tensor, "b c height width"]) -> Float[Tensor, "b c rows cols"]:
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Twice the size: each value four times, then a convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Float[Tensor, "b c rows cols"]) -> Float[Tensor, "b c height width"]:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class Middle(nn.Module):
    """A residual block, attention, a residual block, at the smallest size."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.block_1 = ResidualBlock(channels, channels)
        self.attn_1 = AttentionBlock(channels)
        self.block_2 = ResidualBlock(channels, channels)

    def forward(self, x: Float[Tensor, "b c rows cols"]) -> Float[Tensor, "b c rows cols"]:
        return self.block_2(self.attn_1(self.block_1(x)))


class Level(nn.Module):
    """Residual blocks of one size, each followed by attention where there is any; then a change of
    size, but for the last level."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        blocks: int,
        attention: bool,
        resize: Literal["half", "double", "none"],
    ) -> None:
        super().__init__()
        widths = [inputs] + [outputs] * blocks
        self.block = nn.ModuleList(map(ResidualBlock, widths[:-1], widths[1:]))
        self.attn = nn.ModuleList(
            AttentionBlock(outputs) for _ in range(blocks if attention else 0)
        )
        self.downsample = Downsample(outputs) if resize == "half" else None
        self.upsample = Upsample(outputs) if resize == "double" else None

    def forward(self, x: Float[Tensor, "b c rows cols"]) -> Float[Tensor, "b d height width"]:
        for number, block in enumerate(self.block):
            x = block(x)
            if self.attn:
                x = self.attn[number](x)
        for resize in (self.downsample, self.upsample):
            x = x if resize is None else resize(x)
        return x


def from_wavelets(bands: Float[Tensor, "b 12 rows cols"]) -> Float[Tensor, "b 3 height width"]:
    """A picture of twice the size from its Haar wavelets.

    Channels 0-2 are the means of the three colours; then come, for each colour, the differences
    of rows, of columns, and of both.
    """
    means = bands[:, :3]
    rows, cols, both = bands[:, 3:].unflatten(1, (3, 3)).unbind(2)
    low = _woven(means, rows, dim=2)
    high = _woven(cols, both, dim=2)
    return _woven(low, high, dim=3)


def _woven(mean: Tensor, difference: Tensor, *, dim: int) -> Tensor:
    """(m + d) / sqrt(2) and (m - d) / sqrt(2) by turns along an axis."""
    pair = torch.stack([mean + difference, mean - difference], dim=dim + 1) / math.sqrt(2)
    return pair.flatten(dim, dim + 1)
