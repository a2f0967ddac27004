"""Decoding models of other projects, in whose streams the last slot of the text predicts token 0.

Our image slot p holds token p - 1 and slot 0 the start of the image, which is the same for every
prompt. Theirs have no such start: what stands before token 0 is the prompt's own.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dalle.nn.cache import Cache


@dataclass(frozen=True, kw_only=True, slots=True)
class FirstSlotCache:
    """Keys and values, and what stands at slot 0 for each prompt."""

    keys: Cache
    first: Float[Tensor, "prompts d"]
    """Filled in place by the prefill."""

    @classmethod
    def empty(cls, keys: Cache, *, width: int) -> "FirstSlotCache":
        """Room for a vector of `width` numbers for each prompt."""
        like = keys.layers[0].text_keys
        return cls(keys=keys, first=like.new_zeros(keys.prompts, width))

    def or_first(self, slot: Int[Tensor, ""], x: Float[Tensor, "b d"]) -> Float[Tensor, "b d"]:
        """Each picture's prompt's own vector at slot 0, and `x` at all others; no value goes to
        the host."""
        first = self.first.index_select(0, self.keys.prompt_of)
        return torch.where(slot == 0, first.to(x.dtype), x)


def own_slot(slot: Int[Tensor, ""]) -> Int[Tensor, ""]:
    """Where a model that keeps token p in image slot p itself keeps what we hold in `slot`.

    At our slot 0 that is place 0 too: what is computed there stands for nothing, and the next
    step writes over it.
    """
    return (slot - 1).clamp(min=0)
