"""How pictures are drawn to be judged, and which numbers may stand beside each other."""

import dataclasses
from dataclasses import dataclass
from typing import Any

from dalle.errors import ConfigError

BLUR = (0.0, 1.0, 2.0, 4.0, 8.0)
"""Radii in pixels. Source: arXiv 2102.12092, section 3.1 and figure 9."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Protocol:
    """What must be the same for two models to be compared."""

    name: str = "own"
    """Of a published protocol; "own" where anything differs from all of them."""
    captions: int | None = None
    """Pictures are drawn for so many; None: for one of each picture of the data set."""
    samples: int = 1
    """Pictures drawn for each caption, of which the ranker keeps one."""
    blur: tuple[float, ...] = BLUR
    """Radii of the Gaussian blur of both sides before a FID; 0 is none."""
    splits: int = 10
    """Parts of an Inception score."""
    seed: int = 0
    """Of the choice of captions, of shuffling, and of the pictures."""

    def __post_init__(self) -> None:
        for name in ("captions", "samples", "splits"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name} is {value}; expected at least 1")
        if self.captions is not None and self.captions < 2:
            raise ConfigError("captions is 1; expected at least 2, as there is no control with one")
        if 0.0 not in self.blur or min(self.blur) < 0:
            raise ConfigError(f"blur is {self.blur}; expected radii from 0 on, and 0 among them")

    @property
    def best_of(self) -> tuple[int, ...]:
        """1, 2, 4, ... `samples`: from how many pictures the best is taken."""
        powers = [1 << i for i in range(self.samples.bit_length()) if 1 << i < self.samples]
        return (*powers, self.samples)


PROTOCOLS = {
    "own": Protocol(),
    "coco": Protocol(name="coco", captions=30_000, samples=512),
    "coco-unranked": Protocol(name="coco-unranked", captions=30_000, samples=1),
}
"""The second is the paper's of its numbers on MS-COCO: best of 512, temperature 1 (arXiv
2102.12092, sections 2.6 and 3.1); the third is how later papers report zero-shot FID-30K."""


def protocol_of(name: str, **changes: Any) -> Protocol:
    """A protocol by name; with changes (None: none) it is nobody's but your own.

    Raises:
        ConfigError: a value is out of range.
    """
    base = PROTOCOLS[name]
    asked = {
        field: value
        for field, value in changes.items()
        if value is not None and value != getattr(base, field)
    }
    return dataclasses.replace(base, **asked, name="own") if asked else base
