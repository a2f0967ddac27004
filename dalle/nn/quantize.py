"""The relaxation of discrete codes, and how evenly a codebook is used.

Source: arXiv 2102.12092, section 2.1 and appendix A.2.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor


def gumbel_softmax(
    logits: Float[Tensor, "b codes rows cols"], temperature: float
) -> Float[Tensor, "b codes rows cols"]:
    """A sample of the relaxed one-hot code of each cell, in float32.

    Args:
        temperature: above 0; near 0 the sample is one-hot.
    """
    # Not torch's gumbel_softmax: its exponential noise took a twelfth of a training step on a CPU.
    uniform = torch.rand_like(logits, dtype=torch.float32)
    gumbel = -torch.log(-torch.log(uniform.clamp_(min=torch.finfo(torch.float32).tiny)))
    return torch.softmax((logits.float() + gumbel) / temperature, dim=1)


def kl_to_uniform(
    logits: Float[Tensor, "b codes rows cols"],
) -> Float[Tensor, "b rows cols"]:
    """KL of each cell's posterior to the uniform prior, in nats: 0 ... ln(codes)."""
    log_q = torch.log_softmax(logits.float(), dim=1)
    return (log_q.exp() * log_q).sum(dim=1) + math.log(logits.shape[1])


def mean_posterior(logits: Float[Tensor, "b codes rows cols"]) -> Float[Tensor, " codes"]:
    """The posterior averaged over all cells: how likely each code is at all."""
    return torch.softmax(logits.float(), dim=1).mean(dim=(0, 2, 3))


@dataclass(frozen=True, slots=True)
class CodebookUse:
    """How much of a codebook some pictures use."""

    codes_used: int
    usage: float
    """Share of the codebook that was used at least once."""
    perplexity: float
    """As `perplexity` says."""


def code_counts(codes: Int[Tensor, "*cells"], num_codes: int) -> Int[Tensor, " codes"]:
    """How often each code occurs."""
    # Not bincount, which makes a GPU and its CPU wait for one another.
    ones = torch.ones_like(codes.flatten())
    return ones.new_zeros(num_codes).scatter_add_(0, codes.flatten(), ones)


def perplexity(counts: Int[Tensor, " codes"]) -> Float[Tensor, ""]:
    """exp of the entropy of the codes: 1 (one code only) ... number of codes (all alike)."""
    shares = counts.float() / counts.sum().clamp(min=1)
    return torch.special.entr(shares).sum().exp()


def codebook_use(counts: Int[Tensor, " codes"]) -> CodebookUse:
    """Usage and perplexity from the counts of a codebook."""
    used = int((counts > 0).sum())
    return CodebookUse(used, used / counts.numel(), perplexity(counts).item())
