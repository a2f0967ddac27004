"""Captions of scenes in plain English, and back.

Every caption says everything: shape, colour and size of each thing, and where it is. So a picture
can be judged by any of its captions. They have at most 15 words, all in lower case.
"""

import re
from collections.abc import Callable, Iterable
from random import Random
from typing import Any

from dalle.data.shapes.scene import COLOURS, SHAPES, Position, Relation, Scene, Size, Thing
from dalle.errors import InputError

_OPENINGS = ("", "there is ", "a picture of ", "the picture shows ")
_SIZES: dict[Size, tuple[str, ...]] = {
    "small": ("small", "little", "tiny"),
    "large": ("large", "big"),
}
_POSITIONS: dict[Position, tuple[str, ...]] = {
    "top left": ("at the top left", "in the top left corner"),
    "top": ("at the top", "at the top in the middle"),
    "top right": ("at the top right", "in the top right corner"),
    "left": ("on the left", "on the left side"),
    "centre": ("in the middle", "in the centre"),
    "right": ("on the right", "on the right side"),
    "bottom left": ("at the bottom left", "in the bottom left corner"),
    "bottom": ("at the bottom", "at the bottom in the middle"),
    "bottom right": ("at the bottom right", "in the bottom right corner"),
}
_RELATIONS: dict[Relation, tuple[str, ...]] = {
    "left of": ("to the left of", "left of"),
    "right of": ("to the right of", "right of"),
    "above": ("above", "over"),
    "below": ("below", "under"),
}


def plain_caption(scene: Scene) -> str:
    """The plainest way to say a scene: no opening, first words, things in their order."""
    return _compose(scene, lambda words: words[0])


def caption(scene: Scene, random: Random) -> str:
    """One of the ways to say a scene: opening, words, and which of two things comes first."""
    return _compose(random.choice((scene, scene.turned)), random.choice)


def captions(scene: Scene, random: Random, *, num: int = 8) -> tuple[str, ...]:
    """Up to `num` different ways to say a scene, in random order; at least one."""
    return tuple(dict.fromkeys(caption(scene, random) for _ in range(num)))


def all_captions(scene: Scene) -> list[str]:
    """Every way to say a scene: 16 to 24 for one thing, 64 to 144 for two."""
    found = []
    for told in dict.fromkeys((scene, scene.turned)):
        paths: list[tuple[int, ...]] = [()]
        while paths:  # each path is the words taken so far; the rest are the first ones
            path = paths.pop()
            choices: list[int] = []
            found.append(_compose(told, _Follow(path, choices)))
            for place in range(len(path), len(choices)):
                taken = path + (0,) * (place - len(path))
                paths += [(*taken, other) for other in range(1, choices[place])]
    return found


class _Follow:
    """Takes the words that a path says, then the first ones; notes how many there were."""

    def __init__(self, path: tuple[int, ...], choices: list[int]) -> None:
        self.path, self.choices = path, choices

    def __call__(self, words: tuple[str, ...]) -> str:
        place = len(self.choices)
        self.choices.append(len(words))
        return words[self.path[place]] if place < len(self.path) else words[0]


def _compose(scene: Scene, choose: Callable[[tuple[str, ...]], str]) -> str:
    words = [choose(_OPENINGS) + _name(scene.things[0], choose)]
    if scene.position is not None:
        words.append(choose(_POSITIONS[scene.position]))
    if scene.relation is not None:
        words += [choose(_RELATIONS[scene.relation]), _name(scene.things[1], choose)]
    return " ".join(words)


def _name(thing: Thing, choose: Callable[[tuple[str, ...]], str]) -> str:
    return f"a {choose(_SIZES[thing.size])} {thing.colour} {thing.shape}"


def parse_caption(text: str) -> Scene:
    """The scene that a caption says, with the things in the order of the caption.

    Args:
        text: phrased as `caption` does, in any case of letters and with any spaces.

    Raises:
        InputError: the text is phrased in another way.
    """
    match = _CAPTION.fullmatch(" ".join(text.lower().split()))
    if match is None:
        raise InputError(
            f"{text[:200]!r} is not phrased as the captions of dalle.data.shapes are; one such is "
            "'a small red circle to the left of a large blue ring'"
        )
    groups: tuple[Any, ...] = match.groups()
    size, colour, shape, position, relation, *second = groups
    things = [Thing(shape=shape, colour=colour, size=_MEANING[size])]
    if position is not None:
        return Scene(things=tuple(things), position=_MEANING[position])
    things.append(Thing(shape=second[2], colour=second[1], size=_MEANING[second[0]]))
    return Scene(things=tuple(things), relation=_MEANING[relation])


def _any(words: Iterable[str]) -> str:
    return "(" + "|".join(map(re.escape, words)) + ")"


def _meanings() -> dict[str, Any]:
    tables: tuple[dict[Any, tuple[str, ...]], ...] = (_SIZES, _POSITIONS, _RELATIONS)
    return {word: meaning for table in tables for meaning, words in table.items() for word in words}


def _pattern() -> re.Pattern[str]:
    def said(table: dict[Any, tuple[str, ...]]) -> str:
        return _any([word for words in table.values() for word in words])

    thing = f"a {said(_SIZES)} {_any(COLOURS)} {_any(SHAPES)}"
    opening = _any(_OPENINGS).replace("(", "(?:", 1)
    where = f"{said(_POSITIONS)}|{said(_RELATIONS)} {thing}"
    return re.compile(f"{opening}{thing} (?:{where})")


_MEANING = _meanings()
_CAPTION = _pattern()
