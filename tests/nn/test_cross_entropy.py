"""Our cross entropy against torch's: values, gradients, rows without a target, far-off targets."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from dalle.nn.cross_entropy import cross_entropy


def both(logits: Tensor, targets: Tensor, by_row: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Values and gradients, ours first."""
    found = []
    for form in (
        cross_entropy,
        lambda x, y: F.cross_entropy(x, y, ignore_index=-1, reduction="none"),
    ):
        x = logits.clone().requires_grad_()
        nll = form(x, targets)
        (nll * by_row).sum().backward()
        assert x.grad is not None
        found.append((nll.detach(), x.grad))
    return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_values_and_gradients_are_those_of_torch(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = 4 * torch.randn(40, 300, generator=generator, dtype=dtype)
    targets = torch.randint(-1, 300, (40,), generator=generator)
    targets[3] = targets[7] = -1
    by_row = torch.randn(40, generator=generator, dtype=dtype)
    ours, theirs = both(logits, targets, by_row)
    for got, expected in zip(ours, theirs, strict=True):
        torch.testing.assert_close(got, expected, atol=2e-6, rtol=2e-6)
    assert (ours[0][targets < 0] == 0).all() and (ours[1][targets < 0] == 0).all()
    assert (ours[0][targets >= 0] > 0).all()


@pytest.mark.parametrize("below", [20.0, 85.0, 95.0, 120.0, 1000.0])
def test_a_target_of_no_probability_has_its_loss(below: float) -> None:
    # exp(-104) is nothing in float32, of which the logarithm would be infinite.
    logits = torch.zeros(3, 50)
    logits[1, 4] = -below
    ours, theirs = both(logits, torch.tensor([1, 4, 2]), torch.ones(3))
    torch.testing.assert_close(ours[0], theirs[0], atol=0, rtol=1e-6)
    torch.testing.assert_close(ours[1], theirs[1], atol=1e-7, rtol=0)


def test_what_is_not_a_number_stays_visible() -> None:
    logits = torch.zeros(2, 5)
    logits[1, 3] = float("nan")
    nll = cross_entropy(logits, torch.tensor([0, 0]))
    assert nll[0].isfinite() and nll[1].isnan()


def test_no_rows_at_all() -> None:
    logits = torch.zeros(0, 5, requires_grad=True)
    cross_entropy(logits, torch.zeros(0, dtype=torch.long)).sum().backward()
    assert logits.grad is not None and logits.grad.shape == (0, 5)
