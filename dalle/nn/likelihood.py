"""What a decoder's output says of pixels: the logit-Laplace likelihood, and squared error.

Source: arXiv 2102.12092, appendix A.3.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

EPSILON = 0.1


def map_pixels(images: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """[0, 1] to [0.1, 0.9], away from the ends, where the density has no bound."""
    return (1 - 2 * EPSILON) * images + EPSILON


def unmap_pixels(mapped: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """The inverse of `map_pixels`, clamped to [0, 1]."""
    return ((mapped - EPSILON) / (1 - 2 * EPSILON)).clamp(0, 1)


def logit_laplace_nll(
    mapped: Float[Tensor, "*shape"],
    mean: Float[Tensor, "*shape"],
    log_scale: Float[Tensor, "*shape"],
) -> Float[Tensor, "*shape"]:
    """-ln f(x | mean, scale) of each sub-pixel, in nats, with

        f(x | m, b) = exp(-|logit(x) - m| / b) / (2 b x (1 - x)).

    Args:
        mapped: pixels after `map_pixels`, inside (0, 1).
        mean: in logit space.
        log_scale: ln b.
    """
    distance = (torch.logit(mapped) - mean).abs() * torch.exp(-log_scale)
    return math.log(2) + log_scale + torch.log(mapped) + torch.log1p(-mapped) + distance
