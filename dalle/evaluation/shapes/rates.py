"""How many generated pictures show what their prompts say, on the built-in captioned shapes.

Every number stands beside two others: the chance level, what perfect pictures of other prompts of
the same set would get; and the shuffled control, the same pictures held against other prompts of
the set, which must fall to chance.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from random import Random

import numpy as np
from jaxtyping import Float, Int, UInt8
from numpy import ndarray
from PIL import Image
from torch import Tensor

from dalle.data.shapes.judge import Verdict, judge, perfect_reading
from dalle.data.shapes.reader import Reading, read_scene
from dalle.data.shapes.scene import (
    Scene,
)
from dalle.errors import InputError

ATTRIBUTES = ("count", "shape", "colour", "size", "place", "all")
_SHIFTS = 16

Pictures = Float[Tensor, "_ 3 side side"] | Sequence[UInt8[ndarray, "side side 3"] | Image.Image]
"""In [0, 1] as a tensor; or arrays or images one by one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rates:
    """Shares of pictures with an attribute right, 0 to 1, and their standard errors."""

    num: int
    """Prompts."""
    right: dict[str, float]
    """By attribute, and "all" for every attribute together."""
    errors: dict[str, float]


def read_all(pictures: Pictures) -> list[Reading]:
    """Read pictures one by one; a tensor is rounded to 8 bits first."""
    if isinstance(pictures, Tensor):
        bytes_ = pictures.detach().float().clamp(0, 1).mul(255).round().byte()
        pictures = list(bytes_.permute(0, 2, 3, 1).contiguous().cpu().numpy())
    return [read_scene(picture) for picture in pictures]


def rates(scenes: Sequence[Scene], readings: Sequence[Reading]) -> Rates:
    """Shares of readings that agree with their scenes, with binomial standard errors.

    Raises:
        InputError: there are none, or not as many of the one as of the other.
    """
    if len(scenes) != len(readings) or not scenes:
        raise InputError(
            f"{len(readings)} pictures for {len(scenes)} prompts; expected one for each"
        )
    table = _table(judge(s, r) for s, r in zip(scenes, readings, strict=True))
    return _rates(table[:, None])


def candidate_rates(scenes: Sequence[Scene], readings: Sequence[Reading]) -> Rates:
    """The same over several pictures per prompt, prompt by prompt in `readings`.

    The standard error is that of the mean over prompts of each prompt's share: candidates of one
    prompt tend to be right or wrong together.
    """
    num = _num_candidates(len(scenes), len(readings))
    asked = [scene for scene in scenes for _ in range(num)]
    table = _table(judge(s, r) for s, r in zip(asked, readings, strict=True))
    return _rates(table.reshape(len(scenes), num, len(ATTRIBUTES)))


def chance(scenes: Sequence[Scene]) -> Rates:
    """What perfect pictures get when each is held against another prompt of the same set.

    The mean over up to 16 cyclic shifts of the set. The standard errors are those of one shift,
    which is what a shuffled control has.

    Raises:
        InputError: there are fewer than two prompts.
    """
    shifts = range(1, min(len(scenes), _SHIFTS + 1))
    if not shifts:
        raise InputError(f"{len(scenes)} prompts cannot be shuffled; give at least two")
    perfect = [perfect_reading(scene) for scene in scenes]
    tables = [
        _table(judge(scenes[i], perfect[i - shift]) for i in range(len(scenes))) for shift in shifts
    ]
    return _rates(np.concatenate(tables)[:, None], num=len(scenes))


def shuffled(scenes: Sequence[Scene], readings: Sequence[Reading], *, seed: int) -> Rates:
    """The rates of the same pictures with the prompts shuffled, none left with its own.

    Raises:
        InputError: there are fewer than two prompts, or not as many pictures.
    """
    if len(scenes) < 2:
        raise InputError(f"{len(scenes)} prompts cannot be shuffled; give at least two")
    order = list(range(len(scenes)))
    Random(f"shuffled {seed}").shuffle(order)
    other = dict(zip(order, order[1:] + order[:1], strict=True))  # one cycle through all
    return rates([scenes[other[i]] for i in range(len(scenes))], readings)


def at_chance(control: Rates, level: Rates) -> bool:
    """Whether no share of a shuffled control is more than four standard errors above chance.

    Below is allowed: what is wrong or unclear in the pictures can only take away. Four, not
    three: a demo compares dozens of shares. What never happens by chance may happen a few times.
    """
    return all(
        control.right[name] <= level.right[name] + 4 * math.hypot(level.errors[name], 1 / level.num)
        for name in ATTRIBUTES
    )


def best_of(
    readings: Sequence[Reading], scores: Float[ndarray, "prompts candidates"]
) -> list[Reading]:
    """The candidate with the highest score of each prompt, from readings prompt by prompt.

    Raises:
        InputError: there is not one reading for each score, or a score is not a number.
    """
    if len(readings) != scores.size:
        raise InputError(f"{len(readings)} pictures and {scores.size} scores; expected as many")
    if not np.isfinite(scores).all():
        raise InputError("a score is infinite or not a number; pictures cannot be ranked by it")
    chosen: Int[ndarray, " prompts"] = scores.argmax(axis=1)
    return [readings[i * scores.shape[1] + int(best)] for i, best in enumerate(chosen)]


def _num_candidates(prompts: int, pictures: int) -> int:
    if prompts == 0 or pictures == 0 or pictures % prompts:
        raise InputError(f"{pictures} pictures for {prompts} prompts; expected as many for each")
    return pictures // prompts


def _table(verdicts: Iterable[Verdict]) -> Float[ndarray, "pictures attributes"]:
    return np.array([[getattr(v, name) for name in ATTRIBUTES] for v in verdicts], dtype=float)


def _rates(table: Float[ndarray, "prompts candidates attributes"], num: int = 0) -> Rates:
    """Means, and standard errors over `num` prompts; 0: as many as the table has."""
    num = num or len(table)
    means = table.mean(axis=(0, 1))
    deviations = table.mean(axis=1).std(axis=0) / math.sqrt(num)
    return Rates(
        num=num,
        right=dict(zip(ATTRIBUTES, means.tolist(), strict=True)),
        errors=dict(zip(ATTRIBUTES, deviations.tolist(), strict=True)),
    )
