"""One layer's keys and values while decoding, and where a step finds and leaves them."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dalle.nn.kept import KeptSlots


@dataclass(frozen=True, kw_only=True, slots=True)
class Places:
    """Where one step writes and reads, in all layers of a pattern."""

    place: Int[Tensor, " 1"] | int
    stretch: Int[Tensor, " n"] | int | None
    """The stretch, or the places that are listed; None where all that is kept is read."""
    listed: bool
    unread: Float[Tensor, "1 stretch"]
    unread_text: Float[Tensor, " text"] | None


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerCache:
    """One layer's keys and values, filled in place."""

    text_keys: Float[Tensor, "prompts h text d"]
    text_values: Float[Tensor, "prompts h text d"]
    image_keys: Float[Tensor, "pictures h kept d"]
    image_values: Float[Tensor, "pictures h kept d"]
    slots: KeptSlots
    """Where each image slot is kept."""
    unread: Float[Tensor, "image stretch"]
    """Added to the scores: 0 where a place is read, minus infinity where it is not."""
    unread_text: Float[Tensor, "image text"] | None
    """Likewise for the text, where the pattern does not read all of it."""

    def at(self, slot: Int[Tensor, ""]) -> Places:
        """What a step at image slot `slot` writes and reads in layers of this one's pattern."""
        one, slots = slot.reshape(1), self.slots
        place: Tensor | int = slots.place.index_select(0, one)
        stretch: Tensor | int | None = None
        if slots.listed is not None:
            stretch = slots.listed.index_select(0, one)[0]
        elif slots.stretch < slots.kept:
            stretch = slots.stretch_of.index_select(0, one)
        if reads_numbers(slot.device):
            place = int(place)
            stretch = int(stretch) if slots.listed is None and stretch is not None else stretch
        return Places(
            place=place,
            stretch=stretch,
            listed=slots.listed is not None,
            unread=self.unread.index_select(0, one),
            unread_text=None
            if self.unread_text is None
            else self.unread_text.index_select(0, one)[0],
        )

    def keep(
        self,
        kept: Float[Tensor, "pictures h kept d"],
        new: Float[Tensor, "pictures h 1 d"],
        places: Places,
    ) -> None:
        """Write what belongs to a slot to its place in `kept`."""
        if isinstance(places.place, int):
            kept.select(2, places.place).copy_(new.squeeze(2))
        else:
            kept.index_copy_(2, places.place, new)

    def stretch(
        self, kept: Float[Tensor, "pictures h kept d"], places: Places
    ) -> Float[Tensor, "pictures h stretch d"]:
        """What a slot reads of `kept`, together with what it does not."""
        if places.stretch is None:
            return kept
        if places.listed and isinstance(places.stretch, Tensor):
            return kept.index_select(2, places.stretch)
        stretches = kept.unflatten(2, (-1, self.slots.stretch))
        if isinstance(places.stretch, int):
            return stretches[:, :, places.stretch]
        return stretches.index_select(2, places.stretch).squeeze(2)


def reads_numbers(device: torch.device) -> bool:
    """Whether a step may look at the number of its slot.

    On the CPU it costs nothing, and what an index is a tensor for costs a copy or a slow loop. On
    a GPU it would make the host wait, and the step could not be recorded.
    """
    return device.type == "cpu"
