"""Updates by DeepSpeed's engine, which shares out the optimizer's state over the processes: ZeRO.

1 divides the moments, 2 the gradients too, 3 the weights too.
"""

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dalle.errors import ConfigError
from dalle.training.loss_scale import LossScale, check_scale
from dalle.training.optim import build_optimizer, set_lr
from dalle.training.optimizer_state import (
    STEP,
    load_scaler,
    read_state,
    take_state,
)
from dalle.training.settings import TrainConfig
from dalle.training.shards import Shards, Undivided, Zero3Shards
from dalle.training.world import World

MOMENTS = ("exp_avg", "exp_avg_sq")
BUCKET = 200_000_000
"""Numbers of gradients that travel together, at most. DeepSpeed's own choice, 500,000,000 whatever
the model's size, is a buffer of 2 GB; fewer cost more latency on many machines."""


class ZeroUpdater:
    """See `Updater`. DeepSpeed's own checkpoints, which are pickles, are not used."""

    shards: Shards

    def __init__(
        self, world: World, module: nn.Module, config: TrainConfig, *, state: Path | None
    ) -> None:
        self._world, self._module = world, module
        _set_engine(world, config, parameters=sum(p.numel() for p in module.parameters()))
        outputs = _Outputs()
        if world.divides_weights:  # before DeepSpeed's own hook, which looks for tensors there
            module.register_forward_hook(outputs.take_apart)
        self.model, _ = world.accelerator.prepare(module, build_optimizer(module, config.optim))
        self.model.register_forward_hook(outputs.put_together)
        self._engine: Any = self.model
        _check_engine(self._engine, world)
        self.shards = Undivided()
        if world.strategy == "zero3":
            self.shards = Zero3Shards(rank=world.rank, size=world.size, device=world.device)
        self._states = _begin_states(self._engine.optimizer)
        self._scaler = LossScale() if world.precision == "float16" else None
        if state is not None:
            self._load(state)
            load_scaler(state, self._scaler)
        if self._scaler is not None:
            self._engine.optimizer.torch_autocast_gradscaler = None
            self._engine.optimizer.override_loss_scale(self._scaler.scale)

    def backward(self, loss: Float[Tensor, ""], *, last: bool) -> None:
        """The engine averages over processes; that it also would over micro-batches is off."""
        self._engine.set_gradient_accumulation_boundary(last)
        self._engine.backward(loss * self._world.size, scale_wrt_gas=False)

    def apply(self, *, lr: float) -> Float[Tensor, ""]:
        """See `Updater`; a gradient that is not finite leaves the weights alone and is returned.

        With float16 overflows lower the loss scale, no norm tells of them.
        """
        optimizer = self._engine.optimizer
        set_lr(optimizer, lr)
        self._engine.step()
        overflow = bool(getattr(optimizer, "overflow", False))
        if self._scaler is not None:
            self._scaler.update(finite=not overflow)
            check_scale(self._scaler.scale)
            optimizer.override_loss_scale(self._scaler.scale)
        if overflow:
            return torch.tensor(torch.nan if self._scaler is None else 0.0)
        return torch.as_tensor(self._engine.get_global_grad_norm(), dtype=torch.float32)

    def take_state(self) -> Callable[[Path], None]:
        """See `Updater`."""
        return take_state(self._world, self._wholes(), self._scaler)

    def _wholes(self) -> Iterator[tuple[str, Callable[[], Tensor]]]:
        from deepspeed.utils import safe_get_full_optimizer_state

        step = torch.tensor(float(self._states[0][STEP]))
        for name, parameter in self._module.named_parameters():
            yield f"{STEP}/{name}", step.clone
            for key in MOMENTS:

                def gather(parameter: nn.Parameter = parameter, key: str = key) -> Tensor:
                    whole: Tensor = safe_get_full_optimizer_state(parameter, key)
                    return whole

                yield f"{key}/{name}", gather

    def _load(self, folder: Path) -> None:
        from deepspeed.utils import safe_set_full_optimizer_state, safe_set_local_optimizer_state

        parameters = dict(self._module.named_parameters())
        for saved in read_state(folder, self._module):
            parameter = parameters[saved.name]
            if saved.key == STEP:
                for state in self._states:
                    state[STEP].fill_(saved.tensor)
            elif self.shards.divided:
                # Its counterpart for whole tensors fails where a length is no multiple of the size.
                part = self.shards.cut(parameter, saved.tensor)
                safe_set_local_optimizer_state(parameter, part, saved.key)
            else:
                whole = saved.tensor.to(self._world.device)
                safe_set_full_optimizer_state(parameter, whole, saved.key)


