"""The gap, on vectors whose cosines are known."""

import math

import pytest
import torch
from torch.nn import functional as F

from dalle.errors import InputError
from dalle.systems.clip_gen.gap import measure_gap


def test_means_are_over_all_pairs_of_different_things():
    generator = torch.Generator().manual_seed(0)
    images, texts = torch.randn(2, 9, 6, generator=generator).unbind(0)
    gap = measure_gap(3 * images, texts)
    a, b = F.normalize(images, dim=-1), F.normalize(texts, dim=-1)
    others = ~torch.eye(9, dtype=torch.bool)
    assert gap.matched == pytest.approx((a @ b.T).diagonal().mean().item(), abs=1e-6)
    assert gap.unmatched == pytest.approx((a @ b.T)[others].mean().item(), abs=1e-6)
    assert gap.images == pytest.approx((a @ a.T)[others].mean().item(), abs=1e-6)
    assert gap.texts == pytest.approx((b @ b.T)[others].mean().item(), abs=1e-6)
    assert gap.between_means == pytest.approx((a.mean(0) - b.mean(0)).norm().item(), abs=1e-6)


def test_a_constant_opens_a_gap_and_mean_removal_closes_it():
    generator = torch.Generator().manual_seed(0)
    images = F.normalize(torch.randn(400, 64, generator=generator), dim=-1)
    near = measure_gap(images, images)
    assert near.matched == pytest.approx(1, abs=1e-5) and near.xi == pytest.approx(0, abs=0.01)
    far = measure_gap(images, images + torch.eye(64)[0] * 2)
    assert far.matched < 0.6 and far.between_means > 0.8
    assert far.matched_centred > 0.95
    assert far.matched == pytest.approx(1 / math.sqrt(1 + far.xi**2))
    assert len(far.lines()) == 5


def test_one_pair_has_no_gap():
    with pytest.raises(InputError, match="1 pairs"):
        measure_gap(torch.ones(1, 4), torch.ones(1, 4))
