"""The reader of the built-in pictures proves itself before anything is judged by it."""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy import ndarray
from torch import Tensor

from dalle.data.shapes.draw import draw
from dalle.data.shapes.reader import Reading, read_scene
from dalle.data.shapes.scene import random_scene
from dalle.evaluation.shapes.rates import Rates, rates, read_all
from dalle.evaluation.shapes.report import GROUPS

_NUM_MEANINGLESS = 50
LEAST_DRAWN, LEAST_RECONSTRUCTED = 0.995, 0.98

Reconstruct = Callable[[Float[Tensor, "b 3 side side"]], Float[Tensor, "b 3 side side"]]


@dataclass(frozen=True, kw_only=True, slots=True)
class ReaderReport:
    """How often the reader was right."""

    drawn: dict[str, Rates]
    """Freshly drawn pictures, by group."""
    reconstructed: dict[str, Rates]
    """Their reconstructions, by group; empty without an image tokenizer."""
    unclear: dict[str, float]
    """Share of pictures called unclear, for each kind of noise and blank picture."""

    @property
    def passed(self) -> bool:
        """Right on 99.5 % of drawn and 98 % of reconstructed pictures, noise and blank unclear."""
        return (
            share_right(self.drawn) >= LEAST_DRAWN
            and (not self.reconstructed or share_right(self.reconstructed) >= LEAST_RECONSTRUCTED)
            and min(self.unclear.values()) == 1
        )

    def text(self) -> str:
        """A few lines for the terminal."""
        lines = []
        for name, groups, least in (
            ("drawn pictures", self.drawn, LEAST_DRAWN),
            ("reconstructions", self.reconstructed, LEAST_RECONSTRUCTED),
        ):
            if groups:
                parts = ", ".join(f"{k} {100 * v.right['all']:.1f}" for k, v in groups.items())
                lines.append(
                    f"reader right on {100 * share_right(groups):.2f} % of {name} "
                    f"(needed {100 * least:g} %): {parts}"
                )
        parts = ", ".join(f"{name} {100 * share:.1f} %" for name, share in self.unclear.items())
        return "\n".join([*lines, f"called unclear: {parts}"])


def share_right(groups: dict[str, Rates]) -> float:
    """Share of the pictures of all groups that are wholly right."""
    return sum(g.num * g.right["all"] for g in groups.values()) / sum(
        g.num for g in groups.values()
    )


def verify_reader(
    size: int, num: int, *, reconstruct: Reconstruct | None, seed: int = 0
) -> ReaderReport:
    """Read fresh pictures, their reconstructions, noise and blank ones.

    Args:
        size: side of the pictures in pixels.
        num: pictures in all, a quarter from each of the four groups; at least 4.
        reconstruct: images in [0, 1] through an image tokenizer and back, at most 64 at a time;
            None: there is none yet.
        seed: of the pictures.
    """
    drawn, reconstructed = {}, {}
    for name, held_out, num_things in GROUPS:
        random = Random(f"reader {seed} {name}")
        scenes = [
            random_scene(random, held_out=held_out, num_things=num_things)
            for _ in range(num // len(GROUPS))
        ]
        pictures = [draw(scene, random, size=size) for scene in scenes]
        drawn[name] = rates(scenes, read_all(pictures))
        if reconstruct is not None:
            reconstructed[name] = rates(scenes, _read_reconstructed(pictures, reconstruct))
    generator = np.random.default_rng(seed)
    unclear = {
        name: float(np.mean([not read_scene(picture).clear for picture in pictures]))
        for name, pictures in meaningless_pictures(size, _NUM_MEANINGLESS, generator).items()
    }
    return ReaderReport(drawn=drawn, reconstructed=reconstructed, unclear=unclear)


def _read_reconstructed(
    pictures: list[UInt8[ndarray, "side side 3"]], reconstruct: Reconstruct
) -> list[Reading]:
    readings = []
    for start in range(0, len(pictures), 64):
        batch = torch.from_numpy(np.stack(pictures[start : start + 64]))
        images = batch.permute(0, 3, 1, 2).float() / 255
        with torch.no_grad():
            readings += read_all(reconstruct(images))
    return readings


def meaningless_pictures(
    size: int, num: int, generator: np.random.Generator
) -> dict[str, list[UInt8[ndarray, "size size 3"]]]:
    """Pictures that show nothing: noise of several kinds, and blank ones in `num` shades."""
    cells = -(-size // 4)

    def bytes_(values: ndarray) -> UInt8[ndarray, "size size 3"]:
        return np.clip(values, 0, 255).astype(np.uint8)

    def coarse() -> ndarray:
        return generator.uniform(0, 256, (cells, cells, 3)).repeat(4, 0).repeat(4, 1)[:size, :size]

    def specks() -> ndarray:
        return np.where(generator.random((size, size, 1)) < 0.1, 0, 255) + np.zeros(3)

    return {
        "noise": [bytes_(generator.uniform(0, 256, (size, size, 3))) for _ in range(num)],
        "coarse noise": [bytes_(coarse()) for _ in range(num)],
        "noise on white": [
            bytes_(255 - abs(generator.normal(0, 60, (size, size, 3)))) for _ in range(num)
        ],
        "specks": [bytes_(specks()) for _ in range(num)],
        "white": [bytes_(np.full((size, size, 3), 255)) for _ in range(num)],
        "blank": [
            bytes_(np.broadcast_to(generator.uniform(0, 256, 3), (size, size, 3)))
            for _ in range(num)
        ],
    }
