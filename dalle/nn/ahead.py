"""Attention of a few consecutive image slots of each picture at once, while decoding.

For slots whose inputs are guesses (`sampling.ahead`). What they leave may turn out wrong and is
written anew, so that it may not take the place of what others read, as in the rings of `cache`:
all image slots are kept, in raster order.
"""

from functools import cache

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dalle.layout import StreamLayout
from dalle.nn.cache import Cache, by_prompt
from dalle.nn.masks import Pattern, may_attend

EVERY_SLOT = Pattern(name="full")
"""The pattern of the cache that such steps read, whatever those of the layers are."""


class SlotsAhead:
    """Attention of `w` image slots of every picture, reading and extending the cache.

    Args:
        cache: that of `EVERY_SLOT` in all layers, on the CPU; every prompt fills its slots.
        patterns: of the layers; each reads all text.
        slots: consecutive ones of each picture, ascending.
    """

    def __init__(
        self, cache: Cache, patterns: tuple[Pattern, ...], slots: Int[Tensor, "b w"]
    ) -> None:
        self.cache = cache
        self.patterns = patterns
        self.slots = slots
        first, self.end = int(slots.min()), int(slots.max()) + 1
        start = cache.layout.image_start
        self._from: dict[Pattern, int] = {}
        self._unread: dict[Pattern, Tensor] = {}
        for pattern in set(patterns):
            low = max(0, first - reach(pattern, cache.layout))
            keys = torch.arange(low, self.end)
            reads = may_attend(pattern, cache.layout, start + slots[:, :, None], start + keys)
            self._from[pattern] = low
            zeros = torch.zeros(reads.shape, dtype=cache.layers[0].unread.dtype)
            self._unread[pattern] = zeros.masked_fill(~reads, float("-inf")).unsqueeze(1)

    def __call__(
        self,
        layer: int,
        queries: Float[Tensor, "b h w d"],
        keys: Float[Tensor, "b h w d"],
        values: Float[Tensor, "b h w d"],
    ) -> Float[Tensor, "b h w d"]:
        kept, pattern = self.cache.layers[layer], self.patterns[layer]
        read = slice(self._from[pattern], self.end)
        where = self.slots[:, None, :, None].expand_as(keys)
        local_keys = kept.image_keys[0].scatter_(2, where, keys)[:, :, read]
        local_values = kept.image_values[0].scatter_(2, where, values)[:, :, read]

        queries = queries * queries.shape[-1] ** -0.5
        text = by_prompt(self.cache.blocks, queries, kept.text_keys.transpose(-1, -2))
        local = queries @ local_keys.transpose(-1, -2) + self._unread[pattern]
        weights = torch.softmax(torch.cat([text, local], dim=-1), dim=-1)
        num_text = text.shape[-1]
        from_text = by_prompt(self.cache.blocks, weights[..., :num_text], kept.text_values)
        return from_text + weights[..., num_text:] @ local_values


@cache
def reach(pattern: Pattern, layout: StreamLayout) -> int:
    """How many image slots back a pattern reads, at most."""
    slots = torch.arange(layout.image)
    start = layout.image_start
    reads = may_attend(pattern, layout, start + slots[:, None], start + slots)
    query, key = torch.nonzero(reads, as_tuple=True)
    return int((query - key).max())
