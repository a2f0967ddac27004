"""The Fréchet distance between two sets of features, each taken for a Gaussian: FID."""

from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor

from dalle.errors import InputError


class Moments:
    """Mean and covariance of features that come in parts, in float64; no part is kept.

    Source: Chan, Golub, LeVeque, Updating Formulae and a Pairwise Algorithm (1979).
    """

    def __init__(self, width: int) -> None:
        self.count = 0
        self.mean: Float[Tensor, " d"] = torch.zeros(width, dtype=torch.float64)
        self._scatter: Float[Tensor, "d d"] = torch.zeros(width, width, dtype=torch.float64)

    def add(self, features: Float[Tensor, "n d"]) -> None:
        """Take in some more."""
        part = features.to("cpu", torch.float64)
        total, mean = self.count + len(part), part.mean(dim=0)
        centred, step = part - mean, mean - self.mean
        self._scatter += centred.T @ centred
        self._scatter += torch.outer(step, step) * (self.count * len(part) / total)
        self.mean = self.mean + step * (len(part) / total)
        self.count = total

    @property
    def covariance(self) -> Float[Tensor, "d d"]:
        """The unbiased one.

        Raises:
            InputError: there are fewer than two features.
        """
        if self.count < 2:
            raise InputError(f"{self.count} pictures have no covariance; give at least two")
        return self._scatter / (self.count - 1)


def moments(parts: Iterable[Float[Tensor, "_ d"]]) -> Moments:
    """Of all features in some parts, of which there is at least one."""
    found: Moments | None = None
    for part in parts:
        found = found or Moments(part.shape[1])
        found.add(part)
    if found is None:
        raise InputError("there are no features; give at least two pictures")
    return found


def frechet_distance(a: Moments, b: Moments) -> float:
    """|mean_a - mean_b|² + tr(A + B - 2 (A^½ B A^½)^½), of covariances A and B.

    Both roots are symmetric, by eigenvalues, of which those below 0 are rounding and count as 0: so
    it holds for fewer pictures than features have entries, where covariances are singular. The
    value is biased upwards, the more the fewer pictures there are: compare at equal numbers only.

    Source: Dowson, Landau (1982); Heusel et al., arXiv 1706.08500, equation 6.
    """
    if a.mean.shape != b.mean.shape:
        raise InputError(
            f"features of {len(a.mean)} and {len(b.mean)} entries came; take one network for both"
        )
    first, second = a.covariance, b.covariance
    values, vectors = torch.linalg.eigh(first)
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    inner = torch.linalg.eigvalsh(root @ second @ root).clamp(min=0).sqrt().sum()
    shift = (a.mean - b.mean).square().sum()
    return float(shift + first.trace() + second.trace() - 2 * inner)
