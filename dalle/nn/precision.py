"""Parts of a model that stay in 32 bits in mixed precision too."""

import contextlib
from contextlib import AbstractContextManager

import torch
from jaxtyping import Float
from torch import Tensor

from dalle.nn.linear import linear32
from dalle.nn.tensor_cores import Tf32Linear, linear_of_short, takes_short


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
    """What an unembedding makes of hidden states: sums and results have 32 bits in mixed precision
    and in models of 16 bits, too.

    Factors are float32, with two exceptions on GPUs, where such products are slow: in mixed
    precision they are rounded to TF32, and where both have 16 bits they are taken as they are.

    Source: arXiv 2102.12092, appendix D.
    """
    on_gpu = hidden.device.type == "cuda"
    mixed = on_gpu and torch.is_autocast_enabled("cuda")
    with full_precision(hidden.device):
        if mixed:
            return Tf32Linear.apply(hidden.float(), weight.float(), bias)  # type: ignore[no-any-return]
        short = on_gpu and hidden.dtype == weight.dtype and not torch.is_grad_enabled()
        if short and takes_short(hidden.dtype, hidden.device):
            return linear_of_short(hidden, weight, bias)
        return linear32(hidden, weight, bias)
