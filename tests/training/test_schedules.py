"""Schedules at the points that the paper states."""

from collections.abc import Callable

import pytest

from dalle.errors import ConfigError
from dalle.training.schedules import (
    Constant,
    Schedule,
    WarmupCosine,
    WarmupHalvings,
    cosine,
)


def test_cosine_starts_ends_and_is_held() -> None:
    assert [cosine(2.0, 4.0, p) for p in (-1, 0, 0.5, 1, 7)] == pytest.approx([2, 2, 3, 4, 4])


def test_published_step_size_of_the_discrete_vae() -> None:
    schedule = WarmupCosine(fraction=0.4, final=1.25e-6 / 1e-4)
    at = {step: 1e-4 * schedule(step, 3_000_000) for step in (0, 600_000, 1_200_000, 2_999_999)}
    assert at[0] == pytest.approx(1e-4)
    assert at[600_000] == pytest.approx((1e-4 + 1.25e-6) / 2)
    assert at[1_200_000] == at[2_999_999] == pytest.approx(1.25e-6)


def test_published_step_size_of_the_transformer() -> None:
    schedule = WarmupHalvings()
    assert 4.5e-4 * schedule(0, 430_000) == pytest.approx(4.5e-4 / 5000)
    assert 4.5e-4 * schedule(4999, 430_000) == pytest.approx(4.5e-4)
    assert 4.5e-4 * schedule(429_999, 430_000) == pytest.approx(1.40625e-5)
    halvings = {schedule(step, 430_000) for step in range(5000, 430_000, 100)}
    assert halvings == {2.0**-n for n in range(6)}


def test_warmup_rises_by_equal_steps_to_the_peak_and_falls_to_the_end() -> None:
    schedule = WarmupCosine(warmup=4, final=0.1)
    factors = [schedule(step, 104) for step in range(104)]
    assert factors[:5] == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0])
    assert factors[4:] == sorted(factors[4:], reverse=True)
    assert factors[54] == pytest.approx(0.55) and factors[-1] == pytest.approx(0.1, abs=1e-3)
    assert Constant()(17, 20) == 1.0


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: WarmupCosine(fraction=0.0),
        lambda: WarmupCosine(warmup=-1),
        lambda: WarmupCosine(final=2.0),
        lambda: WarmupHalvings(halvings=(0.5, 1.5)),
        lambda: WarmupHalvings(warmup=-1),
    ],
)
def test_impossible_schedules_are_refused(wrong: Callable[[], Schedule]) -> None:
    with pytest.raises(ConfigError, match="expected"):
        wrong()
