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
    agree = [_agreements(asked.things[i], seen) for i, seen in enumerate(pairing)]
    shape, colour, size = (all(column) for column in zip(*agree, strict=True))
    count = reading.count == len(asked.things)
    return Verdict(
        count=count,
        shape=shape,
        colour=colour,
        size=size,
        place=count
        and (asked.position, asked.relation) == (reading.position, reading.relation)
        and pairing == list(reading.things),
    )


def _pair(asked: tuple[Thing, ...], seen: tuple[Seen, ...]) -> list[Seen | None]:
    """What is seen of each thing asked for; None where the picture has too few."""
    missing = [None] * (len(asked) - len(seen))
    best = max(  # the first of equals is the one in the order of the picture
        permutations([*seen, *missing], len(asked)),
        key=lambda pairing: sum(
            sum(_agreements(thing, found)) for thing, found in zip(asked, pairing, strict=True)
        ),
    )
    return list(best)


def _agreements(thing: Thing, seen: Seen | None) -> tuple[bool, bool, bool]:
    if seen is None:
        return False, False, False
    return thing.shape == seen.shape, thing.colour == seen.colour, thing.size == seen.size
