"""Finding the picture of a caption, and the caption of a picture, by a CLIP."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from dalle.evaluation.captioned_set import shuffle_within
from dalle.evaluation.estimates import Estimate, share
from dalle.training.contrast import retrieval as found_share

TOP = (1, 5)


@dataclass(frozen=True, kw_only=True, slots=True)
class Retrieval:
    """Shares of captions and pictures found among the `k` most similar of their group."""

    k: int
    text_to_image: Estimate
    image_to_text: Estimate
    shuffled: Estimate
    """Text to image, with each caption given to another picture of the group: chance, unless
    something is wrong."""
    chance: float
    """The mean over all of k / the size of the group, at most 1."""


def retrieval(
    texts: Float[Tensor, "n e"],
    images: Float[Tensor, "n e"],
    groups: tuple[str, ...],
    *,
    k: int,
    seed: int = 0,
) -> Retrieval:
    """Of n captions and the picture of each, within their groups.

    What is equally similar is in random order: equal captions share their places.

    Args:
        texts, images: unit vectors.
        seed: of the shuffling.
    """
    other = images[shuffle_within(groups, seed=seed)]
    rows: dict[str, list[int]] = {}
    for index, group in enumerate(groups):
        rows.setdefault(group, []).append(index)
    sums = dict.fromkeys(("text_to_image", "image_to_text", "shuffled", "chance"), 0.0)
    for members in rows.values():
        t, i, o = texts[members], images[members], other[members]
        size = len(members)
        sums["text_to_image"] += size * found_share(t, i, k=k)
        sums["image_to_text"] += size * found_share(i, t, k=k)
        sums["shuffled"] += size * found_share(t, o, k=k)
        sums["chance"] += size * min(k / size, 1.0)
    rates = {name: value / len(groups) for name, value in sums.items()}
    chance = rates.pop("chance")
    return Retrieval(
        k=k, chance=chance, **{name: share(rate, len(groups)) for name, rate in rates.items()}
    )


def cosines(texts: Float[Tensor, "n e"], images: Float[Tensor, "n e"]) -> Float[Tensor, " n"]:
    """Of each caption and its picture."""
    return (texts.double() * images.double()).sum(dim=1)


def clip_score(cosine: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """2.5 times the cosine, at least 0.

    Source: Hessel et al., CLIPScore, arXiv 2104.08718, section 3.
    """
    return 2.5 * torch.clamp(cosine, min=0)
