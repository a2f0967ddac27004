"""How the processes of a run divide a model's parameters, and all that is shaped like them."""

from collections.abc import Mapping
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor


class Shards(Protocol):
    """A parameter's part on each process; `join` is called by all of them, in the same order."""

    divided: bool
    """Whether a process has only a part of each."""

    def part(self, parameter: nn.Parameter) -> Tensor:
        """This process's part of a parameter, in the optimizer's own numbers."""
        ...

    def cut(self, parameter: nn.Parameter, whole: Tensor) -> Tensor:
        """This process's part of something that is shaped like the parameter."""
        ...

    def join(self, parameter: nn.Parameter, part: Tensor) -> Tensor:
        """The whole, from the parts of all processes."""
        ...


class Undivided:
    """Every process has every parameter."""

    divided = False

    def part(self, parameter: nn.Parameter) -> Tensor:
        """All of it."""
        return parameter.detach()

    def cut(self, parameter: nn.Parameter, whole: Tensor) -> Tensor:
        """All of it."""
        return whole

    def join(self, parameter: nn.Parameter, part: Tensor) -> Tensor:
        """It is whole already."""
        return part


class Fsdp2Shards:
    """torch's fully_shard: a part is a DTensor, cut along the first axis."""

    divided = True

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def part(self, parameter: nn.Parameter) -> Tensor:
        """The parameter itself: it is divided."""
        return parameter.detach()

    def cut(self, parameter: nn.Parameter, whole: Tensor) -> Tensor:
        """All processes have read the same, so that nothing is sent."""
        assert isinstance(parameter, DTensor)
        mesh, placements = parameter.device_mesh, parameter.placements
        part = distribute_tensor(whole.to(self._device), mesh, placements, src_data_rank=None)
        return part.to(parameter.device)  # which is the host's under CPU offload

    def join(self, parameter: nn.Parameter, part: Tensor) -> Tensor:
        """Gathered on the devices, where the processes meet."""
        on_device = part.to(self._device)
        assert isinstance(on_device, DTensor)
        whole: Tensor = on_device.full_tensor()
        return whole


class Zero3Shards:
    """DeepSpeed's stage 3: flattened, filled up to a multiple of the processes, cut evenly."""

    divided = True

    def __init__(self, *, rank: int, size: int, device: torch.device) -> None:
        self._rank, self._size, self._device = rank, size, device

    def part(self, parameter: nn.Parameter) -> Tensor:
        """What the optimizer changes, in float32, on the host under offload."""
        from deepspeed.utils import safe_get_local_fp32_param

        part: Tensor = safe_get_local_fp32_param(parameter)
        return part

    def cut(self, parameter: nn.Parameter, whole: Tensor) -> Tensor:
        """Filled up with zeros."""
        length = -(-whole.numel() // self._size)
        filled = nn.functional.pad(whole.flatten(), (0, length * self._size - whole.numel()))
        return filled.narrow(0, length * self._rank, length).to(self._device)

    def join(self, parameter: nn.Parameter, part: Tensor) -> Tensor:
        """Gathered on the devices, where the processes meet."""
        parts = [torch.empty_like(part, device=self._device) for _ in range(self._size)]
        dist.all_gather(parts, part.to(self._device))
        shape = shape_of(parameter)
        return torch.cat(parts)[: shape.numel()].view(shape)


def shape_of(parameter: nn.Parameter) -> torch.Size:
    """A parameter's shape, whoever has it: DeepSpeed's stage 3 leaves empty ones behind."""
    shape: Any = getattr(parameter, "ds_shape", parameter.shape)
    return torch.Size(shape)


def whole_weights(
    module: nn.Module, shards: Shards, *, keep: bool, parts: Mapping[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """A copy of a model's state dict on the host; called by every process.

    Args:
        module: the unwrapped model.
        shards: how it is divided.
        keep: whether this process wants it; others get an empty one.
        parts: to be joined in place of the parameters' own, by name.
    """
    if not shards.divided:
        return host_copy(module) if keep else {}
    parameters = dict(module.named_parameters())
    weights = {}
    for name, value in module.state_dict().items():
        if name in parameters:
            parameter = parameters[name]
            part = shards.part(parameter) if parts is None else parts[name]
            value = shards.join(parameter, part)
        if keep:
            weights[name] = on_host(value)
    return weights


def host_copy(module: nn.Module) -> dict[str, Tensor]:
    """The state dict of an undivided model, copied to the host."""
    return {name: on_host(value) for name, value in module.state_dict().items()}


def on_host(tensor: Tensor) -> Tensor:
    """A copy on the host, which what happens to the tensor later leaves alone."""
    return tensor.detach().to("cpu", copy=True)
