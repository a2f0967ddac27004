"""From the logits of the next token to one token, given one uniform number."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dalle.errors import InputError


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
    tokens = None
    if sampling.top_k is not None or sampling.top_p is not None:
        most = min(sampling.top_k or logits.shape[-1], logits.shape[-1])
        logits, tokens = logits.topk(most, dim=-1)
    probabilities = torch.softmax(logits / sampling.temperature, dim=-1)
    if sampling.top_p is not None:
        before = probabilities.cumsum(dim=-1) - probabilities
        # The first one always stays: nothing is before it.
        probabilities = probabilities.masked_fill(before >= sampling.top_p, 0.0)
    choice = _invert(probabilities, uniform)
    return choice if tokens is None else tokens.gather(1, choice.unsqueeze(1)).squeeze(1)


def _invert(weights: Float[Tensor, "b v"], uniform: Float[Tensor, " b"]) -> Int[Tensor, " b"]:
    cumulative = weights.cumsum(dim=-1)
    total = cumulative[:, -1:]
    # u * total may round up to the total, which no token would exceed.
    below_total = torch.nextafter(total, torch.zeros_like(total))
    threshold = torch.minimum(uniform.unsqueeze(1) * total, below_total)
    return torch.searchsorted(cumulative, threshold, right=True).squeeze(1)


def uniform_table(seeds: list[int], slots: int) -> Float[Tensor, "slots n"]:
    """One number in [0, 1) for each slot of each seed: a function of (seed, slot) alone."""
    columns = [torch.rand(slots, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    return torch.stack(columns, dim=1)
