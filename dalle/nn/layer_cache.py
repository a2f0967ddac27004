"""One layer's keys and values while decoding, and where a step finds and leaves them.

What a step reads of all pictures, one column of the grid, say, lies in one piece: products in 16
bits would copy it otherwise.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dalle.nn.kept import KeptSlots


@dataclass(frozen=True, kw_only=True, slots=True)
class Places:
    """Where one step writes and reads, in all layers of a pattern."""

    stretch_of_place: Int[Tensor, " 1"] | int
    place: Int[Tensor, " 1"] | int
    """Within the stretch that is written to."""
    stretch: Int[Tensor, " 1"] | int
    """That is read."""
    listed: Int[Tensor, " n"] | None
    """The places of it that are read; None where all are."""
    unread: Float[Tensor, "1 stretch"]
    unread_text: Float[Tensor, " text"] | None


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerCache:
    """One layer's keys and values, filled in place."""

    text_keys: Float[Tensor, "prompts h text d"]
    text_values: Float[Tensor, "prompts h text d"]
    image_keys: Float[Tensor, "stretches pictures h places d"]
    image_values: Float[Tensor, "stretches pictures h places d"]
    slots: KeptSlots
    """Where each image slot is kept."""
    unread: Float[Tensor, "image stretch"]
    """Added to the scores: 0 where a place is read, minus infinity where it is not."""
    unread_text: Float[Tensor, "image text"] | None
    """Likewise for the text, where the pattern does not read all of it."""

    def at(self, slot: Int[Tensor, ""]) -> Places:
        """What a step at image slot `slot` writes and reads in layers of this one's pattern."""
        one, slots = slot.reshape(1), self.slots
        kept_at: Tensor | int = slots.place.index_select(0, one)
        stretch: Tensor | int = slots.stretch_of.index_select(0, one)
        if reads_numbers(slot.device):
            kept_at, stretch = int(kept_at), int(stretch)
        stretch_of_place, place = self.split(kept_at)
        if slots.stretches == 1:
            stretch_of_place = stretch = 0
        return Places(
            stretch_of_place=stretch_of_place,
            place=place,
            stretch=stretch,
            listed=None if slots.listed is None else slots.listed.index_select(0, one)[0],
            unread=self.unread.index_select(0, one),
            unread_text=None
            if self.unread_text is None
            else self.unread_text.index_select(0, one)[0],
        )

    def split(
        self, place: Int[Tensor, " n"] | int
    ) -> tuple[Int[Tensor, " n"] | int, Int[Tensor, " n"] | int]:
        """The stretch in which a place is, and where in it; of one number, or of a tensor."""
        length = self.image_keys.shape[3]
        return place // length, place % length

    def keep(
        self,
        kept: Float[Tensor, "stretches pictures h places d"],
        new: Float[Tensor, "pictures h 1 d"],
        places: Places,
    ) -> None:
        """Write what belongs to a slot to its place in `kept`."""
        if isinstance(places.place, int):
            kept[places.stretch_of_place].select(2, places.place).copy_(new.squeeze(2))
        elif isinstance(places.stretch_of_place, int):
            kept[places.stretch_of_place].index_copy_(2, places.place, new)
        else:
            kept[places.stretch_of_place, :, :, places.place] = new.permute(2, 0, 1, 3)

    def stretch(
        self, kept: Float[Tensor, "stretches pictures h places d"], places: Places
    ) -> Float[Tensor, "pictures h stretch d"]:
        """What a slot reads of `kept`, together with what it does not."""
        if isinstance(places.stretch, int):
            stretch = kept[places.stretch]
        else:
            stretch = kept.index_select(0, places.stretch).squeeze(0)
        return stretch if places.listed is None else stretch.index_select(2, places.listed)


def reads_numbers(device: torch.device) -> bool:
    """Whether a step may look at the number of its slot.

    On the CPU it costs nothing, and what an index is a tensor for costs a copy or a slow loop. On
    a GPU it would make the host wait, and the step could not be recorded.
    """
    return device.type == "cpu"
