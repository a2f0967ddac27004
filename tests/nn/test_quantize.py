"""The relaxation and the numbers that say how a codebook is used."""

import math

import pytest
import torch

from dalle.nn.quantize import (
    code_counts,
    codebook_use,
    gumbel_softmax,
    kl_to_uniform,
    mean_posterior,
)


def test_a_cold_relaxation_is_one_hot_and_follows_the_posterior() -> None:
    torch.manual_seed(0)
    logits = torch.tensor([2.0, 0.0, 1.0]).view(1, 3, 1, 1).expand(1, 3, 100, 200)
    sample = gumbel_softmax(logits, 0.01)
    assert (sample.amax(dim=1) > 0.99).float().mean() > 0.95
    shares = torch.bincount(sample.argmax(dim=1).flatten(), minlength=3) / 20_000
    torch.testing.assert_close(shares, torch.softmax(logits[0, :, 0, 0], 0), atol=0.015, rtol=0)


def test_a_relaxed_sample_sums_to_one_and_is_float32() -> None:
    torch.manual_seed(0)
    sample = gumbel_softmax(torch.randn(2, 5, 3, 4).bfloat16(), 1.0)
    assert sample.dtype == torch.float32
    torch.testing.assert_close(sample.sum(dim=1), torch.ones(2, 3, 4))


def test_kl_is_zero_when_uniform_and_ln_codes_when_sure() -> None:
    logits = torch.zeros(1, 7, 2, 3)
    assert kl_to_uniform(logits).abs().max() < 1e-6
    logits[:, 4] = 100.0
    torch.testing.assert_close(kl_to_uniform(logits), torch.full((1, 2, 3), math.log(7)))


def test_kl_is_the_sum_over_codes_of_q_ln_q_k() -> None:
    torch.manual_seed(1)
    logits = torch.randn(2, 6, 3, 1)
    q = torch.softmax(logits, dim=1)
    torch.testing.assert_close(kl_to_uniform(logits), (q * (6 * q).log()).sum(dim=1))


def test_mean_posterior_averages_over_pictures_and_cells() -> None:
    logits = torch.full((2, 2, 1, 2), -50.0)
    for cell, code in enumerate((0, 1, 1, 1)):
        logits[cell // 2, code, 0, cell % 2] = 50.0
    torch.testing.assert_close(mean_posterior(logits), torch.tensor([0.25, 0.75]))


@pytest.mark.parametrize(
    ("codes", "used", "perplexity"), [([0, 0, 0], 1, 1.0), ([0, 1, 2, 3], 4, 4.0), ([0, 5], 2, 2.0)]
)
def test_use_of_a_codebook(codes: list[int], used: int, perplexity: float) -> None:
    use = codebook_use(code_counts(torch.tensor(codes), 8))
    assert (use.codes_used, use.usage) == (used, used / 8)
    assert use.perplexity == pytest.approx(perplexity)
