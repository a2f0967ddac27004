"""The exponential moving average of a model's weights."""

import copy

import torch
from torch import nn

from dalle.errors import ConfigError


class Ema:
    """A copy of a model whose weights follow the trained one's, in float32.

    Every `every` updates the copy becomes `decay * copy + (1 - decay) * model`. During the first
    applications the decay is (1 + n) / (10 + n), where that is smaller, so that the average
    forgets the initial weights; it is a function of the step, and nothing else is stored.

    Source: arXiv 2102.12092, appendices A.2 (0.999, every update) and B.2 (0.99, every 25).
    """

    def __init__(self, model: nn.Module, *, decay: float, every: int = 1) -> None:
        """Args:
        model: the unwrapped model that is trained; the copy starts from its weights.
        decay: 0 ... 1, per application.
        every: updates between two applications.
        """
        if not 0 <= decay < 1:
            raise ConfigError(f"ema_decay is {decay}; expected a number of 0 up to below 1")
        if every < 1:
            raise ConfigError(f"ema_every is {every}; expected 1 or more")
        self.decay, self.every = decay, every
        self.module = copy.deepcopy(model).float().eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, model: nn.Module, *, step: int) -> None:
        """Follow `model` after its update number `step`, counted from 1."""
        if step % self.every:
            return
        times = step // self.every
        decay = min(self.decay, (1 + times) / (10 + times))
        averages: list[torch.Tensor] = list(self.module.parameters())
        current = [p.detach() for p in model.parameters()]
        if any(p.dtype != torch.float32 for p in current):
            current = [p.float() for p in current]
        torch._foreach_lerp_(averages, current, 1.0 - decay)
        for average, buffer in zip(self.module.buffers(), model.buffers(), strict=True):
            average.copy_(buffer)
