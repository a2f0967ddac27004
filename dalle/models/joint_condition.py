"""How the vectors of a CLIP become conditions: the same in training and in sampling."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from dalle.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class JointCondition:
    """What is done to vectors, and of which CLIP they are; a checkpoint keeps it.

    Vectors of pictures and of texts lie in two cones of the space that they share. A decoder that
    has seen those of pictures meets those of texts when it samples; `xi` and the means narrow the
    gap between them. Neither is CLIP-GEN's: without them it is the published one.
    """

    clip: str
    """Where the CLIP came from, for messages."""
    fingerprint: str
    """Of its weights: another one is refused."""
    vector_size: int
    xi: float = 0.0
    """Length of the noise that training adds to a picture's vector of length 1, in a random
    direction; 0 is none. Source: LAFITE, arXiv 2111.13792, equation 5; its code has 3."""
    mean_image: tuple[float, ...] = ()
    """Subtracted from vectors of pictures; empty to leave them. Source: C3, arXiv 2401.08567."""
    mean_text: tuple[float, ...] = ()
    """Likewise of texts."""

    def __post_init__(self) -> None:
        if not (self.xi >= 0 and math.isfinite(self.xi)):
            raise ConfigError(f"xi is {self.xi}; expected a finite number of 0 or more")
        sizes = {len(self.mean_image), len(self.mean_text)}
        if sizes not in ({0}, {self.vector_size}):
            raise ConfigError(
                f"mean_image has {len(self.mean_image)} numbers and mean_text "
                f"{len(self.mean_text)}; expected {self.vector_size} each, or none in both"
            )

    def of_images(self, vectors: Float[Tensor, "n e"]) -> Float[Tensor, "n e"]:
        """Conditions of unit length from vectors of pictures, without noise."""
        return _centred(vectors, self.mean_image)

    def of_texts(self, vectors: Float[Tensor, "n e"]) -> Float[Tensor, "n e"]:
        """Conditions of unit length from vectors of texts."""
        return _centred(vectors, self.mean_text)

    def noisy(self, conditions: Float[Tensor, "n e"]) -> Float[Tensor, "n e"]:
        """Conditions with training's noise, of unit length again; drawn from torch's generator.

        In many dimensions the cosine with the condition is about 1 / sqrt(1 + xi^2).
        """
        if self.xi == 0:
            return conditions
        noise = F.normalize(torch.randn_like(conditions), dim=-1)
        return F.normalize(conditions + self.xi * noise, dim=-1)


def slerp(
    start: Float[Tensor, " e"], end: Float[Tensor, " e"], shares: Float[Tensor, " n"]
) -> Float[Tensor, "n e"]:
    """Unit vectors on the great circle from one unit vector to another.

    Args:
        start, end: not opposite to each other.
        shares: 0 is the start, 1 the end.

    Raises:
        ConfigError: they are opposite: many circles lead from one to the other.
    """
    cosine = (start @ end).clamp(-1, 1)
    if cosine < -1 + 1e-6:
        raise ConfigError("the two vectors are opposite to each other; there is no one way between")
    angle, along = torch.arccos(cosine), shares.unsqueeze(1)
    if angle < 1e-3:  # the sines vanish, and the circle is a straight line
        return F.normalize(torch.lerp(start, end, along), dim=-1)
    mixed = torch.sin((1 - along) * angle) * start + torch.sin(along * angle) * end
    return F.normalize(mixed, dim=-1)


def _centred(vectors: Float[Tensor, "n e"], mean: tuple[float, ...]) -> Float[Tensor, "n e"]:
    unit = F.normalize(vectors.float(), dim=-1)
    if not mean:
        return unit
    return F.normalize(unit - torch.tensor(mean, device=unit.device), dim=-1)
