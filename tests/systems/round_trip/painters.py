"""Painters of captions of the built-in pictures, and what compares them, without any model."""

from collections.abc import Sequence
from random import Random

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from benchmarks.round_trip import told_wrong
from dalle.data.shapes import draw, parse_caption


class ScenePainter:
    """Paints what a caption says, or, in a share of the cases, something else."""

    def __init__(self, errors: float = 0.0) -> None:
        self.errors = errors
        self.painted: list[str] = []

    def generate(
        self, texts: Sequence[str], *, num_pictures: int, seed: int
    ) -> list[list[Image.Image]]:
        """Pictures of 32 pixels; picture i of a text depends on the text and `seed + i`."""
        self.painted += texts
        return [[self._paint(text, seed + i) for i in range(num_pictures)] for text in texts]

    def _paint(self, text: str, seed: int) -> Image.Image:
        random = Random(f"{text} {seed}")
        scene = parse_caption(text)
        if random.random() < self.errors:
            scene = told_wrong(scene, random, how_many=random.randint(1, 4))
        return Image.fromarray(draw(scene, random, size=32))


class PlainSimilarity:
    """Pictures by the pixels of small copies, texts by the words that they share."""

    def images(self, image: Image.Image, others: Sequence[Image.Image]) -> Float[Tensor, " n"]:
        """Minus the mean squared difference."""
        first = _small(image)
        return torch.tensor([-float(np.square(first - _small(other)).mean()) for other in others])

    def texts(self, text: str, others: Sequence[str]) -> Float[Tensor, " n"]:
        """The share of all words that both have."""
        words = set(text.split())
        return torch.tensor(
            [len(words & set(o.split())) / len(words | set(o.split())) for o in others]
        )


def _small(image: Image.Image) -> np.ndarray:
    resized = image.resize((8, 8), Image.Resampling.BOX)
    return np.asarray(resized, dtype=np.float64) / 255
