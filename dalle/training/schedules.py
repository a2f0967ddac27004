"""Numbers that change over a run: pure functions of the step and of the run's length."""

import math
from dataclasses import dataclass

from dalle.errors import ConfigError


def cosine(start: float, end: float, progress: float) -> float:
    """Half a cosine from `start` (progress 0) to `end` (progress 1), held outside."""
    within = min(1.0, max(0.0, progress))
    return end + (start - end) * 0.5 * (1.0 + math.cos(math.pi * within))


def _check_fraction(name: str, value: float) -> None:
    if not 0.0 < value <= 1.0:
        raise ConfigError(f"{name} is {value}; expected a share of the run, above 0 and at most 1")


@dataclass(frozen=True, kw_only=True, slots=True)
class Constant:
    """The peak, always."""

    def __call__(self, step: int, steps: int) -> float:
        """The factor of update number `step` (from 0) of `steps`."""
        return 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class WarmupCosine:
    """A linear rise over the first updates, then a cosine down to a last factor.

    With warmup 0, fraction 0.4 and final 1 / 80 it is the discrete VAE's published schedule: 1e-4
    to 1.25e-6 over 1,200,000 of 3,000,000 updates (arXiv 2102.12092, appendix A.2).
    """

    warmup: int = 0
    """Updates."""
    fraction: float = 1.0
    """Share of the run after which `final` is reached and held."""
    final: float = 0.0

    def __post_init__(self) -> None:
        _check_fraction("fraction", self.fraction)
        if self.warmup < 0 or not 0.0 <= self.final <= 1.0:
            raise ConfigError(
                f"warmup is {self.warmup}, final {self.final}; expected updates of 0 or more and "
                "a factor of 0 ... 1"
            )

    def __call__(self, step: int, steps: int) -> float:
        """The factor of update number `step` (from 0) of `steps`."""
        rise = min(1.0, (step + 1) / self.warmup) if self.warmup else 1.0
        fall = max(1.0, steps * self.fraction - self.warmup)
        return rise * cosine(1.0, self.final, (step - self.warmup) / fall)


@dataclass(frozen=True, kw_only=True, slots=True)
class WarmupHalvings:
    """A linear rise over the first updates, then halved at stated shares of the run.

    The published transformer halved its step size on each of five plateaus, which were found by
    hand (arXiv 2102.12092, appendix B.2); the shares here are ours.
    """

    warmup: int = 5000
    halvings: tuple[float, ...] = (0.5, 0.65, 0.78, 0.88, 0.95)

    def __post_init__(self) -> None:
        if self.warmup < 0:
            raise ConfigError(f"warmup is {self.warmup}; expected a number of updates, 0 or more")
        for share in self.halvings:
            _check_fraction("a halving", share)

    def __call__(self, step: int, steps: int) -> float:
        """The factor of update number `step` (from 0) of `steps`."""
        rise = min(1.0, (step + 1) / self.warmup) if self.warmup else 1.0
        return rise * 0.5 ** sum(step >= share * steps for share in self.halvings)


Schedule = Constant | WarmupCosine | WarmupHalvings
