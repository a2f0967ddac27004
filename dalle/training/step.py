"""One step of training: read, count, differentiate, update."""

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dalle.errors import NonFiniteError
from dalle.protocols import Batch, Task
from dalle.training import noise
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
    finite: "FiniteCheck" = field(init=False)

    def __post_init__(self) -> None:
        self.finite = FiniteCheck(self.world)

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
            NonFiniteError: the update before gave a loss or gradient that is not finite, or, with
                one process on the CPU, this one.
        """
        batches = [self._prepare(part, step, micro) for micro, part in enumerate(arrays)]
        names = sorted(batches[0].counts)
        local = [sum(batch.counts[name] for batch in batches) for name in names]
        asked, bad, *totals = self.world.sum([float(stop), float(self.finite.bad_step), *local])
        if bad:
            self.finite.stop(step)
        counts = dict(zip(names, totals, strict=True))
        metrics: dict[str, Tensor] = {}
        total: Tensor = torch.zeros((), device=self.world.device)
        for micro, batch in enumerate(batches):
            self._seed(noise.LOSS, step, micro)
            loss = self.task.loss(self.updater.model, batch, step=step, counts=counts)
            self.updater.backward(loss.total, last=micro == len(batches) - 1)
            total = total + loss.total.detach()
            for name, value in {"loss": loss.total.detach(), **loss.metrics}.items():
                metrics[name] = metrics[name] + value if name in metrics else value
        grad_norm = self.updater.apply(lr=lr)
        self.finite.watch(step, total, grad_norm)
        return StepResult(metrics=metrics, grad_norm=grad_norm, lr=lr, stop=asked > 0)

    def _prepare(self, arrays: Mapping[str, Tensor], step: int, micro: int) -> Batch:
        self._seed(noise.PREPARE, step, micro)
        with torch.no_grad():
            return self.task.prepare(to_device(arrays, self.world.device))

    def _seed(self, purpose: int, step: int, micro: int) -> None:
        part = self.world.rank * self.config.micro_batches + micro
        noise.seed_noise(self.config.seed, purpose, step=step, part=part)


class FiniteCheck:
    """Looks whether losses and gradients are finite, on GPUs one step late, so as not to wait."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._pending: deque[tuple[int, Tensor, Any]] = deque()
        self.bad_step = 0
        """The first update, counted from 1, that was not finite on this process; 0: none."""

    def watch(self, step: int, loss: Float[Tensor, ""], grad_norm: Float[Tensor, ""]) -> None:
        """Take the numbers of update `step` (updates before it), judge what is there."""
        both = torch.stack([loss, grad_norm.to(loss.device)]).detach()
        event = None
        if both.device.type == "cuda":
            both = both.to("cpu", non_blocking=True)
            event = torch.cuda.Event()
            event.record()
        self._pending.append((step + 1, both, event))
        self._judge(keep=0 if event is None else 1)
        if self.bad_step and self._world.size == 1:
            self.stop(step)

    def flush(self, step: int) -> None:
        """Judge everything up to here, together; called by every process before a save."""
        self._judge(keep=0)
        if self._world.sum([float(self.bad_step)])[0]:
            self.stop(step)

    def stop(self, step: int) -> None:
        """End the run: some process found something."""
        where = (
            f"at step {self.bad_step}" if self.bad_step else f"on another process by step {step}"
        )
        raise NonFiniteError(
            f"the loss or its gradient became infinite or not a number {where}; nothing was saved "
            "after that. Start again from the last checkpoint with a lower lr, with clip_norm, or "
            "with precision float32"
        )

    def _judge(self, *, keep: int) -> None:
        while len(self._pending) > keep:
            step, both, event = self._pending.popleft()
            if event is not None:
                event.synchronize()
            if not self.bad_step and not all(map(math.isfinite, both.tolist())):
                self.bad_step = step


def to_device(arrays: Mapping[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """Arrays of a loader on the device."""
    if device.type == "cpu":
        return dict(arrays)
    return {name: tensor.to(device) for name, tensor in arrays.items()}


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside DDP's or DeepSpeed's."""
    inner: nn.Module = getattr(model, "module", model)
    return inner
