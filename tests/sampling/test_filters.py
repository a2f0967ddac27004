"""Filters against brute force, and the inverse of a distribution against its frequencies."""

import pytest
import torch

from dalle.errors import InputError
from dalle.sampling.filters import Sampling, draw_token, fewest_that_reach, guide, uniform_table


def drawn_frequencies(logits, sampling, count=20_000):
    uniform = (torch.arange(count) + 0.5) / count
    tokens = draw_token(logits.expand(count, -1), uniform, sampling)
    return torch.bincount(tokens, minlength=logits.numel()) / count


@pytest.fixture
def logits():
    return torch.randn(9, generator=torch.Generator().manual_seed(3)) * 2


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_unfiltered_frequencies_are_the_softmax(logits, temperature):
    expected = torch.softmax(logits / temperature, dim=0)
    drawn = drawn_frequencies(logits, Sampling(temperature=temperature))
    torch.testing.assert_close(drawn, expected, atol=2e-4, rtol=0)


def test_top_k_keeps_the_k_most_likely_in_proportion(logits):
    kept = logits.topk(3).indices
    expected = torch.zeros(9)
    expected[kept] = torch.softmax(logits[kept], dim=0)
    torch.testing.assert_close(
        drawn_frequencies(logits, Sampling(top_k=3)), expected, atol=2e-4, rtol=0
    )


def test_top_p_keeps_the_fewest_that_reach_p(logits):
    probabilities, order = torch.softmax(logits, dim=0).sort(descending=True)
    for p in (0.05, 0.6, 0.9, 1.0):
        count = int((probabilities.cumsum(0) < p - 1e-6).sum()) + 1
        expected = torch.zeros(9)
        expected[order[:count]] = probabilities[:count] / probabilities[:count].sum()
        drawn = drawn_frequencies(logits, Sampling(top_p=p))
        torch.testing.assert_close(drawn, expected, atol=2e-4, rtol=0)


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


@pytest.mark.parametrize("size", [1, 13, 128, 384, 1000, 8192])
def test_searching_by_blocks_finds_what_one_sum_over_all_would(size):
    logits = torch.randn(1, size, generator=torch.Generator().manual_seed(size)) * 3
    uniform = torch.rand(500, generator=torch.Generator().manual_seed(2))
    upto = torch.softmax(logits.double(), dim=-1).cumsum(-1)
    expected = torch.searchsorted(upto[0], uniform.double() * upto[0, -1], right=True)
    drawn = draw_token(logits.expand(500, -1), uniform, Sampling())
    edges = torch.cat([torch.zeros(1, dtype=torch.double), upto[0] / upto[0, -1]])
    near_an_edge = (uniform.double()[:, None] - edges).abs().min(dim=1).values < 1e-6
    assert torch.equal(drawn[~near_an_edge], expected[~near_an_edge])
    assert (drawn - expected).abs().max() <= 1
    assert near_an_edge.sum() < 50


def test_temperature_zero_is_argmax_whatever_the_rest(logits):
    sampling = Sampling(temperature=0.0, top_k=5, top_p=0.9)
    assert drawn_frequencies(logits, sampling)[logits.argmax()] == 1.0


def test_a_token_without_probability_is_never_drawn():
    logits = torch.tensor([[float("-inf"), 0.0, float("-inf"), 0.0, float("-inf")]])
    for u in (0.0, 0.25, 0.5, 0.75, 1.0 - 2**-24):
        assert draw_token(logits, torch.tensor([u]), Sampling()).item() in (1, 3)


def test_guidance_one_is_the_conditional_and_zero_the_null():
    a, b = torch.randn(2, 1, 4, generator=torch.Generator().manual_seed(0)).unbind(0)
    torch.testing.assert_close(guide(a, b, 1.0), a)
    torch.testing.assert_close(guide(a, b, 0.0), b)
    torch.testing.assert_close(guide(a, b, 3.0), b + 3 * (a - b))


def test_uniform_numbers_depend_on_their_own_seed_alone():
    together = uniform_table([5, 6, 2**62], 10)
    assert torch.equal(together[:, 1:2], uniform_table([6], 10))
    assert torch.equal(together[:4], uniform_table([5, 6, 2**62], 4))


@pytest.mark.parametrize(
    "wrong",
    [{"temperature": -1.0}, {"top_k": 0}, {"top_p": 0.0}, {"top_p": 1.5}, {"guidance": -0.1}],
)
def test_impossible_settings_are_refused(wrong):
    name = next(iter(wrong))
    with pytest.raises(InputError, match=f"{name} is"):
        Sampling(**wrong)
