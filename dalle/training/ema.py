"""The exponential moving average of a model's weights."""

import copy
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from dalle.checkpoint.weights import load_weights
from dalle.errors import ConfigError
from dalle.training.shards import Shards, host_copy, whole_weights


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
        _check(decay, every)
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
        current: list[Tensor] = [p.float() for p in self._trained]
        averages: list[Tensor] = [*self._averages]
        torch._foreach_lerp_(averages, current, 1.0 - decay_at(self, step))
        for average, buffer in zip(self.module.buffers(), self._buffers, strict=True):
            average.copy_(buffer)

    def weights(self, *, keep: bool) -> dict[str, Tensor]:
        """A copy of the averaged state dict on the host; called by every process.

        Args:
            keep: whether this process wants it; others get an empty one.
        """
        return host_copy(self.module) if keep else {}

    def load(self, path: Path) -> None:
        """Go on from saved averages."""
        load_weights(self.module, path, device=self._averages[0].device)
        self.module.requires_grad_(False)
        self._averages = list(self.module.parameters())


class DividedEma:
    """The same average of a model whose parameters are divided: each process keeps its part's."""

    def __init__(self, model: nn.Module, shards: Shards, *, decay: float, every: int = 1) -> None:
        """Args:
        model: the unwrapped model, divided already; the averages start from its weights.
        shards: how it is divided.
        decay: 0 ... 1, per application.
        every: updates between two applications.
        """
        _check(decay, every)
        self.decay, self.every = decay, every
        self._model, self._shards = model, shards
        self._averages = {
            name: shards.part(p).float().clone() for name, p in model.named_parameters()
        }

    @torch.no_grad()
    def update(self, *, step: int) -> None:
        """Follow the model after its update number `step`, counted from 1."""
        if step % self.every:
            return
        parts = [_local(self._shards.part(p)).float() for p in self._model.parameters()]
        averages = [_local(average) for average in self._averages.values()]
        torch._foreach_lerp_(averages, parts, 1.0 - decay_at(self, step))

    def weights(self, *, keep: bool) -> dict[str, Tensor]:
        """The averaged state dict, on the host; called by every process.

        Args:
            keep: whether this process wants it; others get an empty one.
        """
        return whole_weights(self._model, self._shards, keep=keep, parts=self._averages)

    def load(self, path: Path) -> None:
        """Go on from saved averages, whatever divided them then."""
        parameters = dict(self._model.named_parameters())
        with safe_open(path, framework="pt") as file:
            for name, average in self._averages.items():
                average.copy_(self._shards.cut(parameters[name], file.get_tensor(name)))


def decay_at(ema: Ema | DividedEma, step: int) -> float:
    """The decay of the application after update `step`."""
    times = step // ema.every
    return min(ema.decay, (1 + times) / (10 + times))


def _check(decay: float, every: int) -> None:
    if not 0 <= decay < 1:
        raise ConfigError(f"ema_decay is {decay}; expected a number of 0 up to below 1")
    if every < 1:
        raise ConfigError(f"ema_every is {every}; expected 1 or more")


def _local(part: Tensor) -> Tensor:
    return part.to_local() if isinstance(part, DTensor) else part
