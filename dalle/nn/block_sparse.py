"""Attention of a sparse pattern by blocks of 128 x 128 slots, for GPUs: torch's FlexAttention.

Blocks that no query reads are not computed. A pattern whose blocks are fewer on the transposed grid
(`column`: 27 in place of 55 of the 100 of the published stream) runs on it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

from dalle.layout import StreamLayout
from dalle.nn.masks import Pattern, dense_mask, transpose_order

BLOCK = 128
"""Slots on a side: what the kernels for 64 and 128 numbers a head are made for, and tight enough
(of 55 causal blocks a row layer computes 34, a column layer 27, conv 40)."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Blocks:
    """Which blocks of a pattern are computed, and in which order its slots stand."""

    mask: BlockMask
    order: Int[Tensor, " length"] | None
    """The slot at each place, where they do not stand in raster order."""
    back: Int[Tensor, " length"] | None
    """The place of each slot."""

    @property
    def computed(self) -> int:
        """How many blocks are."""
        partial, full = self.mask.kv_num_blocks, self.mask.full_kv_num_blocks
        assert full is not None
        return int(partial.sum() + full.sum())


def cut_into_blocks(pattern: Pattern, layout: StreamLayout, device: torch.device) -> Blocks:
    """The blocks of a pattern in raster order, or on the transposed grid where they are fewer."""
    raster = _cut(pattern, layout, device, order=None)
    transposed = _cut(pattern, layout, device, order=transpose_order(layout).to(device))
    return transposed if transposed.computed < raster.computed else raster


def _cut(
    pattern: Pattern, layout: StreamLayout, device: torch.device, *, order: Tensor | None
) -> Blocks:
    # A table rather than the predicate: one kernel then serves all patterns.
    table = dense_mask(pattern, layout, device)
    if order is not None:
        table = table[order][:, order].contiguous()
    mask = create_block_mask(
        lambda _batch, _head, query, key: table[query, key],
        B=None,
        H=None,
        Q_LEN=layout.length,
        KV_LEN=layout.length,
        device=str(device),
        BLOCK_SIZE=BLOCK,
    )
    return Blocks(mask=mask, order=order, back=None if order is None else order.argsort())


def block_sparse_attention(
    queries: Float[Tensor, "b h t d"],
    keys: Float[Tensor, "b h t d"],
    values: Float[Tensor, "b h t d"],
    blocks: Blocks,
) -> Float[Tensor, "b h t d"]:
    """Attention over a whole stream: the same as under the pattern's dense mask.

    On the CPU there is no backward pass.
    """
    if blocks.order is None or blocks.back is None:
        return _compiled()(queries, keys, values, block_mask=blocks.mask)
    ordered = (x.index_select(2, blocks.order) for x in (queries, keys, values))
    return _compiled()(*ordered, block_mask=blocks.mask).index_select(2, blocks.back)


@cache
def _compiled() -> Callable[..., Any]:
    return torch.compile(flex_attention, dynamic=False)
