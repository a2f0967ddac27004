"""Where the keys of a pattern are kept while decoding, so that a step reads one stretch of them.

A stretch of the kept slots is read where they are; a list of them has to be gathered first, which
only pays where most of a stretch would be read for nothing.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from dalle.layout import StreamLayout
from dalle.nn.masks import Pattern, may_attend

LEAST_READ = 1 / 4
"""Of a stretch; patterns that read less of it are listed. Those of our own models read a third."""


@dataclass(frozen=True, kw_only=True, slots=True)
class KeptSlots:
    """How many image slots a pattern keeps, where, and which of them each slot reads."""

    kept: int
    """A ring of the latest slots, no longer than the pattern reaches back, where a step reads all
    of it; the whole grid, column by column, where a step reads one column."""
    stretch: int
    """How many neighbouring places a step reads, a divisor of `kept`; or how many are listed."""
    place: Int[Tensor, " image"]
    """The place of each image slot."""
    stretch_of: Int[Tensor, " image"]
    """Which stretch each image slot reads, counted in stretches."""
    reads: Bool[Tensor, "image stretch"]
    """Which places of its stretch each image slot reads, at the time when it is the latest."""
    listed: Int[Tensor, "image stretch"] | None = None
    """The places that each image slot reads, filled up with any, in place of a stretch."""

    @property
    def stretches(self) -> int:
        """Of how many stretches what is kept consists; a list is taken from one."""
        return 1 if self.listed is not None else self.kept // self.stretch


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
    most = int(allowed.sum(dim=1).max())
    if most < LEAST_READ * reach:
        # A stable sort of "not allowed" brings the allowed keys to the front, in rising order.
        order = torch.argsort((~allowed).to(torch.uint8), dim=1, stable=True)[:, :most]
        return KeptSlots(
            kept=reach,
            stretch=most,
            place=slots % reach,
            stretch_of=torch.zeros_like(slots),
            reads=allowed.gather(1, order),
            listed=order % reach,
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
