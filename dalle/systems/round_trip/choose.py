"""The caption that reproduces a picture best, and the picture that carries a text best.

    choose_caption                          choose_picture
    picture ─captioner─▶ captions           text ─generator─▶ pictures
    caption ─generator─▶ pictures again     picture ─captioner─▶ captions again
    the most alike to the picture wins      the most alike to the text wins

Source: arXiv 2212.12249, section 3: the selection framework of its first version.
"""

import math
import unicodedata
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from dalle.errors import InputError
from dalle.sampling.rerank import rank
from dalle.systems.round_trip.parts import Captioner, CaptionScorer, Generator, Similarity

NUM_CANDIDATES = 10
"""As published."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CaptionCandidate:
    """A caption, and what was painted of it."""

    text: str
    times: int
    """How often it was written, spelled in this way or alike."""
    similarities: tuple[float, ...]
    """Of each picture to the given one; of a score without pictures, that alone."""
    pictures: tuple[Image.Image, ...]
    """Picture i has the seed `seed + i`, for every candidate the same; may be none."""

    @property
    def score(self) -> float:
        """The mean of the similarities."""
        return math.fsum(self.similarities) / len(self.similarities)


@dataclass(frozen=True, kw_only=True, slots=True)
class PictureCandidate:
    """A picture, and what was written of it."""

    image: Image.Image
    seed: int
    times: int
    """How often it was drawn, pixel for pixel."""
    similarities: tuple[float, ...]
    """Of each caption to the given text."""
    captions: tuple[str, ...]

    @property
    def score(self) -> float:
        """The mean of the similarities."""
        return math.fsum(self.similarities) / len(self.similarities)


C = TypeVar("C", CaptionCandidate, PictureCandidate)


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice(Generic[C]):
    """The candidates, and their order."""

    candidates: tuple[C, ...]
    """Different ones, in the order in which they came."""
    ranking: tuple[int, ...]
    """Their numbers, the best first; of equals, what came first."""

    @property
    def best(self) -> C:
        """The chosen one."""
        return self.candidates[self.ranking[0]]


def choose_caption(
    image: Image.Image,
    *,
    captioner: Captioner,
    generator: Generator,
    similarity: Similarity,
    num_candidates: int = NUM_CANDIDATES,
    num_pictures: int = 1,
    seed: int = 0,
) -> Choice[CaptionCandidate]:
    """Caption a picture, paint the captions, and take the one whose pictures are most alike.

    Args:
        image: RGB.
        captioner: writes the candidates; what it writes twice is painted once.
        generator: paints them, all with the same seeds.
        similarity: of pictures.
        num_candidates: captions to be written.
        num_pictures: of each caption; their similarities are averaged.
        seed: of the captions, and of the first picture of each.

    Raises:
        InputError: a number is below 1, or a similarity is not finite.
    """
    texts = _written(image, captioner, num_candidates, seed)
    _at_least_one("num_pictures", num_pictures)
    painted = generator.generate(list(texts), num_pictures=num_pictures, seed=seed)
    flat = [picture for pictures in painted for picture in pictures]
    scores = _finite(similarity.images(image, flat), num_pictures)
    return _chosen(
        [
            CaptionCandidate(text=text, times=times, similarities=alike, pictures=tuple(pictures))
            for (text, times), alike, pictures in zip(texts.items(), scores, painted, strict=True)
        ]
    )


def choose_caption_by_score(
    image: Image.Image,
    *,
    captioner: Captioner,
    scorer: CaptionScorer,
    num_candidates: int = NUM_CANDIDATES,
    seed: int = 0,
) -> Choice[CaptionCandidate]:
    """As `choose_caption`, by a score that needs no painting, such as ln p(picture | caption).

    Raises:
        InputError: `num_candidates` is below 1, or a score is not finite.
    """
    texts = _written(image, captioner, num_candidates, seed)
    scores = _finite(scorer.score(image, list(texts)), 1)
    return _chosen(
        [
            CaptionCandidate(text=text, times=times, similarities=score, pictures=())
            for (text, times), score in zip(texts.items(), scores, strict=True)
        ]
    )


def choose_picture(
    text: str,
    *,
    generator: Generator,
    captioner: Captioner,
    similarity: Similarity,
    num_candidates: int = NUM_CANDIDATES,
    num_captions: int = 1,
    seed: int = 0,
) -> Choice[PictureCandidate]:
    """Paint a text, caption the pictures, and take the one whose captions are most alike.

    Args:
        text: what is to be shown.
        generator: paints the candidates; equal pictures are captioned once.
        captioner: captions them, all with the same seed.
        similarity: of texts.
        num_candidates: pictures to be painted.
        num_captions: of each picture; their similarities are averaged.
        seed: of the first picture, and of the captions.

    Raises:
        InputError: a number is below 1, or a similarity is not finite.
    """
    _at_least_one("num_candidates", num_candidates)
    _at_least_one("num_captions", num_captions)
    [painted] = generator.generate([text], num_pictures=num_candidates, seed=seed)
    firsts = _counted(painted, key=lambda picture: (picture.size, picture.tobytes()))
    pictures = [painted[number] for number in firsts]
    written = captioner.caption(pictures, num_captions=num_captions, seed=seed)
    flat = [caption for captions in written for caption in captions]
    scores = _finite(similarity.texts(text, flat), num_captions)
    return _chosen(
        [
            PictureCandidate(
                image=painted[number],
                seed=seed + number,
                times=times,
                similarities=alike,
                captions=tuple(captions),
            )
            for (number, times), alike, captions in zip(
                firsts.items(), scores, written, strict=True
            )
        ]
    )


def normalised(caption: str) -> str:
    """What two captions have in common that differ in letters' case, spaces and stops only."""
    plain = unicodedata.normalize("NFKC", caption).casefold()
    return " ".join(plain.split()).rstrip(" .!,;:")


def different(captions: Sequence[str]) -> dict[str, int]:
    """The captions that are not alike, as they were first spelled, and how often each came."""
    firsts = _counted(captions, key=normalised)
    return {captions[number]: times for number, times in firsts.items()}


def _written(
    image: Image.Image, captioner: Captioner, num_candidates: int, seed: int
) -> dict[str, int]:
    _at_least_one("num_candidates", num_candidates)
    [captions] = captioner.caption([image], num_captions=num_candidates, seed=seed)
    return different(captions)


T = TypeVar("T")


def _counted(items: Sequence[T], *, key: Callable[[T], Hashable]) -> dict[int, int]:
    """The number of the first item of each key, and how many have it."""
    first_of: dict[Hashable, int] = {}
    times: dict[int, int] = {}
    for number, item in enumerate(items):
        first = first_of.setdefault(key(item), number)
        times[first] = times.get(first, 0) + 1
    return times


def _chosen(candidates: list[C]) -> Choice[C]:
    scores = torch.tensor([candidate.score for candidate in candidates], dtype=torch.float64)
    ranking = rank(scores, len(candidates)).tolist()
    return Choice(candidates=tuple(candidates), ranking=tuple(ranking))


def _finite(scores: Float[Tensor, " n"], group: int) -> list[tuple[float, ...]]:
    """Scores in groups of `group`."""
    values = [float(score) for score in scores.double().tolist()]
    if not all(map(math.isfinite, values)):
        raise InputError(
            "a similarity is infinite or not a number, so that nothing can be chosen by it; take "
            "another model to compare with"
        )
    return [tuple(values[i : i + group]) for i in range(0, len(values), group)]


def _at_least_one(name: str, number: int) -> None:
    if number < 1:
        raise InputError(f"{name} is {number}; expected at least 1")
