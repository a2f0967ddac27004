"""Token shift of DALLE-pytorch: a part of each slot's channels comes from a slot before it.

Text, the start among it: the first half of the channels from the slot before. Image: the first
quarter from the slot a row above, the second from the slot to the left; zeros where there is none.

Source: lucidrains/DALLE-pytorch, dalle_pytorch/transformer.py.
"""

from typing import Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from dalle.layout import StreamLayout


class Shift(Protocol):
    """The input of one branch, whatever of it comes from slots before."""

    def __call__(self, branch: int, x: Float[Tensor, "b t d"], /) -> Float[Tensor, "b t d"]: ...


def no_shift(branch: int, x: Float[Tensor, "b t d"]) -> Float[Tensor, "b t d"]:
    """For models without it."""
    return x


def half(width: int) -> int:
    """Channels that move in the text."""
    return -(-width // 2)


def quarter(width: int) -> int:
    """Channels that move from above, and again from the left."""
    return -(-width // 4)


class StreamShift:
    """Over the first slots of the stream, from its start."""

    def __init__(self, layout: StreamLayout) -> None:
        self.layout = layout

    def __call__(self, branch: int, x: Float[Tensor, "b t d"]) -> Float[Tensor, "b t d"]:
        start, cols = self.layout.image_start, self.layout.cols
        text, image = x[:, :start], x[:, start:]
        moving, part = half(x.shape[-1]), quarter(x.shape[-1])
        text = torch.cat([_back(text[..., :moving], 1), text[..., moving:]], dim=-1)
        if not image.shape[1]:
            return text
        has_left = torch.arange(image.shape[1], device=x.device).remainder(cols) > 0
        left = _back(image[..., part : 2 * part], 1) * has_left[:, None]
        above = _back(image[..., :part], cols)
        return torch.cat([text, torch.cat([above, left, image[..., 2 * part :]], dim=-1)], dim=1)


def _back(x: Float[Tensor, "b t c"], slots: int) -> Float[Tensor, "b t c"]:
    return F.pad(x, (0, 0, slots, 0))[:, : x.shape[1]]


class ShiftCache:
    """What later slots take from earlier ones: of the text the last slot, of the image a row."""

    def __init__(
        self,
        *,
        layout: StreamLayout,
        branches: int,
        prompts: int,
        prompt_of: Int[Tensor, " pictures"],
        width: int,
        dtype: torch.dtype,
    ) -> None:
        self.layout = layout
        self.prompt_of = prompt_of
        part = quarter(width)

        def empty(*shape: int) -> Tensor:
            return torch.zeros(branches, *shape, dtype=dtype, device=prompt_of.device)

        self.text = empty(prompts, half(width))
        self.row = empty(len(prompt_of), layout.cols, 2 * part)
        """Image slot p is kept at p mod cols."""

    @property
    def bytes_per_sample(self) -> int:
        """Memory of one more sample, in bytes."""
        return self.row[:, 0].numel() * self.row.element_size()


class PrefillShift(StreamShift):
    """Over the first slots of the stream, one for each prompt, keeping what the steps need."""

    def __init__(self, cache: ShiftCache) -> None:
        super().__init__(cache.layout)
        self.cache = cache
        cache.row.zero_()

    def __call__(
        self, branch: int, x: Float[Tensor, "prompts t d"]
    ) -> Float[Tensor, "prompts t d"]:
        start, cols = self.layout.image_start, self.layout.cols
        self.cache.text[branch] = x[:, :start][:, -1, : self.cache.text.shape[-1]]
        known = x.shape[1] - start
        if known > 0:
            slots = torch.arange(max(0, known - cols), known, device=x.device)
            rows = x[:, start + slots, : self.cache.row.shape[-1]]
            self.cache.row[branch][:, slots % cols] = rows.index_select(0, self.cache.prompt_of)
        return super().__call__(branch, x)


class ImageStepShift:
    """For one image slot of every picture."""

    def __init__(self, cache: ShiftCache, slot: Int[Tensor, " 1"]) -> None:
        self.cache = cache
        self.slot = slot

    def __call__(self, branch: int, x: Float[Tensor, "b 1 d"]) -> Float[Tensor, "b 1 d"]:
        row, cols = self.cache.row[branch], self.cache.layout.cols
        both, part = row.shape[-1], row.shape[-1] // 2
        place, before = self.slot % cols, (self.slot - 1) % cols
        above = row.index_select(1, place)[..., :part] * (self.slot >= cols)
        left = row.index_select(1, before)[..., part:] * (place > 0)
        row.index_copy_(1, place, x[..., :both])
        return torch.cat([above, left, x[..., both:]], dim=-1)


class TextStepShift:
    """For one text slot of every prompt."""

    def __init__(self, cache: ShiftCache) -> None:
        self.cache = cache

    def __call__(self, branch: int, x: Float[Tensor, "b 1 d"]) -> Float[Tensor, "b 1 d"]:
        moving = self.cache.text.shape[-1]
        before = self.cache.text[branch].clone()
        self.cache.text[branch] = x[:, 0, :moving]
        return torch.cat([before[:, None], x[..., moving:]], dim=-1)
