"""Linear layers in float32 on the CPU through oneDNN, where torch would take another library.

PyTorch's float32 products on x86 go to MKL, which leaves AVX-512 unused on processors that are
not Intel's: one core of a Zen 5 does 108 GFLOP/s through MKL and 245 through oneDNN. In bfloat16
torch takes oneDNN anyhow.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.utils._python_dispatch import _disable_current_modes

LEAST_ROWS = 8
LEAST_PRODUCTS = 2**20
"""Below 8 rows, or 2^20 multiplications, oneDNN's fixed cost is more than it saves."""


class Linear(nn.Linear):
    """`nn.Linear`, with `linear` for its product."""

    def forward(self, x: Float[Tensor, "*b i"]) -> Float[Tensor, "*b o"]:
        """x weight^T + bias."""
        return linear(x, self.weight, self.bias)


def linear(
    x: Float[Tensor, "*b i"], weight: Float[Tensor, "o i"], bias: Float[Tensor, " o"]
) -> Float[Tensor, "*b o"]:
    """x weight^T + bias, in float32 on the CPU through oneDNN where that pays.

    Which of the two runs follows from the processor's kind and the sizes, so that a run that is
    resumed computes as it did before.
    """
    if not _pays(x, weight):
        return F.linear(x, weight, bias)
    return _Linear.apply(x.flatten(0, -2), weight, bias).unflatten(0, x.shape[:-1])  # type: ignore[no-any-return]


def product(x: Float[Tensor, "n i"], weight: Float[Tensor, "o i"]) -> Float[Tensor, "n o"]:
    """x weight^T in the same way, where no gradient is recorded."""
    return _product(x, weight) if _pays(x, weight) else x @ weight.t()


def _pays(x: Tensor, weight: Tensor) -> bool:
    rows = x.numel() // x.shape[-1]
    return (
        x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and rows >= LEAST_ROWS
        and rows * weight.numel() >= LEAST_PRODUCTS
        and _is_plain(x)
        and _is_plain(weight)
        and not torch.is_autocast_enabled("cpu")
        and _onednn() is not None
    )


def _is_plain(matrix: Tensor) -> bool:
    # For other strides oneDNN has a kernel that is hundreds of times slower.
    return matrix.is_contiguous() or (matrix.ndim == 2 and matrix.t().is_contiguous())


@cache
def _onednn() -> Callable[..., Tensor] | None:
    """The operator through which `torch.compile` reaches oneDNN, if it does what it should here.

    It is none of torch's public names: those that lead to oneDNN (`Tensor.to_mkldnn`) copy what
    goes in and comes out, a tenth of a training step.
    """
    if torch.backends.cpu.get_cpu_capability() != "AVX512":
        return None
    with _disable_current_modes():  # of those who count what is done, or only pretend to do it
        x, weight = torch.arange(6.0).view(2, 3), torch.arange(12.0).view(4, 3)
        try:
            operator: Callable[..., Tensor] = torch.ops.mkldnn._linear_pointwise
            found = operator(x, weight, x.new_ones(4), "none", [], "")
        except (AttributeError, RuntimeError, TypeError):
            return None
        return operator if torch.equal(found, x @ weight.t() + 1) else None


def _product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    operator = _onednn()
    assert operator is not None
    return operator(x, weight, bias, "none", [], "")


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _product(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        gradient = gradient.contiguous()
        by_x, by_weight, by_bias = ctx.needs_input_grad
        return (
            _product(gradient, weight.t()) if by_x else None,
            _product(gradient.t(), x.t()) if by_weight else None,
            gradient.sum(0) if by_bias else None,
        )
