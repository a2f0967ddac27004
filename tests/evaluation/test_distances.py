"""Distances between sets of pictures against closed forms, second implementations and loops."""

import math

import numpy as np
import pytest
import torch

from dalle.errors import InputError
from dalle.evaluation import kernel_distances
from dalle.evaluation.frechet import Moments, frechet_distance, moments
from dalle.evaluation.inception_score import inception_score
from dalle.evaluation.kernel_distances import cmmd, kid
from dalle.evaluation.ssim import ssim


def normal(n: int, d: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def white(n: int, d: int) -> torch.Tensor:
    """Features of exactly mean 0 and covariance 1."""
    x = normal(n, d)
    x = x - x.mean(0)
    return x @ torch.linalg.inv(torch.linalg.cholesky(x.T @ x / (n - 1))).T


def test_moments_of_parts_are_those_of_the_whole():
    x = normal(50, 4) * 3 + 1000
    parts = moments(x.split([1, 30, 19]))
    assert parts.count == 50
    assert torch.allclose(parts.mean, x.mean(0))
    assert np.allclose(parts.covariance, np.cov(x.numpy().T), rtol=1e-9)


def test_equal_sets_are_at_distance_zero_and_a_shift_counts_squared():
    x = normal(60, 5)
    assert frechet_distance(moments([x]), moments([x])) == pytest.approx(0, abs=1e-9)
    shift = torch.tensor([1.0, -2.0, 0.5, 0.0, 3.0], dtype=torch.float64)
    assert frechet_distance(moments([x]), moments([x + shift])) == pytest.approx(14.25)


def test_of_diagonal_covariances_the_deviations_differ_squared():
    x = white(40, 3)
    a, b = torch.tensor([1.0, 2, 3]).double(), torch.tensor([4.0, 0.5, 3]).double()
    expected = (3.0**2) + 1.5**2 + 0
    assert frechet_distance(moments([x * a]), moments([x * b])) == pytest.approx(expected)
    one = white(10, 1)
    assert frechet_distance(moments([2 * one + 1]), moments([5 * one])) == pytest.approx(1 + 9)


def test_the_distance_agrees_with_the_eigenvalues_of_the_product():
    mix = normal(6, 6, seed=3)
    a, b = moments([normal(80, 6, 1) @ mix]), moments([normal(70, 6, 2) + 0.3])
    product = np.linalg.eigvals(a.covariance.numpy() @ b.covariance.numpy())
    root = np.sqrt(product.astype(complex)).sum().real
    expected = float((a.mean - b.mean).square().sum() + a.covariance.trace())
    expected += float(b.covariance.trace()) - 2 * root
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(b, a) == pytest.approx(expected, rel=1e-9)


def test_fewer_pictures_than_entries_have_a_distance_too():
    a, b = normal(7, 30, 1), normal(9, 30, 2)
    value = frechet_distance(moments([a]), moments([b]))
    # Second way: the nuclear norm of the product of the two square matrices of centred rows.
    x, y = (a - a.mean(0)) / math.sqrt(6), (b - b.mean(0)) / math.sqrt(8)
    nuclear = torch.linalg.svdvals(x @ y.T).sum()
    expected = (a.mean(0) - b.mean(0)).square().sum() + x.square().sum() + y.square().sum()
    assert value == pytest.approx(float(expected - 2 * nuclear), rel=1e-7)
    assert frechet_distance(moments([a]), moments([a])) == pytest.approx(0, abs=1e-5)


def test_what_has_no_covariance_or_another_width_is_refused():
    with pytest.raises(InputError, match="1 pictures have no covariance"):
        frechet_distance(moments([normal(1, 3)]), moments([normal(5, 3)]))
    with pytest.raises(InputError, match="3 and 4 entries"):
        frechet_distance(moments([normal(5, 3)]), moments([normal(5, 4)]))
    with pytest.raises(InputError, match="no features"):
        moments([])
    assert Moments(2).count == 0


def test_kid_is_the_double_loop_over_different_pairs(monkeypatch):
    monkeypatch.setattr(kernel_distances, "ROWS_AT_ONCE", 3)
    a, b = normal(8, 5, 1), normal(7, 5, 2) + 1

    def k(x, y):
        return float((x @ y / 5 + 1) ** 3)

    expected = sum(k(a[i], a[j]) for i in range(8) for j in range(8) if i != j) / 56
    expected += sum(k(b[i], b[j]) for i in range(7) for j in range(7) if i != j) / 42
    expected -= 2 * sum(k(x, y) for x in a for y in b) / 56
    got = kid(a, b)
    assert got.mean == pytest.approx(expected)
    assert got.error is None
    same = [kid(normal(40, 4, s), normal(40, 4, 100 + s)) for s in range(30)]
    mean = sum(e.mean for e in same) / 30
    spread = float(np.std([e.mean for e in same]))
    assert abs(mean) < 3 * spread / math.sqrt(30)  # unbiased: 0 for sets of one distribution
    told = sum(e.error or 0 for e in same) / 30
    assert spread / 2 < told < 3 * spread


def test_cmmd_is_the_double_loop_over_all_pairs(monkeypatch):
    monkeypatch.setattr(kernel_distances, "ROWS_AT_ONCE", 2)
    a, b = (torch.nn.functional.normalize(normal(n, 4, n), dim=1) for n in (5, 6))

    def mean(xs, ys):
        pairs = [math.exp(-float((x - y).square().sum()) / 200) for x in xs for y in ys]
        return sum(pairs) / len(pairs)

    assert cmmd(a, b) == pytest.approx(1000 * (mean(a, a) + mean(b, b) - 2 * mean(a, b)))
    assert cmmd(a, a) == pytest.approx(0, abs=1e-9)
    with pytest.raises(InputError, match="of one network"):
        cmmd(a, b[:, :3])


def test_the_inception_score_of_hand_made_classes():
    # Sure of one class each, all four alike often: KL = ln 4 for each. Two parts of four.
    sure = torch.eye(4).repeat(2, 1) * 1000
    got = inception_score(sure, splits=2)
    assert got.mean == pytest.approx(4)
    assert got.error == pytest.approx(0, abs=1e-9)
    # First part: one class only, exp(0) = 1. Second: two classes, exp(ln 2) = 2.
    logits = 1000 * torch.tensor([[1.0, 0], [1, 0], [1, 0], [0, 1]])
    got = inception_score(logits, splits=2)
    assert (got.mean, got.error) == (pytest.approx(1.5), pytest.approx(0.5))
    # p = (3/4, 1/4) and (1/4, 3/4), together (1/2, 1/2): KL = 3/4 ln 3/2 + 1/4 ln 1/2 for both.
    half = torch.tensor([[0.75, 0.25], [0.25, 0.75]]).log()
    expected = math.exp(0.75 * math.log(1.5) + 0.25 * math.log(0.5))
    assert inception_score(half, splits=1).mean == pytest.approx(expected)
    with pytest.raises(InputError, match="10 parts"):
        inception_score(half)


def test_ssim_is_the_windowed_formula_place_by_place():
    generator = torch.Generator().manual_seed(0)
    a = torch.rand(2, 3, 13, 12, generator=generator)
    b = (a + 0.2 * torch.randn(2, 3, 13, 12, generator=generator)).clamp(0, 1)
    offsets = np.arange(-5, 6)
    window = np.exp(-(offsets[:, None] ** 2 + offsets[None] ** 2) / (2 * 1.5**2))
    window /= window.sum()
    for got, x, y in zip(ssim(a, b), a.double().numpy(), b.double().numpy(), strict=True):
        places = []
        for channel in range(3):
            for top in range(3):
                for left in range(2):
                    p = x[channel, top : top + 11, left : left + 11]
                    q = y[channel, top : top + 11, left : left + 11]
                    mp, mq = (window * p).sum(), (window * q).sum()
                    vp = (window * (p - mp) ** 2).sum()
                    vq = (window * (q - mq) ** 2).sum()
                    cov = (window * (p - mp) * (q - mq)).sum()
                    places.append(
                        (2 * mp * mq + 1e-4)
                        * (2 * cov + 9e-4)
                        / ((mp**2 + mq**2 + 1e-4) * (vp + vq + 9e-4))
                    )
        assert float(got) == pytest.approx(np.mean(places), rel=1e-9)
    assert torch.allclose(ssim(a, a), torch.ones(2).double())
    with pytest.raises(InputError, match="11 x 11"):
        ssim(a[..., :10], b[..., :10])
