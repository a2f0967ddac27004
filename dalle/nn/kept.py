"""Where the keys of a pattern are kept while decoding, so that a step reads one stretch of them.

What a step reads is a stretch of the kept slots rather than a list of them: nothing is gathered.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from dalle.layout import StreamLayout
from dalle.nn.masks import Pattern, may_attend


@dataclass(frozen=True, kw_only=True, slots=True)
class KeptSlots:
    """How many image slots a pattern keeps, where, and which of them each slot reads."""

    kept: int
    """A ring of the latest slots, no longer than the pattern reaches back, where a step reads all
    of it; the whole grid, column by column, where a step reads one column."""
    stretch: int
    """How many neighbouring places a step reads: a divisor of `kept`."""
    place: Int[Tensor, " image"]
    """The place of each image slot."""
    stretch_of: Int[Tensor, " image"]
    """Which stretch each image slot reads, counted in stretches."""
    reads: Bool[Tensor, "image stretch"]
    """Which places of its stretch each image slot reads, at the time when it is the latest."""


def kept_slots(
    pattern: Pattern, layout: StreamLayout, device: torch.device | str | None = None
) -> KeptSlots:
    """The shorter of the two ways of keeping a pattern's keys, from its predicate."""
    slots = torch.arange(layout.image, device=device)
    start = layout.image_start
    allowed = may_attend(pattern, layout, start + slots[:, None], start + slots[None, :])
    query, key = torch.nonzero(allowed, as_tuple=True)
    reach = int((query - key).max()) + 1
    in_column = bool((query % layout.cols == key % layout.cols).all())
    if in_column and layout.rows < reach:
        column = slots % layout.cols
        by_column = allowed.unflatten(1, layout.grid)  # image rows cols
        return KeptSlots(
            kept=layout.image,
            stretch=layout.rows,
            place=column * layout.rows + slots // layout.cols,
            stretch_of=column,
            reads=by_column[slots, :, column],
        )
    latest = slots[:, None] - (slots[:, None] - torch.arange(reach, device=device)) % reach
    return KeptSlots(
        kept=reach,
        stretch=reach,
        place=slots % reach,
        stretch_of=torch.zeros_like(slots),
        # In place j there is the latest slot that is j modulo the ring's length.
        reads=allowed.gather(1, latest.clamp(min=0)) & (latest >= 0),
    )
