"""How a pattern is executed over a whole stream.

An executor is called with the layer's index and its queries, keys and values, so that one stack
of blocks serves training, prefill and decoding; the executors of decoding are in `cache`.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Protocol

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from dalle.layout import StreamLayout
from dalle.nn.masks import Pattern, dense_mask
from dalle.nn.windowed_attention import windowed_attention
from dalle.nn.windows import cut_into_windows

SCORES_WORTH_WINDOWS = 2**16
"""Windows are taken on the CPU where they save at least so many scores a head. Measured on one
core (Zen 4, float32, 6 heads of 64): at 40 + 16 x 16 slots a row layer saves 69,000 and takes 0.75
of the dense time forward and backward, at 32 + 12 x 12 it saves 23,000 and takes 1.7 times it."""
LONGEST_DENSE = 512
"""Slots up to which plain products over all pairs of them beat the fused kernel on the CPU."""


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
    mask: Bool[Tensor, "*rows q k"],
) -> Float[Tensor, "b h q d"]:
    """Attention under a mask, True where a query reads a key: the reference of all others.

    The mask is one for all rows, or `b 1 q k` with one for each.

    One softmax over text and image keys together (arXiv 2102.12092, footnote 7), in float32.
    """
    if queries.device.type != "cpu" or keys.shape[2] > LONGEST_DENSE:
        return F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask)
    # On the CPU the fused kernel's backward pass took 31 % of a step at 79 positions, plain
    # products 9 %; scale and mask ride in the first product, which saves another tenth of a step.
    batch, heads, _, width = queries.shape
    bias = torch.zeros(mask.shape, dtype=queries.dtype).masked_fill_(~mask, -math.inf)
    queries, keys, values = (x.flatten(0, 1) for x in (queries, keys, values))
    scores = torch.baddbmm(
        bias.expand(batch, heads, -1, -1).flatten(0, 1),
        queries,
        keys.transpose(1, 2),
        alpha=width**-0.5,
    )
    weights = torch.softmax(scores, dim=-1, dtype=torch.float32).to(values.dtype)
    return (weights @ values).unflatten(0, (batch, -1))


Form = Callable[[Tensor, Tensor, Tensor], Tensor]


def choose_form(pattern: Pattern, layout: StreamLayout, device: torch.device) -> Form:
    """The exact form of a pattern that is fastest over a whole stream.

    A rule on sizes and the kind of device, not a race at start-up: forms agree within rounding
    only, and which one won would depend on what else the machine does, so that a resumed run
    could leave the curve of the unbroken one. On the CPU the race has one winner anyhow: wherever
    windows save enough to pay for their many small products, they beat every other form measured
    (docs/performance.md).
    """
    if device.type == "cpu" and pattern.name != "full" and pattern.reads_all_text:
        windows = cut_into_windows(pattern, layout)
        scores = layout.image * (layout.image_start + windows.window)
        if layout.length**2 - scores >= SCORES_WORTH_WINDOWS:
            return partial(windowed_attention, windows=windows)
    if pattern.name == "full" and (device.type != "cpu" or layout.length > LONGEST_DENSE):
        # Every slot reads all before it, for which kernels need no mask.
        return partial(F.scaled_dot_product_attention, is_causal=True)
    return partial(dense_attention, mask=dense_mask(pattern, layout, device))


class WholeStream:
    """Attention over all slots at once, as in training."""

    def __init__(
        self, patterns: tuple[Pattern, ...], layout: StreamLayout, device: torch.device
    ) -> None:
        self.device = device
        forms = {pattern: choose_form(pattern, layout, device) for pattern in set(patterns)}
        self.forms = tuple(forms[pattern] for pattern in patterns)

    def __call__(
        self,
        layer: int,
        queries: Float[Tensor, "b h t d"],
        keys: Float[Tensor, "b h t d"],
        values: Float[Tensor, "b h t d"],
    ) -> Float[Tensor, "b h t d"]:
        return self.forms[layer](queries, keys, values)
