"""Ids of the text: those of this project's stream, and those of DALLE-pytorch.

In our stream slot 0 holds the start V, and slot j without a token its own pad V + j. There the
start is 0, a text has no slot for it, and 0 within the text stands for no token: its place p is
filled up with V + p, which comes to slot p + 1.
"""

import torch
from jaxtyping import Int
from torch import Tensor


def their_ids(text: Int[Tensor, "b t"], *, vocab: int, first: int = 0) -> Int[Tensor, "b t"]:
    """Ids in the slots `first` ... of our stream, as DALLE-pytorch embeds them."""
    pads = vocab - 1 + first + torch.arange(text.shape[1], device=text.device)
    theirs = torch.where((text == 0) | (text > vocab), pads, text)
    return theirs.masked_fill(text == vocab, 0)
