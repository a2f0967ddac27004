"""One step of training: read, count, differentiate, update."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dalle.protocols import Batch, Task
from dalle.training import noise
from dalle.training.finite import FiniteCheck, poisoned
from dalle.training.settings import TrainConfig
from dalle.training.update import Updater
from dalle.training.world import World


@dataclass(frozen=True, kw_only=True, slots=True)
class StepResult:
    """What one update gave; numbers stay on the device until somebody asks."""

    metrics: Mapping[str, Float[Tensor, ""]]
    """Sums over this process's micro-batches; over all processes they are the batch's."""
    grad_norm: Float[Tensor, ""]
    """Of the whole model, before clipping; the same on all processes."""
    lr: float
    stop: bool
    """Whether any process was asked to stop."""


@dataclass(kw_only=True, slots=True)
class Stepper:
    """Does the steps of a run."""

    task: Task
    config: TrainConfig
    world: World
    updater: Updater
    finite: FiniteCheck

    def run(
        self, arrays: Sequence[Mapping[str, Tensor]], *, step: int, lr: float, stop: bool
    ) -> StepResult:
        """One update.

        Args:
            arrays: this process's micro-batches, on the host.
            step: updates done before.
            lr: the step size.
            stop: whether this process was asked to stop.

        Raises:
            NonFiniteError: too many updates had a loss or gradient that is not finite.
        """
        batches = [self._prepare(part, step, micro) for micro, part in enumerate(arrays)]
        names = sorted(batches[0].counts)
        local = [sum(batch.counts[name] for batch in batches) for name in names]
        asked, *totals = self.world.sum([float(stop), *local])
        counts = dict(zip(names, totals, strict=True))
        metrics: dict[str, Tensor] = {}
        for micro, batch in enumerate(batches):
            self._seed(noise.LOSS, step, micro)
            loss = self.task.loss(self.updater.model, batch, step=step, counts=counts)
            self.updater.backward(poisoned(loss.total), last=micro == len(batches) - 1)
            for name, value in {"loss": loss.total.detach(), **loss.metrics}.items():
                metrics[name] = metrics[name] + value if name in metrics else value
        grad_norm = self.updater.apply(lr=lr)
        self.finite.watch(step + 1, grad_norm)
        return StepResult(metrics=metrics, grad_norm=grad_norm, lr=lr, stop=asked > 0)

    def _prepare(self, arrays: Mapping[str, Tensor], step: int, micro: int) -> Batch:
        self._seed(noise.PREPARE, step, micro)
        with torch.no_grad():
            return self.task.prepare(to_device(arrays, self.world.device))

    def _seed(self, purpose: int, step: int, micro: int) -> None:
        part = self.world.rank * self.config.micro_batches + micro
        noise.seed_noise(self.config.seed, purpose, step=step, part=part)


def to_device(arrays: Mapping[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """Arrays of a loader on the device; the copies of pinned ones are not waited for."""
    if device.type == "cpu":
        return dict(arrays)
    return {name: tensor.to(device, non_blocking=True) for name, tensor in arrays.items()}


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside DDP's or DeepSpeed's."""
    inner: nn.Module = getattr(model, "module", model)
    return inner
