"""FSDP2: torch's fully_shard, which divides weights, gradients and moments over the processes.

accelerate's FSDP2 is not used: on CPUs it joins nothing and says nothing. Its launcher's settings
are read all the same.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, OffloadPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.utils import _pytree as pytree

from dalle.errors import ConfigError
from dalle.training.world import World


def fully_sharded(module: nn.Module, world: World) -> nn.Module:
    """Divide each layer of the module's lists by itself, then what is left; in place.

    Args:
        module: whole, and the same on all processes; on the host, from where each layer goes to
            the device and is cut before the next.
        world: its processes.
    """
    # Before fully_shard's own hook, which is to find the tensors in the output.
    module.register_forward_hook(_make_output_known)
    mesh = init_device_mesh(world.device.type, (world.size,))
    policy = OffloadPolicy()
    if world.offload:
        policy = CPUOffloadPolicy(pin_memory=world.device.type == "cuda")
    for layer in layers(module):
        fully_shard(layer, mesh=mesh, offload_policy=policy)
    fully_shard(module, mesh=mesh, offload_policy=policy)
    check_sharded(module, world)
    return module


def layers(module: nn.Module) -> Iterator[nn.Module]:
    """The members of the outermost lists of modules, as a transformer's blocks are."""
    for child in module.children():
        if isinstance(child, nn.ModuleList):
            yield from (layer for layer in child if any(True for _ in layer.parameters()))
        else:
            yield from layers(child)


def check_sharded(module: nn.Module, world: World) -> None:
    """Refuse to train when the parameters are not divided over all processes."""
    for name, parameter in module.named_parameters():
        if not isinstance(parameter, DTensor) or parameter.device_mesh.size() != world.size:
            raise ConfigError(
                f"FSDP2 was asked for, but {name} is not divided over the {world.size} processes; "
                "install the torch that constraints.txt names, or unset ACCELERATE_USE_FSDP"
            )


def _make_output_known(module: nn.Module, inputs: Any, output: Any) -> None:
    # Without it no gradient of a model that returns a dataclass is reduced, in silence.
    kind = type(output)
    if dataclasses.is_dataclass(kind) and kind not in pytree.SUPPORTED_NODES:
        torch.export.register_dataclass(kind)
