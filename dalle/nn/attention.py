"""How a pattern is executed over a whole stream.

An executor is called with the layer's index and its queries, keys and values, so that one stack
of blocks serves training, prefill and decoding; the executors of decoding are in `cache`.
"""

from typing import Protocol

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from dalle.layout import StreamLayout
from dalle.nn.masks import Pattern, dense_mask


class Attend(Protocol):
    """Attention of one layer, whatever it reads."""

    def __call__(
        self,
        layer: int,
        queries: Float[Tensor, "b h q d"],
        keys: Float[Tensor, "b h q d"],
        values: Float[Tensor, "b h q d"],
        /,
    ) -> Float[Tensor, "b h q d"]: ...


def dense_attention(
    queries: Float[Tensor, "b h q d"],
    keys: Float[Tensor, "b h k d"],
    values: Float[Tensor, "b h k d"],
    mask: Bool[Tensor, "q k"],
) -> Float[Tensor, "b h q d"]:
    """Attention under a mask, True where a query reads a key: the reference of all others.

    One softmax over text and image keys together (arXiv 2102.12092, footnote 7), in float32.
    """
    if queries.device.type != "cpu":
        return F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask)
    # On the CPU the fused kernel's backward pass took 31 % of a step at 79 positions, plain
    # products 9 %; scale and mask ride in the first product, which saves another tenth of a step.
    batch, _, _, width = queries.shape
    bias = torch.zeros(mask.shape, dtype=queries.dtype).masked_fill_(~mask, float("-inf"))
    queries, keys, values = (x.flatten(0, 1) for x in (queries, keys, values))
    scores = torch.baddbmm(
        bias.expand(len(queries), -1, -1), queries, keys.transpose(1, 2), alpha=width**-0.5
    )
    weights = torch.softmax(scores, dim=-1, dtype=torch.float32).to(values.dtype)
    return (weights @ values).unflatten(0, (batch, -1))


class WholeStream:
    """Attention over all slots at once, as in training."""

    def __init__(
        self, patterns: tuple[Pattern, ...], layout: StreamLayout, device: torch.device
    ) -> None:
        masks = {pattern: dense_mask(pattern, layout, device) for pattern in set(patterns)}
        self.masks = tuple(masks[pattern] for pattern in patterns)

    def __call__(
        self,
        layer: int,
        queries: Float[Tensor, "b h t d"],
        keys: Float[Tensor, "b h t d"],
        values: Float[Tensor, "b h t d"],
    ) -> Float[Tensor, "b h t d"]:
        return dense_attention(queries, keys, values, self.masks[layer])
