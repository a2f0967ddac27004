"""From the logits of the next token to one token, given one number that stands for all its noise.

Nothing sorts the vocabulary, nor looks at a number on the host: a step can be recorded.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from dalle.errors import InputError

BLOCK = 128
"""Tokens that are drawn as one before it is drawn among them."""
GOLDEN, FIRST, SECOND = (
    c - 2**64 for c in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
)
"""Of the generator SplitMix64, as signed numbers."""
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
    logits: Float[Tensor, "b v"], noise: Int[Tensor, " b"], sampling: Sampling
) -> Int[Tensor, " b"]:
    """One token for each row, distributed as the filtered logits say: a function of row and noise.

    It is the winner of a race, in which a token arrives after an exponential time over its
    probability: another one wins only where two would arrive at nearly the same time. What the
    logits are rounded to, which depends on how many are computed at once, then hardly ever
    matters; between thousands of neighbours on one line from 0 to 1 it would at every second
    picture.

    Args:
        logits: float32.
        noise: 0 <= number < 2^63, one for each row.
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
        return tokens.gather(1, _first(probabilities, _times(noise, tokens))).squeeze(1)
    if sampling.temperature != 1.0:
        logits = logits / sampling.temperature
    probabilities = torch.softmax(logits, dim=-1)
    if sampling.top_p is not None and sampling.top_p < 1.0:
        fewest = fewest_that_reach(probabilities, sampling.top_p)
        probabilities = probabilities.masked_fill(~fewest, 0.0)
    return _draw_by_blocks(probabilities, noise)


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


def _draw_by_blocks(weights: Float[Tensor, "b v"], noise: Int[Tensor, " b"]) -> Int[Tensor, " b"]:
    """A race among blocks of tokens, and one among those of the winner: few numbers are needed."""
    size = min(BLOCK, weights.shape[-1])
    if left := -weights.shape[-1] % size:
        weights = F.pad(weights, (0, left))
    blocks = weights.unflatten(-1, (-1, size))
    count = blocks.shape[1]
    times = _times(noise, torch.arange(count + size, device=weights.device))
    block = _first(blocks.sum(dim=-1), times[:, :count])
    own = blocks.gather(1, block.unsqueeze(2).expand(-1, -1, size)).squeeze(1)
    return (block * size + _first(own, times[:, count:])).squeeze(1)


def _first(weights: Float[Tensor, "b n"], times: Float[Tensor, "b n"]) -> Int[Tensor, "b 1"]:
    """Who arrives first; who has weight 0 never does."""
    return (weights / times).argmax(dim=-1, keepdim=True)


def _times(noise: Int[Tensor, " b"], keys: Int[Tensor, "*b n"]) -> Float[Tensor, "b n"]:
    """Exponential times, each a function of its row's number and a key: step `key` of SplitMix64.

    Source: Steele, Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014.
    """
    x = noise.unsqueeze(1) + keys * GOLDEN
    x = (x ^ _shifted(x, 30)) * FIRST
    x = (x ^ _shifted(x, 27)) * SECOND
    part = (_shifted(x ^ _shifted(x, 31), 32).float() + 0.5) * 2.0**-32
    return -torch.log1p(-part)


def _shifted(x: Int[Tensor, "*n"], bits: int) -> Int[Tensor, "*n"]:
    # As a number without sign: zeros come in.
    return (x >> bits) & ((1 << 64 - bits) - 1)


def noise_table(seeds: list[int], slots: int) -> Int[Tensor, "slots n"]:
    """One number in [0, 2^63) for each slot of each seed: a function of (seed, slot) alone."""

    def column(seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        return torch.randint(2**63 - 1, (slots,), generator=generator)

    return torch.stack([column(seed) for seed in seeds], dim=1)
