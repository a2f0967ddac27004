"""Whether a picture shows what was asked for, attribute by attribute."""

from dataclasses import dataclass
from itertools import permutations

from dalle.data.shapes.reader import Reading, Seen
from dalle.data.shapes.scene import Scene, Thing


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """What is right; what is unclear is not."""

    count: bool
    """As many things as asked for."""
    shape: bool
    """The shape of every thing that was asked for."""
    colour: bool
    size: bool
    place: bool
    """The position of one thing, the relation of two."""

    @property
    def all(self) -> bool:
        """Everything."""
        return self.count and self.shape and self.colour and self.size and self.place


def judge(scene: Scene, reading: Reading) -> Verdict:
    """Hold a reading against the scene that was asked for.

    The things of the scene are paired with things of the picture such that the most shapes,
    colours and sizes agree, and in their order where that leaves a choice. All attributes are
    judged under this one pairing: two things in each other's place have a wrong place, and
    nothing else is wrong.
    """
    asked = scene.canonical
    pairing = _pair(asked.things, reading.things)
    agree = [
        _agreements(thing, reading.things[number] if number is not None else None)
        for thing, number in zip(asked.things, pairing, strict=True)
    ]
    shape, colour, size = (all(column) for column in zip(*agree, strict=True))
    count = reading.count == len(asked.things)
    return Verdict(
        count=count,
        shape=shape,
        colour=colour,
        size=size,
        place=(asked.position, asked.relation) == (reading.position, reading.relation)
        and pairing == list(range(len(pairing))),
    )


def perfect_reading(scene: Scene) -> Reading:
    """The reading of a picture that shows a scene plainly; places within it are not filled in."""
    shown = scene.canonical
    nowhere = float("nan")
    things = tuple(
        Seen(shape=thing.shape, colour=thing.colour, size=thing.size, row=nowhere, col=nowhere)
        for thing in shown.things
    )
    return Reading(
        count=len(things), things=things, position=shown.position, relation=shown.relation
    )


def _pair(asked: tuple[Thing, ...], seen: tuple[Seen, ...]) -> list[int | None]:
    """The number in `seen` of each thing asked for; None where the picture has too few."""
    numbers: list[int | None] = [*range(len(seen)), *[None] * (len(asked) - len(seen))]
    best: list[int | None] = []
    most = -1
    for pairing in permutations(numbers, len(asked)):
        agreements = sum(
            sum(_agreements(thing, None if number is None else seen[number]))
            for thing, number in zip(asked, pairing, strict=True)
        )
        if agreements > most:  # the first of equals is the one in the order of the picture
            best, most = list(pairing), agreements
    return best


def _agreements(thing: Thing, seen: Seen | None) -> tuple[bool, bool, bool]:
    if seen is None:
        return False, False, False
    return thing.shape == seen.shape, thing.colour == seen.colour, thing.size == seen.size
