"""One update of the weights, plainly (one process, or DDP) or through DeepSpeed's engine."""

import contextlib
import json
from pathlib import Path
from typing import Any, Protocol

import torch
from jaxtyping import Float
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from dalle.checkpoint.manifest import write_json
from dalle.errors import CheckpointError, NonFiniteError
from dalle.training.optim import build_optimizer, set_lr
from dalle.training.settings import TrainConfig
from dalle.training.world import World

OPTIMIZER = "optimizer.safetensors"
SCALER = "scaler.json"
ZERO = "zero"
SMALLEST_SCALE = 2.0**-10


class Updater(Protocol):
    """Gradients in, new weights out."""

    model: nn.Module
    """The wrapped model, through which the loss must go."""

    def backward(self, loss: Float[Tensor, ""], *, last: bool) -> None:
        """Add a micro-batch's gradients; `last` says that it is the update's last one."""
        ...

    def apply(self, *, lr: float) -> Float[Tensor, ""]:
        """Clip, change the weights, forget the gradients; the norm before clipping."""
        ...

    def save(self, folder: Path) -> None:
        """Write the optimizer's state; called by every process."""
        ...


class PlainUpdater:
    """accelerate without a back end of its own: every process has the whole optimizer."""

    def __init__(
        self, world: World, module: nn.Module, config: TrainConfig, *, state: Path | None
    ) -> None:
        self._world, self._clip = world, config.optim.clip_norm
        self._module = module
        optimizer = build_optimizer(module, config.optim)
        if state is not None:
            load_optimizer(module, optimizer, state / OPTIMIZER)
        self.model = world.accelerator.prepare_model(module)
        self._optimizer = optimizer
        self._parameters = [p for p in module.parameters() if p.requires_grad]
        self._scaler = world.accelerator.scaler
        if self._scaler is not None and state is not None and (state / SCALER).is_file():
            self._scaler.load_state_dict(json.loads((state / SCALER).read_text(encoding="utf-8")))

    def backward(self, loss: Float[Tensor, ""], *, last: bool) -> None:
        """Gradients of all processes are averaged at the last micro-batch, so sums grow by size."""
        accelerator, size = self._world.accelerator, self._world.size
        with contextlib.nullcontext() if last else accelerator.no_sync(self.model):
            scaled = loss * size if size > 1 else loss
            if self._scaler is not None:
                scaled = self._scaler.scale(scaled)
            scaled.backward()

    def apply(self, *, lr: float) -> Float[Tensor, ""]:
        """See `Updater`; with float16 an overflow skips the update and lowers the loss scale."""
        if self._scaler is not None:
            self._scaler.unscale_(self._optimizer)
        gradients = [p.grad for p in self._parameters if p.grad is not None]
        norm = nn.utils.get_total_norm(gradients, foreach=True)
        if self._clip is not None:
            nn.utils.clip_grads_with_norm_(self._parameters, self._clip, norm, foreach=True)
        set_lr(self._optimizer, lr)
        if self._scaler is None:
            self._optimizer.step()
        else:
            norm = self._step_scaled(norm)
        self._optimizer.zero_grad(set_to_none=True)
        return norm

    def _step_scaled(self, norm: Float[Tensor, ""]) -> Float[Tensor, ""]:
        self._scaler.step(self._optimizer)
        self._scaler.update()
        if self._scaler.get_scale() < SMALLEST_SCALE:
            raise NonFiniteError("float16 overflows at every loss scale; use bfloat16")
        return torch.where(norm.isfinite(), norm, torch.zeros_like(norm))

    def save(self, folder: Path) -> None:
        """See `Updater`; the main process has everything."""
        if not self._world.is_main:
            return
        save_file(optimizer_tensors(self._module, self._optimizer), folder / OPTIMIZER)
        if self._scaler is not None:
            write_json(folder / SCALER, self._scaler.state_dict())


class DeepSpeedUpdater:
    """DeepSpeed's engine, which shares the optimizer's state out over the processes (ZeRO)."""

    def __init__(
        self, world: World, module: nn.Module, config: TrainConfig, *, state: Path | None
    ) -> None:
        self._world = world
        settings = world.accelerator.state.deepspeed_plugin.deepspeed_config
        settings["train_batch_size"] = config.batch_size
        settings["gradient_accumulation_steps"] = config.micro_batches
        settings["train_micro_batch_size_per_gpu"] = config.batch_size // (
            world.size * config.micro_batches
        )
        settings["gradient_clipping"] = config.optim.clip_norm or 0.0
        if world.precision != "float32":
            # Weights stay float32 and the layers compute in the shorter type, as under DDP.
            settings["torch_autocast"] = {"enabled": True, "dtype": world.precision}
        world.accelerator.gradient_accumulation_steps = config.micro_batches
        optimizer = build_optimizer(module, config.optim)
        self.model, _ = world.accelerator.prepare(module, optimizer)
        self._engine: Any = self.model
        if state is not None:
            self._load(state)

    def backward(self, loss: Float[Tensor, ""], *, last: bool) -> None:
        """The engine averages over processes; that it also would over micro-batches is off."""
        self._engine.set_gradient_accumulation_boundary(last)
        self._engine.backward(loss * self._world.size, scale_wrt_gas=False)

    def apply(self, *, lr: float) -> Float[Tensor, ""]:
        """See `Updater`; a gradient that is not finite leaves the weights alone and is returned."""
        set_lr(self._engine.optimizer, lr)
        self._engine.step()
        if getattr(self._engine.optimizer, "overflow", False):
            return torch.tensor(torch.nan)
        return torch.as_tensor(self._engine.get_global_grad_norm(), dtype=torch.float32)

    def save(self, folder: Path) -> None:
        """See `Updater`; every process writes its part, in DeepSpeed's own format."""
        self._engine.save_checkpoint(str(folder), tag=ZERO, save_latest=False)

    def _load(self, folder: Path) -> None:
        # These files are pickles. They are read only from a run's own folder, after their hashes
        # were found to be the manifest's; a model folder from elsewhere is never trained on.
        loaded, _ = self._engine.load_checkpoint(str(folder), tag=ZERO)
        if loaded is None:
            raise CheckpointError(f"{folder / ZERO} is no state that DeepSpeed can read")


def build_updater(
    world: World, module: nn.Module, config: TrainConfig, *, state: Path | None
) -> Updater:
    """The updater of the strategy in force, its state taken from the folder `state` if given."""
    if world.strategy.startswith("zero"):
        return DeepSpeedUpdater(world, module, config, state=state)
    return PlainUpdater(world, module, config, state=state)


def optimizer_tensors(module: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's state, each tensor called <what>/<parameter>."""
    tensors = {}
    for name, parameter in module.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            tensors[f"{key}/{name}"] = torch.as_tensor(value).detach().cpu().contiguous()
    return tensors


def load_optimizer(module: nn.Module, optimizer: torch.optim.Optimizer, path: Path) -> None:
    """Put back what `optimizer_tensors` gave.

    Raises:
        CheckpointError: it is of another model.
    """
    parameters = dict(module.named_parameters())
    index_of = {
        parameter: index
        for index, parameter in enumerate(p for g in optimizer.param_groups for p in g["params"])
    }
    state: dict[int, dict[str, Tensor]] = {}
    for full_name, tensor in load_file(path).items():
        key, _, name = full_name.partition("/")
        parameter = parameters.get(name)
        fits = parameter is not None and tensor.shape in (parameter.shape, torch.Size([]))
        if parameter is None or parameter not in index_of or not fits:
            raise CheckpointError(f"{path}: {full_name!r} is of another model")
        state.setdefault(index_of[parameter], {})[key] = tensor
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
