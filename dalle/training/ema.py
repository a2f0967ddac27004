"""The exponential moving average of a model's weights."""

import copy
from pathlib import Path

import torch
from torch import Tensor, nn

from dalle.checkpoint.weights import load_weights
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
        # Parameters, not their data: DeepSpeed moves that.
        self._trained = list(model.parameters())
        self._buffers = list(model.buffers())
        self._averages = list(self.module.parameters())

    @torch.no_grad()
    def update(self, *, step: int) -> None:
        """Follow the model after its update number `step`, counted from 1."""
        if step % self.every:
            return
        times = step // self.every
        decay = min(self.decay, (1 + times) / (10 + times))
        current: list[Tensor] = [p.float() for p in self._trained]
        averages: list[Tensor] = [*self._averages]
        torch._foreach_lerp_(averages, current, 1.0 - decay)
        for average, buffer in zip(self.module.buffers(), self._buffers, strict=True):
            average.copy_(buffer)

    def load(self, path: Path) -> None:
        """Go on from saved averages."""
        load_weights(self.module, path, device=self._averages[0].device)
        self.module.requires_grad_(False)
        self._averages = list(self.module.parameters())
