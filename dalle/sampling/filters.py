"""From the logits of the next token to one token, given one uniform number.

Nothing sorts the vocabulary, nor looks at a number on the host: a step can be recorded.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from dalle.errors import InputError

BLOCK = 128
"""Codes that are summed before they are searched."""
UNIT = 2.0**40
"""Probabilities are added up as whole numbers of 1 / UNIT, so that no order of adding matters."""
DIGIT_BITS = 10


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampling:
    """How tokens are drawn; the defaults are the published ones (temperature 1, nothing cut).

    Source: arXiv 2102.12092, section 2.6.
    """

    temperature: float = 1.0
    """Divides the logits; 0 takes the most likely token."""
    top_k: int | None = None
    """Only the k most likely codes of the image vocabulary."""
    top_p: float | None = None
    """Only the fewest most likely codes whose probabilities reach p."""
    guidance: float = 1.0
    """s in null + s (conditional - null): 1 is none, 0 ignores the text."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.temperature < float("inf"):
            raise InputError(f"temperature is {self.temperature}; expected 0 (argmax) or more")
        if self.top_k is not None and self.top_k < 1:
            raise InputError(f"top_k is {self.top_k}; expected a number of codes, 1 or more")
        if self.top_p is not None and not 0.0 < self.top_p <= 1.0:
            raise InputError(f"top_p is {self.top_p}; expected 0 < top_p <= 1")
        if not 0.0 <= self.guidance < float("inf"):
            raise InputError(f"guidance is {self.guidance}; expected 0 or more (1 is none)")


def guide(
    conditional: Float[Tensor, "b v"], null: Float[Tensor, "b v"], scale: float
) -> Float[Tensor, "b v"]:
    """Classifier-free guidance: null + scale (conditional - null)."""
    return null + scale * (conditional - null)


def draw_token(
    logits: Float[Tensor, "b v"], uniform: Float[Tensor, " b"], sampling: Sampling
) -> Int[Tensor, " b"]:
    """One token for each row: the inverse of the filtered distribution at `uniform`.

    Args:
        logits: float32.
        uniform: 0 <= u < 1, one number for each row.
    """
    if sampling.temperature == 0.0:
        return logits.argmax(dim=-1)
    if sampling.top_k is not None and sampling.top_k < logits.shape[-1]:
        logits, tokens = logits.topk(sampling.top_k, dim=-1)
        probabilities = torch.softmax(logits / sampling.temperature, dim=-1)
        if sampling.top_p is not None:
            before = probabilities.cumsum(dim=-1) - probabilities
            # The first one always stays: nothing is before it.
            probabilities = probabilities.masked_fill(before >= sampling.top_p, 0.0)
        return tokens.gather(1, _invert(probabilities, uniform).unsqueeze(1)).squeeze(1)
    if sampling.temperature != 1.0:
        logits = logits / sampling.temperature
    probabilities = torch.softmax(logits, dim=-1)
    if sampling.top_p is not None and sampling.top_p < 1.0:
        fewest = fewest_that_reach(probabilities, sampling.top_p)
        probabilities = probabilities.masked_fill(~fewest, 0.0)
    return _invert(probabilities, uniform)


def fewest_that_reach(probabilities: Float[Tensor, "b v"], top_p: float) -> Bool[Tensor, "b v"]:
    """The fewest most likely tokens whose probabilities reach p; of equal ones the first.

    The least of them is found digit by digit of its 32 bits, whose order is that of the numbers:
    a histogram of the first digit says in which bin p is reached, one of the second digit where
    in this bin, and so on.

    Args:
        probabilities: float32, rows of sum 1.
        top_p: 0 < p < 1.
    """
    bits = probabilities.view(torch.int32)
    weights = (probabilities * UNIT).long()
    lacking = (weights.sum(dim=-1, keepdim=True).double() * top_p).ceil().long().clamp(min=1)
    number = 1 << DIGIT_BITS
    least = torch.zeros_like(lacking, dtype=torch.int32)
    digit = bits >> 2 * DIGIT_BITS
    for shift in range(2 * DIGIT_BITS, -1, -DIGIT_BITS):
        # The last bin is for all whose digits before this one are others.
        bins = weights.new_zeros(len(weights), number + 1)
        bins = bins.scatter_add_(1, digit.long(), weights)[:, :number]
        upwards = bins.flip(1).cumsum(dim=1).flip(1)  # in each bin and those above it
        reached = (upwards >= lacking).sum(dim=1, keepdim=True) - 1
        lacking = lacking - (upwards - bins).gather(1, reached)
        least = (least << DIGIT_BITS) | reached.int()
        if shift:
            digit = (bits >> shift - DIGIT_BITS) & (number - 1)
            digit.masked_fill_(bits >> shift != least, number)
    equal = bits == least
    of_each = (least.view(torch.float32) * UNIT).long().clamp(min=1)
    kept = equal & (equal.cumsum(dim=-1, dtype=torch.int32) <= -(-lacking // of_each))
    return kept | (bits > least)


def _invert(weights: Float[Tensor, "b v"], uniform: Float[Tensor, " b"]) -> Int[Tensor, " b"]:
    """The token at which the sum of weights passes the `uniform` part of the whole."""
    size = math.gcd(weights.shape[-1], BLOCK)
    blocks = weights.unflatten(-1, (-1, size))
    upto = blocks.sum(dim=-1).cumsum(dim=-1)
    sought = _below(uniform.unsqueeze(1) * upto[:, -1:], upto[:, -1:])
    block = torch.searchsorted(upto, sought, right=True)
    before = F.pad(upto, (1, 0)).gather(1, block)
    own = blocks.gather(1, block.unsqueeze(2).expand(-1, -1, size)).squeeze(1).cumsum(dim=-1)
    place = torch.searchsorted(own, _below(sought - before, own[:, -1:]), right=True)
    return (block * size + place).squeeze(1)


def _below(sought: Float[Tensor, "b 1"], total: Float[Tensor, "b 1"]) -> Float[Tensor, "b 1"]:
    # It may have been rounded up to the total, which no token would exceed.
    return torch.minimum(sought, torch.nextafter(total, torch.zeros_like(total)))


def uniform_table(seeds: list[int], slots: int) -> Float[Tensor, "slots n"]:
    """One number in [0, 1) for each slot of each seed: a function of (seed, slot) alone."""
    columns = [torch.rand(slots, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    return torch.stack(columns, dim=1)
