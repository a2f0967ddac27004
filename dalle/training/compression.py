"""Gradients that travel as products of thin matrices: PowerSGD, by torch's hook for DDP.

Source: arXiv 1905.13727; arXiv 2102.12092, appendix E, whose variant is another one: see
docs/distributed.md.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.algorithms.ddp_comm_hooks.powerSGD_hook import PowerSGDState, powerSGD_hook
from torch.nn.parallel import DistributedDataParallel

from dalle.checkpoint.weights import open_tensors
from dalle.errors import CheckpointError, ConfigError
from dalle.processes import TIMEOUT
from dalle.training.settings import TrainConfig
from dalle.training.shards import on_host
from dalle.training.world import World

FILES = "compression-*.safetensors"
UPDATES = "updates"
FIRST_UPDATES = 2
"""So many updates torch wants whole ones before."""


class PowerSgd:
    """What the processes send of each matrix is its product with a few vectors, and back.

    What that leaves out of a process's gradient is added to its next one, so that it must be kept
    for an exact resume: each process has its own.
    """

    def __init__(self, model: DistributedDataParallel, world: World, config: TrainConfig) -> None:
        """Args:
        model: under DDP; it gets the hook.
        world: its processes.
        config: has the rank. Until the step size has risen gradients travel whole.
        """
        self._world, self._seed = world, config.seed
        self.state = PowerSGDState(
            # Of its own: DDP itself sends in between, at moments that differ by process.
            process_group=dist.new_group(timeout=TIMEOUT),
            matrix_approximation_rank=config.powersgd_rank,
            start_powerSGD_iter=max(FIRST_UPDATES, getattr(config.optim.schedule, "warmup", 0)),
            random_seed=config.seed,
        )
        model.register_comm_hook(self.state, lambda state, bucket: self._send(bucket))

    def forget(self) -> None:
        """Begin anew: after a gradient that is not finite, so are what is left of it and the rest.

        Called by all processes or none.
        """
        state = self.state
        for kept in (state.error_dict, state.p_memory_dict, state.q_memory_dict):
            kept.clear()
        # A function of the step, so that a resumed run draws the same.
        state.rng = np.random.RandomState([self._seed, state.iter])

    def take_state(self) -> Callable[[Path], None]:
        """Copy what this process keeps; what is returned writes it into a folder."""
        kept = {UPDATES: torch.tensor(self.state.iter)}
        for name, tensors in self._kept().items():
            kept |= {f"{name}/{bucket}": on_host(tensor) for bucket, tensor in tensors.items()}
        file = _file_name(self._world.rank, self._world.size)
        return lambda folder: save_file(kept, folder / file)

    def load(self, folder: Path) -> None:
        """Go on; among another number of processes each takes the mean of what all had left.

        Raises:
            CheckpointError: the files are not what `take_state` wrote.
        """
        paths = sorted(folder.glob(FILES))
        if not paths:  # the run was not compressed so far
            return
        mine = folder / _file_name(self._world.rank, self._world.size)
        read = [_read(path) for path in ([mine] if mine in paths else paths)]
        try:
            self._put_back(read)
        except (KeyError, ValueError, RuntimeError) as error:
            raise CheckpointError(
                f"{folder / FILES} are not the state of compressed gradients ({error!r}); take "
                "another checkpoint"
            ) from None

    def _put_back(self, read: list[dict[str, Tensor]]) -> None:
        kept = self._kept()
        for full_name, first in read[0].items():
            name, _, bucket = full_name.partition("/")
            if name == UPDATES:
                self.state.iter = int(first)
                continue
            whole = torch.stack([tensors[full_name] for tensors in read]).mean(0)
            value = first if len(read) == 1 or name != "error" else whole
            kept[name][int(bucket)] = value.to(self._world.device)

    def _kept(self) -> dict[str, dict[int, Tensor]]:
        state = self.state
        return {"error": state.error_dict, "p": state.p_memory_dict, "q": state.q_memory_dict}

    def _send(self, bucket: dist.GradBucket) -> Any:
        """Torch's future of the gradients; DDP knows it by another type than its annotations."""
        left = self.state.error_dict.get(bucket.index())
        if left is not None and left.shape != bucket.buffer().shape:
            self.forget()  # another version of torch divides the gradients otherwise
        sent = powerSGD_hook(self.state, bucket)
        if bucket.buffer().device.type == "cpu":
            sent.wait()  # gloo answers in any order, and what is sent next would meet another's
        return sent


def check_compression(world: World, config: TrainConfig) -> None:
    """Refuse what cannot be compressed.

    One process sends nothing, and is none the worse for a rank.

    Raises:
        ConfigError: another strategy than DDP, or float16.
    """
    if config.powersgd_rank is None or world.size == 1:
        return
    if world.strategy != "ddp":
        raise ConfigError(
            f"powersgd_rank is {config.powersgd_rank}, but {world.strategy} is in force; only "
            "DDP's gradients can be compressed: launch with ddp, or leave powersgd_rank out"
        )
    if world.precision == "float16":
        raise ConfigError(
            "powersgd_rank goes with bfloat16 or float32: what is left over from a step cannot be "
            "added to a gradient of another loss scale. Set precision, or leave powersgd_rank out"
        )


def _read(path: Path) -> dict[str, Tensor]:
    with open_tensors(path) as file:
        return {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118


def _file_name(rank: int, size: int) -> str:
    return FILES.replace("*", f"{rank + 1:05}-of-{size:05}")
