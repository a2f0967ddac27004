"""Filters against brute force, and what is drawn against its distribution."""

import pytest
import torch

from dalle.errors import InputError
from dalle.sampling.filters import Sampling, draw_token, fewest_that_reach, guide, noise_table

FAR = 4e-3
"""Four standard deviations of a frequency, and a little more."""


def noise(count, seed=0):
    return torch.randint(2**63 - 1, (count,), generator=torch.Generator().manual_seed(seed))


def drawn_frequencies(logits, sampling, count=200_000):
    tokens = draw_token(logits.expand(count, -1), noise(count), sampling)
    return torch.bincount(tokens, minlength=logits.numel()) / count


@pytest.fixture
def logits():
    return torch.randn(9, generator=torch.Generator().manual_seed(3)) * 2


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_unfiltered_frequencies_are_the_softmax(logits, temperature):
    expected = torch.softmax(logits / temperature, dim=0)
    drawn = drawn_frequencies(logits, Sampling(temperature=temperature))
    torch.testing.assert_close(drawn, expected, atol=FAR, rtol=0)


def test_top_k_keeps_the_k_most_likely_in_proportion(logits):
    kept = logits.topk(3).indices
    expected = torch.zeros(9)
    expected[kept] = torch.softmax(logits[kept], dim=0)
    torch.testing.assert_close(
        drawn_frequencies(logits, Sampling(top_k=3)), expected, atol=FAR, rtol=0
    )


def test_top_p_keeps_the_fewest_that_reach_p(logits):
    probabilities, order = torch.softmax(logits, dim=0).sort(descending=True)
    for p in (0.05, 0.6, 0.9, 1.0):
        count = int((probabilities.cumsum(0) < p - 1e-6).sum()) + 1
        expected = torch.zeros(9)
        expected[order[:count]] = probabilities[:count] / probabilities[:count].sum()
        drawn = drawn_frequencies(logits, Sampling(top_p=p), count=10_000)
        torch.testing.assert_close(drawn, expected, atol=4 * FAR, rtol=0)
        assert torch.equal(drawn > 0, expected > 0)


@pytest.mark.parametrize("spread", [0.0, 0.3, 2.0, 20.0])
@pytest.mark.parametrize("p", [1e-6, 0.05, 0.5, 0.9, 0.999, 1 - 1e-6])
def test_the_fewest_that_reach_p_are_those_of_a_sort(p, spread):
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(6, 1000, generator=generator) * spread
    logits[1] = logits[1].round()  # many equal ones
    logits[2, ::2] = float("-inf")
    probabilities = torch.softmax(logits, dim=-1)
    ordered, order = probabilities.double().sort(dim=-1, descending=True, stable=True)
    before = ordered.cumsum(-1) - ordered
    whole = ordered.sum(-1, keepdim=True)
    found = fewest_that_reach(probabilities, p).gather(1, order)
    counts = found.sum(-1, keepdim=True)
    assert torch.equal(found, torch.arange(1000) < counts), (
        "the most likely, and the first of equals"
    )
    # They reach p, and without the last of them would not, within what rounding leaves open.
    assert (before.gather(1, counts - 1) < p * whole + 1e-7).all()
    assert ((before + ordered).gather(1, counts - 1) >= p * whole - 1e-7).all()


def test_of_equal_logits_k_are_kept():
    logits = torch.tensor([3.0, 1.0, 1.0, 1.0, 0.0, 1.0])
    drawn = drawn_frequencies(logits, Sampling(top_k=3))
    assert int((drawn > 0).sum()) == 3
    assert drawn[0] > 0 and drawn[4] == 0


@pytest.mark.parametrize("size", [1, 13, 128, 384, 1000, 4096])
@pytest.mark.parametrize("numbers", ["of seeds", "in a row"])
def test_frequencies_are_those_of_the_softmax_whatever_the_blocks(size, numbers):
    """Pearson's statistic is near the number of tokens that are counted, less one."""
    logits = torch.randn(1, size, generator=torch.Generator().manual_seed(size))
    expected = torch.softmax(logits.double(), dim=-1)[0]
    counts, rounds, rows = torch.zeros(size), 10, 10_000
    for start in range(rounds):
        own = noise(rows, seed=start)
        if numbers == "in a row":  # the worst that a generator of numbers could give
            own = torch.arange(rows) + start * rows
        drawn = draw_token(logits.expand(rows, -1), own, Sampling())
        counts += torch.bincount(drawn, minlength=size)
    expected *= rounds * rows
    enough = expected > 5
    statistic = ((counts - expected)[enough] ** 2 / expected[enough]).sum()
    freedom = max(1, int(enough.sum()) - 1)
    assert statistic < freedom + 5 * (2 * freedom) ** 0.5
    assert counts.sum() == rounds * rows


def test_what_is_drawn_in_one_row_says_nothing_of_another_one():
    logits = torch.zeros(1, 256)
    drawn = draw_token(logits.expand(100_000, -1), torch.arange(100_000), Sampling())
    pairs = torch.bincount(256 * (drawn[::2] // 16) // 16 + drawn[1::2] // 16, minlength=256)
    expected = 50_000 / 256
    assert ((pairs[:256] - expected) ** 2 / expected).sum() < 255 + 5 * 510**0.5


def test_what_logits_are_rounded_to_hardly_ever_matters():
    """On one line from 0 to 1 with 8,192 tokens on it 61 of these 4,096 rows are others."""
    logits = 2 * torch.randn(512, 8192, generator=torch.Generator().manual_seed(0))
    other = logits + 1e-4 * torch.randn(512, 8192, generator=torch.Generator().manual_seed(1))
    different = 0
    for seed in range(8):
        first, second = (draw_token(x, noise(512, seed=seed), Sampling()) for x in (logits, other))
        different += int((first != second).sum())
    assert different <= 2


def test_temperature_zero_is_argmax_whatever_the_rest(logits):
    sampling = Sampling(temperature=0.0, top_k=5, top_p=0.9)
    assert drawn_frequencies(logits, sampling)[logits.argmax()] == 1.0


def test_a_token_without_probability_is_never_drawn():
    logits = torch.tensor([[float("-inf"), 0.0, float("-inf"), 0.0, float("-inf")]])
    drawn = draw_token(logits.expand(10_000, -1), noise(10_000), Sampling())
    assert set(drawn.tolist()) == {1, 3}
    alone = torch.full((1, 1000), float("-inf"))
    alone[0, 999] = 0.0
    assert (draw_token(alone.expand(1000, -1), noise(1000), Sampling()) == 999).all()


def test_guidance_one_is_the_conditional_and_zero_the_null():
    a, b = torch.randn(2, 1, 4, generator=torch.Generator().manual_seed(0)).unbind(0)
    torch.testing.assert_close(guide(a, b, 1.0), a)
    torch.testing.assert_close(guide(a, b, 0.0), b)
    torch.testing.assert_close(guide(a, b, 3.0), b + 3 * (a - b))


def test_noise_depends_on_its_own_seed_alone():
    together = noise_table([5, 6, 2**62], 10)
    assert torch.equal(together[:, 1:2], noise_table([6], 10))
    assert torch.equal(together[:4], noise_table([5, 6, 2**62], 4))
    assert (together >= 0).all() and len(together.unique()) == 30


@pytest.mark.parametrize(
    "wrong",
    [{"temperature": -1.0}, {"top_k": 0}, {"top_p": 0.0}, {"top_p": 1.5}, {"guidance": -0.1}],
)
def test_impossible_settings_are_refused(wrong):
    name = next(iter(wrong))
    with pytest.raises(InputError, match=f"{name} is"):
        Sampling(**wrong)
