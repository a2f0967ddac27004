"""One update of the weights, by the strategy in force."""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from jaxtyping import Float
from torch import Tensor, nn

from dalle.training.compiled import compile_layers
from dalle.training.compression import check_compression
from dalle.training.recompute import recompute_layers
from dalle.training.settings import TrainConfig
from dalle.training.shards import Shards
from dalle.training.torch_update import TorchUpdater
from dalle.training.world import World
from dalle.training.zero_update import ZeroUpdater


class Updater(Protocol):
    """Gradients in, new weights out."""

    model: nn.Module
    """The wrapped model, through which the loss must go."""
    shards: Shards
    """How the processes divide the parameters."""

    def backward(self, loss: Float[Tensor, ""], *, last: bool) -> None:
        """Add a micro-batch's gradients; `last` says that it is the update's last one."""
        ...

    def apply(self, *, lr: float) -> Float[Tensor, ""]:
        """Clip, change the weights, forget the gradients; the norm before clipping.

        Gradients that are not finite change nothing; their norm is not finite either.
        """
        ...

    def take_state(self) -> Callable[[Path], None]:
        """Copy the optimizer's state to the host; called by every process.

        Returns:
            What writes this process's share into a folder; it may run beside further updates.
        """
        ...


def build_updater(
    world: World, module: nn.Module, config: TrainConfig, *, state: Path | None
) -> Updater:
    """The updater of the strategy in force, its state taken from the folder `state` if given.

    Raises:
        ConfigError: the strategy that was asked for is not the one that came about, there is
            nothing to compile or to recompute, or nothing that can be compressed.
        CheckpointError: the state is of another model.
    """
    check_compression(world, config)
    if config.compile:  # before what is compiled is computed again
        compile_layers(module, device=world.device, strategy=world.strategy)
    if config.recompute:  # before anything is hooked to the layers
        recompute_layers(module)
    if world.strategy.startswith("zero"):
        return ZeroUpdater(world, module, config, state=state)
    return TorchUpdater(world, module, config, state=state)
