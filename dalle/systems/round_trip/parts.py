"""What a round trip takes: who writes captions, who paints them, and who compares."""

from collections.abc import Sequence
from typing import Protocol

from jaxtyping import Float
from PIL import Image
from torch import Tensor


class Captioner(Protocol):
    """Writes captions."""

    def caption(
        self, images: Sequence[Image.Image], *, num_captions: int, seed: int
    ) -> list[list[str]]:
        """`num_captions` of each picture, in the order of the pictures.

        A picture's captions are a function of the picture, the number and the seed.
        """
        ...


class Generator(Protocol):
    """Paints texts."""

    def generate(
        self, texts: Sequence[str], *, num_pictures: int, seed: int
    ) -> list[list[Image.Image]]:
        """`num_pictures` of each text, in the order of the texts.

        Picture i of a text is a function of the text and of `seed + i`.
        """
        ...


class Similarity(Protocol):
    """How alike two pictures are, or two texts; higher is more alike."""

    def images(self, image: Image.Image, others: Sequence[Image.Image]) -> Float[Tensor, " n"]:
        """Of a picture and each of the others, of any sizes."""
        ...

    def texts(self, text: str, others: Sequence[str]) -> Float[Tensor, " n"]:
        """Of a text and each of the others."""
        ...


class CaptionScorer(Protocol):
    """How well captions fit a picture, without painting them."""

    def score(self, image: Image.Image, captions: Sequence[str]) -> Float[Tensor, " n"]:
        """Of each caption; higher is better."""
        ...
