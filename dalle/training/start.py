"""The weights that a run begins with, or goes on with."""

from pathlib import Path

from torch import nn

from dalle.checkpoint.load import WEIGHTS
from dalle.checkpoint.weights import load_weights
from dalle.errors import ConfigError
from dalle.training import lora
from dalle.training.ema import DividedEma, Ema
from dalle.training.settings import TrainConfig
from dalle.training.shards import Shards
from dalle.training.state import Run
from dalle.training.world import World


def begin(module: nn.Module, run: Run, world: World, folder: Path | None) -> None:
    """Give a fresh model its weights, in place: of the step in `folder`; without one, those that
    the run starts from, where there are any.

    Raises:
        ConfigError: LoRA cannot be had.
        CheckpointError: the weights are of another model.
    """
    rank = run.config.lora_rank
    if folder is None and run.start_from is not None:
        load_weights(module, run.start_from)
    if rank is not None:
        if run.start_from is None:
            raise ConfigError(
                f"lora_rank is {rank}, but the run begins with a new model, of which nothing is "
                "worth keeping; name one that it starts from, or leave it out"
            )
        lora.add_lora(module, rank=rank, strategy=world.strategy)
    if folder is not None:
        parts = WEIGHTS if rank is None else lora.PARTS
        load_weights(module, folder / parts["model"])
    module.float()  # published weights may be in 16 bits


def average(
    module: nn.Module, config: TrainConfig, folder: Path | None, *, shards: Shards | None = None
) -> Ema | DividedEma | None:
    """The averages that follow a model, from its weights on or as a step has them; None for none.

    Args:
        module: the unwrapped model.
        config: the run's.
        folder: of the step that it goes on from.
        shards: how the model is divided, where it is.
    """
    if config.ema_decay is None:
        return None
    ema: Ema | DividedEma
    if shards is None:
        ema = Ema(module, decay=config.ema_decay, every=config.ema_every)
    else:
        ema = DividedEma(module, shards, decay=config.ema_decay, every=config.ema_every)
    if folder is not None and config.lora_rank is None:
        ema.load(folder / WEIGHTS["ema"])
    elif folder is not None:
        assert isinstance(ema, Ema)
        lora.load_adapters(ema.module, folder / lora.PARTS["ema"])
    return ema
