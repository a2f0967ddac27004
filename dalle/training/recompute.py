"""Activation checkpointing: layers that keep their input only, and are computed again for the rest.

Source: arXiv 2102.12092, appendix E, for the transformer's residual blocks; arXiv 1604.06174.
"""

import functools

from torch import nn
from torch.utils.checkpoint import checkpoint

from dalle.errors import ConfigError
from dalle.training.fsdp import layers


def recompute_layers(module: nn.Module) -> None:
    """Let each layer of the module's lists forget what it computed until its gradient is due.

    The same numbers, dropout included, for about a third more computation. Parameters keep their
    names. In place.

    Raises:
        ConfigError: there are no such layers.
    """
    # A layer without parts keeps nothing but its input anyway.
    found = [layer for layer in layers(module) if next(layer.children(), None) is not None]
    if not found:
        raise ConfigError(
            f"recompute is on, but a {type(module).__name__} has no layers that could be computed "
            "again; leave it out, and raise micro_batches where memory is short"
        )
    for layer in found:
        layer.forward = functools.partial(checkpoint, layer.forward, use_reentrant=False)
