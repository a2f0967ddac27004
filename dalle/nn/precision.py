"""Parts of a model that stay in 32 bits in mixed precision too."""

import contextlib
from contextlib import AbstractContextManager

import torch


def full_precision(device: torch.device) -> AbstractContextManager[object]:
    """A block without autocast; on the meta device, which has none, an empty one."""
    if device.type == "meta":
        return contextlib.nullcontext()
    return torch.autocast(device.type, enabled=False)
