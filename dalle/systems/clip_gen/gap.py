"""How far a CLIP's vectors of texts lie from those of pictures.

Source: arXiv 2203.02053, section 2, for the gap; LAFITE, arXiv 2111.13792, for what noise does.
"""

import math
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from dalle.errors import InputError


@dataclass(frozen=True, kw_only=True, slots=True)
class Gap:
    """Mean cosines; without a gap a picture is as near to its text as pictures alike are."""

    pairs: int
    matched: float
    """Of a picture and its own text."""
    unmatched: float
    """Of a picture and the text of another."""
    images: float
    """Of two pictures."""
    texts: float
    """Of two texts."""
    between_means: float
    """Length of the difference between the mean vectors of pictures and texts."""
    matched_centred: float
    """As `matched`, when either mean is subtracted."""
    unmatched_centred: float

    @property
    def xi(self) -> float:
        """Noise of this length has the cosine `matched` with what it is added to: what LAFITE's
        code takes for CLIP, 3. Infinite where pictures and their texts are not alike at all."""
        return math.sqrt(1 / self.matched**2 - 1) if self.matched > 0 else math.inf

    def lines(self) -> list[str]:
        """For the terminal."""
        return [
            f"gap over {self.pairs} pairs, mean cosines:",
            f"  picture and its text {self.matched:.3f}, and another's text {self.unmatched:.3f}",
            f"  two pictures {self.images:.3f}, two texts {self.texts:.3f}",
            f"  the means lie {self.between_means:.3f} apart; with both subtracted: picture and "
            f"its text {self.matched_centred:.3f}, and another's {self.unmatched_centred:.3f}",
            f"  noise that takes a picture as far as its text is: xi {self.xi:.2f}",
        ]


def measure_gap(images: Float[Tensor, "n e"], texts: Float[Tensor, "n e"]) -> Gap:
    """Of the vectors of pictures and of their texts, row by row.

    Raises:
        InputError: there are fewer than two pairs.
    """
    if len(images) < 2:
        raise InputError(f"{len(images)} pairs came; a gap needs two or more")
    of_images, of_texts = F.normalize(images.float(), dim=-1), F.normalize(texts.float(), dim=-1)
    mean_image, mean_text = of_images.mean(dim=0), of_texts.mean(dim=0)
    centred = (
        F.normalize(of_images - mean_image, dim=-1),
        F.normalize(of_texts - mean_text, dim=-1),
    )
    return Gap(
        pairs=len(images),
        matched=(of_images * of_texts).sum(dim=-1).mean().item(),
        unmatched=_unlike(of_images, of_texts),
        images=_unlike(of_images, of_images),
        texts=_unlike(of_texts, of_texts),
        between_means=(mean_image - mean_text).norm().item(),
        matched_centred=(centred[0] * centred[1]).sum(dim=-1).mean().item(),
        unmatched_centred=_unlike(*centred),
    )


def _unlike(some: Float[Tensor, "n e"], others: Float[Tensor, "n e"]) -> float:
    """The mean cosine of the rows of one with the other rows of the other."""
    everything = (some.sum(dim=0) @ others.sum(dim=0)).item()
    same = (some * others).sum().item()
    return (everything - same) / (len(some) * (len(some) - 1))
