"""Features of pictures and texts held against each other: the loss, over all processes, and ranks.

Source: arXiv 2103.00020, section 2.3 and figure 3.
"""

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from dalle.models.clip import ClipOutput
from dalle.training.across import gathered, my_rank, num_processes

Row = Float[Tensor, " b"]
ROWS_AT_ONCE = 1024


def contrast(output: ClipOutput) -> tuple[Row, Row]:
    """Each local pair against the pictures and texts of all processes.

    Args:
        output: b pictures and their b texts, behind which may stand k wrong texts of the first
            picture, k of the second, and so on.

    Returns:
        Of each pair the mean cross entropy of both directions, in nats, and the share (0, 1/2, 1)
        of the directions in which the right one scores highest.
    """
    images, scale = output.image_features, output.logit_scale
    num = len(images)
    texts, wrong = output.text_features[:num], output.text_features[num:]
    all_images, all_texts = images, texts
    if num_processes() > 1:  # both at once
        all_images, all_texts = gathered(torch.stack([images, texts], dim=1)).unbind(dim=1)
    own_wrong = rearrange(wrong, "(b k) e -> b k e", b=num)
    against_wrong = torch.einsum("b e, b k e -> b k", images, own_wrong)
    right = my_rank() * num + torch.arange(num, device=images.device)
    losses = torch.zeros_like(images[:, 0])
    hits = torch.zeros_like(losses)
    for similar in (torch.cat([images @ all_texts.mT, against_wrong], 1), texts @ all_images.mT):
        losses = losses + F.cross_entropy(scale * similar, right, reduction="none") / 2
        hits += (similar.argmax(dim=1) == right) / 2
    return losses, hits


def retrieval(asked: Float[Tensor, "n e"], found: Float[Tensor, "n e"], *, k: int) -> float:
    """How often the one found that belongs to what is asked is among the k most similar.

    Equally similar ones are in random order, of which this is the expectation.
    """
    total = 0.0
    for first in range(0, len(asked), ROWS_AT_ONCE):
        similar = asked[first : first + ROWS_AT_ONCE] @ found.mT
        own = similar.diagonal(first).unsqueeze(1)
        above = (similar > own).sum(dim=1)
        equal = (similar == own).sum(dim=1)
        total += ((k - above) / equal).clamp(0, 1).sum().item()
    return total / len(asked)


def mean_nll(
    asked: Float[Tensor, "n e"], found: Float[Tensor, "n e"], scale: Float[Tensor, ""]
) -> float:
    """Cross entropy in nats of finding, for each asked, what belongs to it among all found."""
    total = 0.0
    for first in range(0, len(asked), ROWS_AT_ONCE):
        logits = scale * asked[first : first + ROWS_AT_ONCE] @ found.mT
        right = first + torch.arange(len(logits), device=logits.device)
        total += F.cross_entropy(logits, right, reduction="sum").item()
    return total / len(asked)
