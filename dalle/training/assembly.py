"""A model with its averages and its updater, put together in the order that strategies need."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import torch
from torch import nn

from dalle.models.image_decoder import ImageDecoder
from dalle.training.attention_race import choose_attention
from dalle.training.ema import DividedEma, Ema
from dalle.training.settings import TrainConfig
from dalle.training.start import average
from dalle.training.state import TRAINING
from dalle.training.update import Updater, build_updater
from dalle.training.world import World

TYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}
NOTHING: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, kw_only=True, slots=True)
class Assembled:
    """What changes in training: all that a step reads and writes."""

    ema: Ema | DividedEma | None
    updater: Updater
    attention: dict[str, str]
    """The form of each sparse pattern, where there was a choice."""


def assemble(
    module: nn.Module,
    world: World,
    config: TrainConfig,
    *,
    folder: Path | None,
    attention: Mapping[str, str] = NOTHING,
) -> Assembled:
    """Bring a model to the device, and build what trains it.

    Args:
        module: on the host, with its weights (`start.begin`), and the same on all processes; in
            place.
        world: its processes.
        config: how it is trained.
        folder: the step that averages and the optimizer's state come from; None for a new run.
        attention: the forms that the run began with.

    Raises:
        CheckpointError: the step is of another model.
        ConfigError: see `build_updater`.
    """
    if not world.divides_weights:  # else each layer goes there as it is divided
        module.to(world.device)
    module.train()
    chosen = {}
    if isinstance(module, ImageDecoder):
        chosen = choose_attention(
            module,
            world.device,
            world,
            samples=config.batch_size // (world.size * config.micro_batches),
            dtype=TYPES.get(world.precision, torch.float32),
            known=attention,
        )
    # Copied before DeepSpeed lays hands on the module, or of what was divided already.
    ema = None if world.divides_weights else average(module, config, folder)
    state = None if folder is None else folder / TRAINING
    updater = build_updater(world, module, config, state=state)
    if world.divides_weights:
        ema = average(module, config, folder, shards=updater.shards)
    return Assembled(ema=ema, updater=updater, attention=chosen)
