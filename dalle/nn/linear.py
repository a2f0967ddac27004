"""Linear layers in float32 on the CPU through oneDNN, where torch would take another library.

PyTorch's float32 products on x86 go to MKL, which leaves AVX-512 unused on processors that are
not Intel's: one core of a Zen 5 does 108 GFLOP/s through MKL and 245 through oneDNN. In bfloat16
torch takes oneDNN anyhow.

While decoding, where few rows meet the same weights a thousand times, `weights_kept` lays weights
out for oneDNN once: 1.2 to 2 times as fast at 2 to 64 rows, in both types.
"""

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
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


MOST_KEPT_ROWS = 256
LEAST_KEPT = 2**14
"""Weights are laid out anew for at most so many rows, and if they are at least so many numbers."""
ONE_LAYOUT = 8
"""Up to so many rows take the same layout of weights."""


@dataclass(frozen=True, slots=True)
class _Kept:
    """What was made of weights, by the weights and by what was made; it keeps both alive."""

    made: dict[tuple[int, object], tuple[Tensor, Tensor]] = field(default_factory=dict)

    def get(self, weight: Tensor, kind: object, make: Callable[[Tensor], Tensor]) -> Tensor:
        key = (id(weight), kind)
        if key not in self.made:
            self.made[key] = (weight, make(weight))
        return self.made[key][1]


_KEPT: ContextVar[_Kept | None] = ContextVar("kept", default=None)


@contextlib.contextmanager
def weights_kept() -> Iterator[None]:
    """A block in which no weights change, so that what is made of them is made once.

    On CPUs with AVX-512 products of few rows take weights that were laid out for oneDNN, which
    needs as much memory again as the weights themselves; everywhere `linear32` takes them in
    float32. All is forgotten at the block's end. For blocks that use weights often with as many
    rows: laying out costs about as much as using them once.
    """
    token = _KEPT.set(_Kept())
    try:
        yield
    finally:
        _KEPT.reset(token)


class Linear(nn.Linear):
    """`nn.Linear`, with `linear` for its product."""

    def forward(self, x: Float[Tensor, "*b i"]) -> Float[Tensor, "*b o"]:
        """x weight^T + bias."""
        return linear(x, self.weight, self.bias)


def linear(
    x: Float[Tensor, "*b i"], weight: Float[Tensor, "o i"], bias: Float[Tensor, " o"] | None
) -> Float[Tensor, "*b o"]:
    """x weight^T + bias, in float32 on the CPU through oneDNN where that pays.

    Which of the two runs follows from the processor's kind and the sizes, so that a run that is
    resumed computes as it did before.
    """
    if torch.compiler.is_compiling():
        return _traced(x, weight, bias)
    kept = _KEPT.get()
    if kept is not None and _worth_keeping(x, weight):
        return _product_of_kept(x.flatten(0, -2), kept, weight, bias).unflatten(0, x.shape[:-1])
    if not _pays(x, weight):
        return F.linear(x, weight, bias)
    return _Linear.apply(x.flatten(0, -2), weight, bias).unflatten(0, x.shape[:-1])  # type: ignore[no-any-return]


def linear32(
    x: Float[Tensor, "*b i"], weight: Float[Tensor, "o i"], bias: Float[Tensor, " o"] | None
) -> Float[Tensor, "*b o"]:
    """x weight^T + bias in float32, whatever they are in."""
    kept = _KEPT.get()
    if kept is not None:
        weight = kept.get(weight, torch.float32, Tensor.float)
    return linear(x.float(), weight.float(), None if bias is None else bias.float())


def product(x: Float[Tensor, "n i"], weight: Float[Tensor, "o i"]) -> Float[Tensor, "n o"]:
    """x weight^T in the same way, where no gradient is recorded."""
    return _product(x, weight) if _pays(x, weight) else x @ weight.t()