class _Outputs:
    """A model's dataclass on its way through DeepSpeed's stage 3, which looks into dicts only."""

    def __init__(self) -> None:
        self._kind: type | None = None

    def take_apart(self, module: nn.Module, inputs: Any, output: Any) -> Any:
        """To a dict, inside the engine."""
        self._kind = type(output) if dataclasses.is_dataclass(output) else None
        if self._kind is None:
            return output
        return {field.name: getattr(output, field.name) for field in dataclasses.fields(output)}

    def put_together(self, module: nn.Module, inputs: Any, output: Any) -> Any:
        """Back again, outside of it."""
        return output if self._kind is None else self._kind(**output)


def _set_engine(world: World, config: TrainConfig, *, parameters: int) -> None:
    """Tell DeepSpeed what the run's settings say, so that they mean the same as elsewhere."""
    settings = world.accelerator.state.deepspeed_plugin.deepspeed_config
    settings["train_batch_size"] = config.batch_size
    settings["gradient_accumulation_steps"] = config.micro_batches
    settings["train_micro_batch_size_per_gpu"] = config.batch_size // (
        world.size * config.micro_batches
    )
    settings["gradient_clipping"] = config.optim.clip_norm or 0.0
    # torch's AdamW on the host too: DeepSpeed's has to be compiled first, and rounds otherwise.
    settings["zero_force_ds_cpu_optimizer"] = False
    settings["zero_optimization"].setdefault("reduce_bucket_size", min(parameters, BUCKET))
    if world.precision != "float32":
        # Weights stay float32 and the layers compute in the shorter type, as under DDP. Gradients
        # travel in float32, those of no layers excepted.
        settings["torch_autocast"] = {
            "enabled": True,
            "dtype": world.precision,
            "lower_precision_safe_modules": [],
        }
    world.accelerator.gradient_accumulation_steps = config.micro_batches


def _check_engine(engine: Any, world: World) -> None:
    """Refuse to train when the engine does not do what was asked for."""
    stage = getattr(engine, "zero_optimization_stage", lambda: 0)()
    size, offload = getattr(engine, "dp_world_size", 1), bool(engine.zero_cpu_offload())
    if (f"zero{stage}", size, offload) != (world.strategy, world.size, world.offload):
        raise ConfigError(
            f"{world.strategy} over {world.size} processes {_where(world.offload)} was asked for, "
            f"but ZeRO {stage} over {size} {_where(offload)} is in force; take one of the files of "
            "`dalle launch-config` as it is"
        )


def _where(offload: bool) -> str:
    return "with CPU offload" if offload else "without offload"


def _begin_states(optimizer: Any) -> list[dict[str, Any]]:
    """Give torch's optimizer inside DeepSpeed's its first state, as its own first step would.

    DeepSpeed connects parameters to moments during the first step, before those of the second
    group exist, which then cannot be asked for.
    """
    inner = optimizer.optimizer
    if hasattr(optimizer, "fp32_partitioned_groups_flat"):
        flats = optimizer.fp32_partitioned_groups_flat
    else:
        flats = optimizer.single_partition_of_fp32_groups
    for flat in flats:
        step = torch.zeros((), device=flat.device if inner.defaults["fused"] else None)
        moments = {key: torch.zeros_like(flat) for key in MOMENTS}
        inner.state[flat] = {STEP: step, **moments}
    if hasattr(optimizer, "_lazy_init_hp_params_optimizer_state"):
        optimizer._lazy_init_hp_params_optimizer_state()
    return [inner.state[flat] for flat in flats]
