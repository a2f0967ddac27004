"""Updates by torch's own optimizer: on one process, under DDP, under FSDP2."""

import contextlib
from collections.abc import Callable
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from dalle.training.compression import PowerSgd
from dalle.training.fsdp import fully_sharded
from dalle.training.loss_scale import check_scale
from dalle.training.optim import build_optimizer, set_lr
from dalle.training.optimizer_state import (
    load_optimizer,
    load_scaler,
    state_of,
    take_state,
)
from dalle.training.settings import TrainConfig
from dalle.training.shards import Fsdp2Shards, Shards, Undivided
from dalle.training.world import World


class TorchUpdater:
    """See `Updater`; accelerate casts, and joins the processes under DDP."""

    shards: Shards

    def __init__(
        self, world: World, module: nn.Module, config: TrainConfig, *, state: Path | None
    ) -> None:
        self._world, self._module, self._clip = world, module, config.optim.clip_norm
        if world.strategy == "fsdp2":
            # For accelerate this is evaluation: it casts, and leaves the processes apart.
            accelerator = world.accelerator
            cast = accelerator.prepare_model(module, device_placement=False, evaluation_mode=True)
            self.model = fully_sharded(cast, world)
            self.shards = Fsdp2Shards(world.device)
        else:
            self.model = world.accelerator.prepare_model(module)
            self.shards = Undivided()
        self._parameters = [p for p in module.parameters() if p.requires_grad]
        self._optimizer = build_optimizer(module, config.optim)
        self._scaler = world.accelerator.scaler
        self._compression = None
        if config.powersgd_rank is not None and isinstance(self.model, DistributedDataParallel):
            self._compression = PowerSgd(self.model, world, config)
        if state is not None:
            load_optimizer(module, self._optimizer, state, self.shards)
            load_scaler(state, self._scaler)
            if self._compression is not None:
                self._compression.load(state)

    def backward(self, loss: Float[Tensor, ""], *, last: bool) -> None:
        """Gradients are averaged over the processes, so sums grow by their number.

        DDP waits for the last micro-batch with it. FSDP2 does it for each: whole gradients of all
        layers at once are what it is there to avoid.
        """
        accelerator, size = self._world.accelerator, self._world.size
        wait = self._world.strategy == "ddp" and not last
        with accelerator.no_sync(self.model) if wait else contextlib.nullcontext():
            scaled = loss * size if size > 1 else loss
            if self._scaler is not None:
                scaled = self._scaler.scale(scaled)
            scaled.backward()

    def apply(self, *, lr: float) -> Float[Tensor, ""]:
        """See `Updater`; with float16 overflows lower the loss scale, no norm tells of them."""
        if self._scaler is not None:
            self._scaler.unscale_(self._optimizer)
        gradients = [p.grad for p in self._parameters if p.grad is not None]
        norm = nn.utils.get_total_norm(gradients, foreach=True)
        if isinstance(norm, DTensor):
            norm = norm.full_tensor()
        if self._compression is not None and not bool(norm.isfinite()):
            self._compression.forget()
        if self._clip is not None:
            nn.utils.clip_grads_with_norm_(self._parameters, self._clip, norm, foreach=True)
        set_lr(self._optimizer, lr)
        if self._scaler is None:
            self._step_if_finite(norm)
        else:
            norm = self._step_scaled(norm)
        self._optimizer.zero_grad(set_to_none=True)
        return norm

    def _step_if_finite(self, norm: Float[Tensor, ""]) -> None:
        """Leave weights and moments alone when the norm is not finite, by torch's own door."""
        if self._optimizer.defaults["fused"]:
            # As GradScaler does it: judged on the device, which nobody has to wait for.
            self._optimizer.found_inf = (~norm.isfinite()).float()  # type: ignore[attr-defined]
            self._optimizer.step()
        elif bool(norm.isfinite()):
            self._optimizer.step()

    def _step_scaled(self, norm: Float[Tensor, ""]) -> Float[Tensor, ""]:
        self._scaler.step(self._optimizer)
        self._scaler.update()
        check_scale(self._scaler.get_scale())
        return torch.where(norm.isfinite(), norm, torch.zeros_like(norm))

    def take_state(self) -> Callable[[Path], None]:
        """See `Updater`."""
        states = state_of(self._module, self._optimizer, self.shards)
        write = take_state(self._world, states, self._scaler)
        compressed = None if self._compression is None else self._compression.take_state()

        def write_all(folder: Path) -> None:
            write(folder)
            if compressed is not None:
                compressed(folder)

        return write_all
