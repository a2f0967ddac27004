"""Products of heads on GPUs: the setting in force while they run, their gradients, and which heads
take which."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F

from dalle.nn import precision, tensor_cores
from dalle.nn.precision import logits
from dalle.nn.tensor_cores import Tf32Linear, linear_of_short, takes_short, tf32

CUDA = torch.device("cuda", 0)
SHORT = [torch.bfloat16, torch.float16]


def setting() -> str:
    return str(torch.backends.cuda.matmul.fp32_precision)


def factors(dtype: torch.dtype, device: str = "cpu", rows: int = 5) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = (2, rows, 64), (48, 64), (48,)
    return [torch.randn(s, generator=generator).to(device, dtype) for s in shapes]


def results(form: Callable[..., Tensor], inputs: list[Tensor]) -> list[Tensor]:
    """The product, and the gradients of all that went into it."""
    inputs = [x.clone().requires_grad_() for x in inputs]
    y = form(*inputs)
    (y * torch.linspace(-1, 1, y.numel(), device=y.device).view_as(y)).sum().backward()
    return [y.detach(), *(x.grad for x in inputs if x.grad is not None)]


def test_the_setting_holds_for_the_products_and_no_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    before, seen = setting(), []

    def noted(product: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def noting(*args: Any, **kwargs: Any) -> Tensor:
            seen.append(setting())
            return product(*args, **kwargs)

        return noting

    monkeypatch.setattr(tensor_cores.F, "linear", noted(F.linear))
    monkeypatch.setattr(tensor_cores.torch, "mm", noted(torch.mm))
    results(Tf32Linear.apply, factors(torch.float32))
    assert seen == ["tf32"] * 3 and setting() == before
    with pytest.raises(ZeroDivisionError), tf32():
        raise ZeroDivisionError
    assert setting() == before
    torch.get_float32_matmul_precision()  # which fails where old and new settings disagree


def test_gradients_are_those_of_a_linear_layer() -> None:
    inputs = factors(torch.float32)
    for got, expected in zip(
        results(Tf32Linear.apply, inputs), results(F.linear, inputs), strict=True
    ):
        torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)
    x, weight, bias = inputs
    weight = weight.requires_grad_()
    Tf32Linear.apply(x, weight, None).sum().backward()
    assert weight.grad is not None and x.grad is None and bias.grad is None


@pytest.mark.parametrize("dtype", SHORT)
@pytest.mark.parametrize("takes", [True, False])
def test_heads_of_16_bits_are_multiplied_as_they_are_where_that_adds_in_32(
    dtype: torch.dtype, takes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    called = []
    monkeypatch.setattr(precision, "takes_short", lambda dtype, device: takes)
    monkeypatch.setattr(
        precision, "linear_of_short", lambda *x: called.append(x[0].dtype) or linear_of_short(*x)
    )
    with FakeTensorMode(), torch.no_grad():  # of a device that need not be there
        x, weight, bias = (torch.empty(s, device=CUDA, dtype=dtype) for s in ((2, 5, 8), (6, 8), 6))
        found = logits(x, weight, bias)
    assert found.dtype == torch.float32 and found.shape == (2, 5, 6) and found.device == CUDA
    assert called == ([dtype] if takes else [])


@pytest.mark.parametrize(("mixed", "expected"), [(True, 1), (False, 0)])
def test_only_mixed_precision_rounds_to_tf32(
    mixed: bool, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    called = []
    apply = Tf32Linear.apply
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda kind: mixed)
    monkeypatch.setattr(Tf32Linear, "apply", lambda *x: called.append(x) or apply(*x))
    with FakeTensorMode(), torch.no_grad():
        logits(torch.empty(2, 8, device=CUDA), torch.empty(6, 8, device=CUDA), None)
    assert len(called) == expected
    logits(torch.zeros(2, 8), torch.zeros(6, 8), None)  # on the CPU in no case
    assert len(called) == expected


def test_the_cpu_has_no_such_product() -> None:
    # If this fails, torch has got one: heads of 16 bits could be faster on the CPU, too.
    assert not takes_short(torch.bfloat16, torch.device("cpu"))


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", SHORT)
def test_on_a_gpu_16_bits_lose_nothing(dtype: torch.dtype) -> None:
    assert takes_short(dtype, CUDA)
    x, weight, bias = factors(dtype, "cuda", rows=200)
    expected = F.linear(x.double(), weight.double(), bias.double())
    with torch.inference_mode():
        torch.testing.assert_close(logits(x, weight, bias).double(), expected, atol=1e-4, rtol=1e-5)


@pytest.mark.gpu
def test_on_a_gpu_mixed_precision_is_near_to_float32() -> None:
    inputs = factors(torch.float32, "cuda", rows=200)

    def mixed(*x: Tensor) -> Tensor:
        with torch.autocast("cuda", dtype=torch.bfloat16):
            return logits(*x)

    exact = results(F.linear, inputs)
    for found, expected in zip(results(mixed, inputs), exact, strict=True):
        assert found.dtype == torch.float32
        difference = (found - expected).norm() / expected.norm()
        assert difference < 2e-3, "of 16-bit factors it would be 3e-3 or more"
