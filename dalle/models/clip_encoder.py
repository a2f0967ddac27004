"""The transformer of both halves of a CLIP."""

from typing import ClassVar

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn


class Encoder(nn.Module):
    """A pre-norm transformer in which every position sees every real one."""

    def __init__(self, width: int, *, heads: int, depth: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            EncoderBlock(width, heads=heads, depth=depth) for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width)

    def forward(
        self, stream: Float[Tensor, "b t d"], real: Bool[Tensor, "b t"] | None
    ) -> Float[Tensor, "b t d"]:
        """`real` marks the positions that are looked at; None: all of them."""
        for block in self.blocks:
            stream = block(stream, stream, real)
        return self.norm(stream)

    def read_first(
        self, stream: Float[Tensor, "b t d"], real: Bool[Tensor, "b t"] | None
    ) -> Float[Tensor, "b d"]:
        """The first position alone, without the work of the last block on the others."""
        *blocks, last = self.blocks
        for block in blocks:
            stream = block(stream, stream, real)
        return self.norm(last(stream[:, :1], stream, real)[:, 0])


class EncoderBlock(nn.Module):
    """Attention and MLP, each behind a layer norm and added to the stream."""

    compiled: ClassVar = ("forward",)
    """See `dalle.nn.transformer.Block`; this one's attention is plain products."""

    def __init__(self, width: int, *, heads: int, depth: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm = nn.LayerNorm(width)
        self.query = _linear(width, width, std=width**-0.5)
        self.key_value = _linear(width, 2 * width, std=width**-0.5)
        self.attention_out = _linear(width, width, std=(2 * depth * width) ** -0.5)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp_in = _linear(width, 4 * width, std=(2 * width) ** -0.5)
        self.mlp_out = _linear(4 * width, width, std=(2 * depth * width) ** -0.5)

    def forward(
        self,
        stream: Float[Tensor, "b q d"],
        seen: Float[Tensor, "b k d"],
        real: Bool[Tensor, "b k"] | None,
    ) -> Float[Tensor, "b q d"]:
        """Update `stream`, whose positions look at the real ones of `seen`."""
        query = self.query(self.attention_norm(stream))
        key_value = self.key_value(self.attention_norm(seen))
        q = rearrange(query, "b q (h c) -> b h q c", h=self.heads)
        k, v = rearrange(key_value, "b k (two h c) -> two b h k c", two=2, h=self.heads)
        stream = stream + self.attention_out(
            rearrange(_attend(q, k, v, real), "b h q c -> b q (h c)")
        )
        return stream + self.mlp_out(gelu(self.mlp_in(self.mlp_norm(stream))))


def gelu(x: Float[Tensor, "*axes"]) -> Float[Tensor, "*axes"]:
    """In its tanh form: the exact one costs four times as much on the CPU."""
    return F.gelu(x, approximate="tanh")


def _attend(
    q: Float[Tensor, "b h q c"],
    k: Float[Tensor, "b h k c"],
    v: Float[Tensor, "b h k c"],
    real: Bool[Tensor, "b k"] | None,
) -> Float[Tensor, "b h q c"]:
    """Softmax attention, written out.

    The streams are short: at 37 positions on the CPU in bfloat16 the backward of
    `scaled_dot_product_attention` took half of a training step.
    """
    logits = (q * q.shape[-1] ** -0.5) @ k.mT
    if real is not None:
        logits = logits.masked_fill(~rearrange(real, "b k -> b 1 1 k"), -torch.inf)
    return logits.softmax(dim=-1) @ v


def _linear(inputs: int, outputs: int, *, std: float) -> nn.Linear:
    """Source: the initialisation of github.com/openai/CLIP, clip/model.py."""
    layer = nn.Linear(inputs, outputs)
    nn.init.normal_(layer.weight, std=std)
    nn.init.zeros_(layer.bias)
    return layer
