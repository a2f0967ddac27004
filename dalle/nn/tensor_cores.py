"""Products of heads on GPUs by tensor cores, whose sums and results have 32 bits.

Products of float32 factors leave tensor cores unused: by the data sheet an H100 reaches 67 TFLOP/s
so, 495 by TF32 and 990 with factors of 16 bits. Heads are up to a twelfth of the arithmetic of a
model of 120M parameters, and would take half of its step.

Not run by its authors, who had no GPU: tested on the CPU, and by the tests marked gpu.
"""

import contextlib
from collections.abc import Iterator
from functools import cache
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.utils._python_dispatch import _disable_current_modes


@contextlib.contextmanager
def tf32() -> Iterator[None]:
    """A block in which products of float32 matrices on a GPU round their factors to TF32, with 10
    bits behind the point, and add in 32 bits. GPUs before Ampere have none, and stay exact."""
    settings = torch.backends.cuda.matmul
    before = settings.fp32_precision
    settings.fp32_precision = "tf32"
    try:
        yield
    finally:
        settings.fp32_precision = before


class Tf32Linear(torch.autograd.Function):
    """x weight^T + bias in float32, by TF32 forward and backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        with tf32():
            return F.linear(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        by_x, by_weight, by_bias = ctx.needs_input_grad
        rows = gradient.flatten(0, -2)
        with tf32():
            return (
                torch.mm(rows, weight).view_as(x) if by_x else None,
                torch.mm(rows.t(), x.flatten(0, -2)) if by_weight else None,
                rows.sum(0) if by_bias else None,
            )


def linear_of_short(
    x: Float[Tensor, "*b i"], weight: Float[Tensor, "o i"], bias: Float[Tensor, " o"] | None
) -> Float[Tensor, "*b o"]:
    """x weight^T + bias in float32 of factors in 16 bits, which are multiplied as they are."""
    found = torch.mm(x.flatten(0, -2), weight.t(), out_dtype=torch.float32)
    if bias is not None:
        found += bias
    return found.unflatten(0, x.shape[:-1])


@cache
def takes_short(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether the device has such a product, and adds up what 16 bits could not."""
    if dtype not in (torch.bfloat16, torch.float16):
        return False
    with _disable_current_modes():
        try:
            row = torch.tensor([[4096.0, 1.0]], dtype=dtype, device=device)
            return linear_of_short(row, torch.ones_like(row), None).item() == 4097.0
        except (RuntimeError, TypeError, NotImplementedError):
            return False
