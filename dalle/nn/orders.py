"""Streams whose picture comes before their text, beside those whose text comes first.

    text first       text j reads text 0 ... j; image p holds token p - 1, reads all text, and of
                     the image what its pattern says; both predict                 (published)
    picture first    image p holds token p and reads of the image what its pattern says; text j
                     reads the whole image and text 0 ... j; only text predicts

Both keep the same slots, embeddings and weights: the order is a mask, an input and a learned mark.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from dalle.layout import StreamLayout
from dalle.nn.attention import Attend, dense_attention
from dalle.nn.masks import Pattern, dense_mask, may_attend_picture_first

TEXT, IMAGE = 0, 1
"""The marks, by the kind of slot that they are added to."""


class BothOrders(nn.Module):
    """What a decoder has besides, so that each row of a batch has its own order."""

    def __init__(self, *, width: int, patterns: tuple[Pattern, ...], layout: StreamLayout) -> None:
        super().__init__()
        self.marks = nn.Parameter(torch.empty(2, width))
        """Added to the text slots and to the image slots where the picture is first."""
        self.patterns = patterns
        self.layout = layout
        self.form = dense_attention
        """Every row has a mask of its own, for which no faster form is exact."""
        self._masks: dict[Pattern, Bool[Tensor, "order length length"]] = {}

    def mark(self, picture_first: Bool[Tensor, " b"]) -> Float[Tensor, "b length d"]:
        """What is added to the embedded slots of each row."""
        slots = torch.arange(self.layout.length, device=picture_first.device)
        is_text = (slots < self.layout.image_start).unsqueeze(1)
        marks = torch.where(is_text, self.marks[TEXT], self.marks[IMAGE])
        return marks * picture_first[:, None, None]

    def attend(self, picture_first: Bool[Tensor, " b"]) -> Attend:
        """Attention over whole streams, each in its own order."""
        device = picture_first.device
        if not self._masks or next(iter(self._masks.values())).device != device:
            self._masks = {p: self._both_masks(p, device) for p in set(self.patterns)}
        order = picture_first.long()
        masks = {p: both[order].unsqueeze(1) for p, both in self._masks.items()}  # b 1 t t

        def attend(layer: int, queries: Tensor, keys: Tensor, values: Tensor, /) -> Tensor:
            return self.form(queries, keys, values, masks[self.patterns[layer]])

        return attend

    def _both_masks(
        self, pattern: Pattern, device: torch.device
    ) -> Bool[Tensor, "order length length"]:
        slots = torch.arange(self.layout.length, device=device)
        picture_first = may_attend_picture_first(
            pattern, self.layout, slots[:, None], slots[None, :]
        )
        return torch.stack([dense_mask(pattern, self.layout, device), picture_first])
