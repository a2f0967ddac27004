"""What a launch begins with: its prompts, and the cells of an image prompt that come first."""

from typing import Any

import torch
from jaxtyping import Bool, Int, Shaped
from torch import Tensor

from dalle.protocols import Decoder


def prefill_launch(
    model: Decoder,
    cache: Any,
    texts: Shaped[Tensor, "groups *slots"],
    *,
    nulls: int,
    given: Int[Tensor, " image"],
    keep: Bool[Tensor, " image"],
) -> int:
    """Fill the cache of a launch whose groups show `texts`.

    Args:
        cache: one of the model's own, whatever kind that is.
        nulls: of how many prompts without a caption the pictures are guided away.
        given: codes of an image prompt.
        keep: True for the slots that are taken from it.

    Returns:
        The first slot to sample: those before it are kept as given.
    """
    known = int(keep.long().cumprod(0).sum())
    if nulls:
        texts = torch.cat([texts, model.no_caption(texts[:nulls])])
    model.prefill(texts, given[:known].to(texts.device).expand(len(texts), -1), cache)
    return known
