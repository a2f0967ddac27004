"""The processes of a run: one on a CPU or a GPU, or many under a launcher."""

from dataclasses import dataclass

import torch
from accelerate import Accelerator

from dalle.processes import Processes

DIVIDING = ("zero3", "fsdp2")


@dataclass(frozen=True, kw_only=True, slots=True)
class World(Processes):
    """All processes of a run, and how they train together."""

    accelerator: Accelerator
    strategy: str
    """ "single", "ddp", "fsdp2" or "zero" with its stage."""
    offload: bool
    """Whether the optimizer's state, and what is divided of the weights, is kept on the host."""
    precision: str
    """ "float32", "bfloat16" or "float16"."""

    @property
    def divides_weights(self) -> bool:
        """Whether each process has only its part of the weights."""
        return self.strategy in DIVIDING

    @property
    def plan_name(self) -> str:
        """The strategy by the names of `dalle launch-config`, or "single"."""
        return f"{self.strategy}-offload" if self.offload else self.strategy

    @property
    def device(self) -> torch.device:
        """Where this process computes."""
        return self.accelerator.device
