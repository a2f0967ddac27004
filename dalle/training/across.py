"""Tensors of all processes, through which gradients flow back to each.

torch has functions of its own for it, under names that changed between 2.10 and 2.13.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def num_processes() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def my_rank() -> int:
    """This process's number among them, from 0."""
    return dist.get_rank() if num_processes() > 1 else 0


def gathered(rows: Tensor) -> Tensor:
    """The rows of all processes, in their order; the same number of rows comes from each."""
    everyone: Tensor = _Gather.apply(rows) if num_processes() > 1 else rows
    return everyone


def summed(values: Tensor) -> Tensor:
    """The sum over all processes."""
    total: Tensor = _Sum.apply(values) if num_processes() > 1 else values
    return total


class _Gather(torch.autograd.Function):
    """Each row's gradient is the sum of what all processes have for it."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        everyone = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
        dist.all_gather(everyone, rows.contiguous())
        return torch.cat(everyone)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total.chunk(dist.get_world_size())[dist.get_rank()]


class _Sum(torch.autograd.Function):
    """Likewise: what each process's loss says of the sum, it says of every summand."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        total = values.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total
