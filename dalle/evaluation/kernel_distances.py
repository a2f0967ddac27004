"""Distances between sets of features by the mean similarity within and between them: KID, CMMD."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from dalle.errors import InputError
from dalle.evaluation.estimates import Estimate, estimate

Features = Float[Tensor, "_ _"]
Kernel = Callable[[Float[Tensor, "a d"], Float[Tensor, "b d"]], Float[Tensor, "a b"]]
ROWS_AT_ONCE = 1024
CMMD_DEVIATION, CMMD_SCALE = 10.0, 1000.0
MOST_BLOCKS = 10
LEAST_IN_BLOCK = 10


def kid(real: Features, generated: Features) -> Estimate:
    """The squared maximum mean discrepancy under the kernel (x · y / d + 1)³, unbiased.

    The value is over all pictures, and may be below 0. It does not depend on how many there are,
    but for its error, which comes from up to ten parts of both sets held against each other.

    Source: Bińkowski et al., arXiv 1801.01401, section 4.
    """
    value = _unbiased(real, generated, _cubic)
    blocks = min(len(real), len(generated)) // LEAST_IN_BLOCK
    if blocks < 2:
        return Estimate(value, None)
    blocks = min(blocks, MOST_BLOCKS)
    pairs = zip(real.tensor_split(blocks), generated.tensor_split(blocks), strict=True)
    parts = torch.tensor([_unbiased(a, b, _cubic) for a, b in pairs], dtype=torch.float64)
    return Estimate(value, estimate(parts).error)


def cmmd(real: Features, generated: Features) -> float:
    """1000 times the squared maximum mean discrepancy under exp(-|x - y|² / 200).

    It is the published estimator, which counts each picture's similarity to itself: it is at least
    0 and biased upwards by about 1000 · 2 · (1 - mean similarity) / n.

    Args:
        real, generated: unit vectors of a CLIP (published: ViT-L/14 at 336 pixels).

    Source: Jayasumana et al., arXiv 2401.09603, section 4, and its code.
    """
    _check(real, generated, least=1)
    n, m = len(real), len(generated)
    within = _sum(real, real, _gaussian) / n**2 + _sum(generated, generated, _gaussian) / m**2
    return CMMD_SCALE * (within - 2 * _sum(real, generated, _gaussian) / (n * m))


def _unbiased(a: Features, b: Features, kernel: Kernel) -> float:
    _check(a, b, least=2)
    value = -2 * _sum(a, b, kernel) / (len(a) * len(b))
    for x in (a, b):
        # Each to the others only: the pairs of a picture with itself are taken out again.
        own = sum(kernel(row[None], row[None]).item() for row in x.double())
        value += (_sum(x, x, kernel) - own) / (len(x) * (len(x) - 1))
    return value


def _sum(a: Features, b: Features, kernel: Kernel) -> float:
    """The kernel summed over all pairs, some rows at a time, in float64."""
    wide = b.double()
    return sum(kernel(rows.double(), wide).sum().item() for rows in a.split(ROWS_AT_ONCE))


def _cubic(a: Float[Tensor, "a d"], b: Float[Tensor, "b d"]) -> Float[Tensor, "a b"]:
    return (a @ b.T / a.shape[1] + 1) ** 3


def _gaussian(a: Float[Tensor, "a d"], b: Float[Tensor, "b d"]) -> Float[Tensor, "a b"]:
    squares = a.square().sum(1)[:, None] + b.square().sum(1)[None] - 2 * a @ b.T
    return torch.exp(-squares / (2 * CMMD_DEVIATION**2))


def _check(a: Features, b: Features, *, least: int) -> None:
    if a.shape[1] != b.shape[1] or min(len(a), len(b)) < least:
        raise InputError(
            f"features of shapes {tuple(a.shape)} and {tuple(b.shape)} came; expected at least "
            f"{least} on each side, of one network"
        )
