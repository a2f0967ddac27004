"""The logit-Laplace density: it integrates to one, and is written as published."""

import math

import pytest
import torch

from dalle.nn.likelihood import logit_laplace_nll, map_pixels, unmap_pixels


@pytest.mark.parametrize(("mean", "log_scale"), [(0.0, 0.0), (1.5, -1.0), (-2.0, 0.7)])
def test_density_integrates_to_one(mean: float, log_scale: float) -> None:
    x = torch.linspace(0, 1, 2_000_001, dtype=torch.float64)[1:-1]
    nll = logit_laplace_nll(x, torch.full_like(x, mean), torch.full_like(x, log_scale))
    assert torch.trapezoid(torch.exp(-nll), x).item() == pytest.approx(1.0, abs=2e-3)


def test_nll_at_one_point_by_hand() -> None:
    x, mean, b = 0.3, 0.4, 0.5
    logit = math.log(x / (1 - x))
    density = math.exp(-abs(logit - mean) / b) / (2 * b * x * (1 - x))
    nll = logit_laplace_nll(torch.tensor(x), torch.tensor(mean), torch.tensor(math.log(b)))
    assert nll.item() == pytest.approx(-math.log(density), rel=1e-5)


def test_pixels_are_mapped_inside_and_back() -> None:
    x = torch.linspace(0, 1, 11)
    mapped = map_pixels(x)
    assert mapped[0].item() == pytest.approx(0.1) and mapped[-1].item() == pytest.approx(0.9)
    torch.testing.assert_close(unmap_pixels(mapped), x)
    assert unmap_pixels(torch.tensor([0.0, 1.0])).tolist() == [0.0, 1.0]