def _mkl_is_narrow(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    try:
        first = cpuinfo.read_text("utf-8").split("\n\n")[0].splitlines()
    except OSError:
        return False
    told = {key.strip(): value.strip() for key, _, value in (x.partition(":") for x in first)}
    return told.get("vendor_id") == "AuthenticAMD" and int(told.get("cpu family", 0)) >= 26


MKL_IS_NARROW = _mkl_is_narrow()
"""Whether MKL uses half of what a core can do: AMD's since Zen 5 (family 26), on which it takes
AVX2."""


def _by_weight(gradient: Float[Tensor, "n o"], x: Float[Tensor, "n i"]) -> Float[Tensor, "o i"]:
    """gradient^T x, the gradient of a linear layer's weights.

    oneDNN's operator copies a factor that is transposed, on one thread, which takes as long as a
    seventh of the product on one thread and a third of it on two; MKL reads it where it is. So it
    is MKL's, but where the copy is the smaller of the two factors, and where oneDNN is more than
    twice as fast.
    """
    if gradient.shape[1] > x.shape[1] and not MKL_IS_NARROW:
        return gradient.t() @ x
    return _product(gradient.t(), x.t())


def _traced(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """What `torch.compile` sees: products by one operator, where they might go to oneDNN."""
    if (
        x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")
    ):
        return _Linear.apply(x.flatten(0, -2), weight, bias).unflatten(0, x.shape[:-1])  # type: ignore[no-any-return]
    return F.linear(x, weight, bias)


@torch.library.custom_op("dalle::linear", mutates_args=())
def _operator(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return linear(x, weight, bias)


@_operator.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return x.new_empty(x.shape[0], weight.shape[0])


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


def _worth_keeping(x: Tensor, weight: Tensor) -> bool:
    return (
        x.device.type == "cpu"
        and x.dtype == weight.dtype
        and 0 < x.numel() // x.shape[-1] <= MOST_KEPT_ROWS
        and weight.numel() >= LEAST_KEPT
        and not torch.is_grad_enabled()
        and _is_plain(x)
        and not torch.is_autocast_enabled("cpu")
        and _packs(weight.dtype)
    )


def _product_of_kept(x: Tensor, kept: _Kept, weight: Tensor, bias: Tensor | None) -> Tensor:
    rows = len(x)
    if rows < 3:
        # oneDNN reads weights for four rows faster than for one or two: 3.7 ms in place of 4.6 and
        # 5.1 for all of the toy's (docs/performance.md) in float32.
        return _product_of_kept(torch.cat([x] * (4 // rows)), kept, weight, bias)[:rows]
    layout = max(ONE_LAYOUT, rows)

    def lay_out(weight: Tensor) -> Tensor:
        return torch.ops.mkldnn._reorder_linear_weight(weight.detach(), layout)  # type: ignore[no-any-return]

    return _product(x, kept.get(weight, layout, lay_out), bias)


@cache
def _packs(dtype: torch.dtype) -> bool:
    """Whether oneDNN takes weights that were laid out for it here, and rightly."""
    if _onednn() is None or dtype not in (torch.float32, torch.bfloat16):
        return False
    with _disable_current_modes():
        x, weight = _known_matrices(dtype)
        try:
            packed = torch.ops.mkldnn._reorder_linear_weight(weight, 2)
            found = _product(x, packed, x.new_ones(4))
        except (AttributeError, RuntimeError, TypeError):
            return False
        return torch.equal(found, x @ weight.t() + 1)


def _known_matrices(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    # On the CPU, whatever device is taken where none is named.
    numbers = torch.arange(18.0, dtype=dtype, device="cpu")
    return numbers[:6].view(2, 3), numbers[6:].view(4, 3)


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
        x, weight = _known_matrices(torch.float32)
        try:
            operator: Callable[..., Tensor] = torch.ops.mkldnn._linear_pointwise
            found = operator(x, weight, x.new_ones(4), "none", [], "")
        except (AttributeError, RuntimeError, TypeError):
            return None
        return operator if torch.equal(found, x @ weight.t() + 1) else None


def _product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    if torch.compiler.is_compiling():
        return _operator(x, weight, bias)
    operator = _onednn()
    assert operator is not None
    return operator(x, weight, bias, "none", [], "")


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
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
            _by_weight(gradient, x) if by_weight else None,
            gradient.sum(0) if by_bias else None,
        )
