"""Means over pictures or captions, with their standard errors."""

import math
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean, and its standard error; of one value there is none."""

    mean: float
    error: float | None


def estimate(values: Float[Tensor, " n"]) -> Estimate:
    """The mean of independent values, in float64."""
    values = values.double()
    error = values.std().item() / math.sqrt(len(values)) if len(values) > 1 else None
    return Estimate(values.mean().item(), error)


def share(rate: float, num: int) -> Estimate:
    """A share of `num` independent cases, with its binomial standard error."""
    return Estimate(rate, math.sqrt(max(rate * (1 - rate), 0.0) / num))
