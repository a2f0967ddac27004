"""The captions that a model is judged on, and the pictures that they were written of."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePath
from random import Random

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from dalle.data.order import permutation
from dalle.data.split import captions_at, key_at
from dalle.data.transforms import center_crop
from dalle.errors import DataError, InputError
from dalle.protocols import Sample, Source


@dataclass(frozen=True, kw_only=True, slots=True)
class CaptionedSet:
    """A choice of captions, each with its picture."""

    source: Source
    pictures: tuple[int, ...]
    """Their numbers in the source, each once."""
    captions: tuple[str, ...]
    picture_of: tuple[int, ...]
    """Of each caption, the place of its picture among `pictures`."""
    groups: tuple[str, ...]
    """Of each caption; shuffling and retrieval stay within one."""
    fingerprint: str
    """Of the captions and the names of their pictures, in their order."""

    def crop(self, place: int, size: tuple[int, int]) -> UInt8[np.ndarray, "height width 3"]:
        """The centre of a picture, as the models see pictures; size is (height, width).

        Raises:
            DataError: it cannot be read, or the source holds codes.
        """
        sample = self.source[self.pictures[place]]
        if not isinstance(sample, Sample):
            raise DataError(f"{sample.key} holds codes; evaluation needs pictures")
        return center_crop(sample.image, height=size[0], width=size[1])

    def crops(self, start: int, stop: int, size: tuple[int, int]) -> list[Image.Image]:
        """Those of some pictures in a row."""
        return [Image.fromarray(self.crop(i, size)) for i in range(start, stop)]


def choose(
    source: Source, *, num: int | None, seed: int = 0, by_folder: bool = False
) -> CaptionedSet:
    """Captions in an order that the seed gives: first one of each picture, then a second, ...

    Args:
        source: pictures without captions in it are passed over.
        num: how many captions; None: one of each picture.
        seed: another one chooses others.
        by_folder: whether the pictures of a folder are a group; otherwise all are one.

    Raises:
        InputError: there are fewer captions.
    """
    chosen: list[tuple[int, str]] = []
    for index, caption in _in_order(source, seed=seed, rounds=1 if num is None else None):
        if num is not None and len(chosen) == num:
            break
        chosen.append((index, caption))
    if not chosen or (num is not None and len(chosen) < num):
        raise InputError(
            f"{len(chosen)} captions were found; expected {num or 'at least one'}: lower "
            "--captions, or give more pictures with captions"
        )
    pictures = tuple(dict.fromkeys(index for index, _ in chosen))
    place = {index: i for i, index in enumerate(pictures)}
    keys = {index: key_at(source, index) for index in pictures}
    digest = hashlib.sha256()
    for index, caption in chosen:
        # The name alone: the same data set may lie elsewhere.
        digest.update(f"{PurePath(keys[index]).name}\n{caption}\n".encode("utf-8", "replace"))
    return CaptionedSet(
        source=source,
        pictures=pictures,
        captions=tuple(caption for _, caption in chosen),
        picture_of=tuple(place[index] for index, _ in chosen),
        groups=tuple(PurePath(keys[i]).parent.name if by_folder else "" for i, _ in chosen),
        fingerprint=digest.hexdigest()[:16],
    )


def _in_order(source: Source, *, seed: int, rounds: int | None) -> Iterator[tuple[int, str]]:
    """(index, caption), for as many rounds as there are, or fewer."""
    left = [int(i) for i in permutation(seed, 0, len(source))]
    done = 0
    while left and done != rounds:
        more = []
        for index in left:
            captions = list(captions_at(source, index))
            Random(f"captions {seed} {index}").shuffle(captions)
            if len(captions) > done:
                yield index, captions[done]
                more.append(index)
        left, done = more, done + 1


def shuffle_within(groups: tuple[str, ...], *, seed: int) -> list[int]:
    """For each item another one of its group (itself where it is alone), each used once."""
    members: dict[str, list[int]] = {}
    for index, group in enumerate(groups):
        members.setdefault(group, []).append(index)
    partner = list(range(len(groups)))
    for indices in members.values():
        order = indices.copy()
        Random(seed).shuffle(order)
        # Everyone takes the caption of the next one in the circle: nobody keeps their own.
        for here, there in zip(order, order[1:] + order[:1], strict=True):
            partner[here] = there
    return partner
