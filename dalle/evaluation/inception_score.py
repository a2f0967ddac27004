"""The Inception score: pictures that each look like one class, and together like many."""

from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor

from dalle.errors import InputError
from dalle.evaluation.estimates import Estimate

SPLITS = 10


def inception_score(logits: Float[Tensor, "n classes"], *, splits: int = SPLITS) -> Estimate:
    """exp of the mean KL(p(class | picture) to p(class)): 1 ... number of classes.

    It is computed in `splits` parts, in the order of the pictures, and is their mean. The error is
    the standard deviation over the parts, as it is published.

    Raises:
        InputError: there are fewer pictures than parts.

    Source: Salimans et al., arXiv 1606.03498, section 4.
    """
    if len(logits) < splits:
        raise InputError(
            f"an Inception score in {splits} parts needs at least as many pictures; {len(logits)} "
            "came"
        )
    scores = []
    # The published code cuts so, whatever the number of pictures.
    ends = [len(logits) * i // splits for i in range(splits + 1)]
    for start, end in pairwise(ends):
        log_p = torch.log_softmax(logits[start:end].double(), dim=1)
        log_mean = log_p.logsumexp(dim=0) - torch.tensor(float(end - start)).log()
        scores.append((log_p.exp() * (log_p - log_mean)).sum(dim=1).mean().exp())
    found = torch.stack(scores)
    return Estimate(found.mean().item(), found.std(correction=0).item())
