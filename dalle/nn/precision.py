"""Parts of a model that stay in 32 bits in mixed precision too."""

import contextlib
from contextlib import AbstractContextManager

import torch
from jaxtyping import Float
from torch import Tensor

from dalle.nn.linear import linear32


def full_precision(device: torch.device) -> AbstractContextManager[object]:
    """A block without autocast; on the meta device, which has none, an empty one."""
    if device.type == "meta":
        return contextlib.nullcontext()
    return torch.autocast(device.type, enabled=False)


def logits(
    hidden: Float[Tensor, "*b d"],
    weight: Float[Tensor, "v d"],
    bias: Float[Tensor, " v"] | None,
) -> Float[Tensor, "*b v"]:
    """What an unembedding makes of hidden states: 32-bit in mixed precision too.

    Source: arXiv 2102.12092, appendix D.
    """
    with full_precision(hidden.device):
        return linear32(hidden, weight, bias)
