"""What a built-in picture shows: one thing somewhere, or two things and how they stand.

one thing                two things
position of nine         the relation of the first to the second
┌──────────────┐         ┌──────────────┐
│              │         │              │
│              │         │   ■      ○   │   "left of": things = (square, ring)
│ ▲            │         │              │
└──────────────┘         └──────────────┘
"bottom left"
"""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Literal, get_args

from dalle.errors import InputError

Shape = Literal["circle", "square", "triangle", "star", "ring", "cross"]
Colour = Literal["red", "orange", "yellow", "green", "cyan", "blue", "purple", "black"]
Size = Literal["small", "large"]
Position = Literal[
    "top left", "top", "top right", "left", "centre", "right", "bottom left", "bottom",
    "bottom right",
]  # fmt: skip
Relation = Literal["left of", "right of", "above", "below"]

SHAPES: tuple[Shape, ...] = get_args(Shape)
COLOURS: tuple[Colour, ...] = get_args(Colour)
SIZES: tuple[Size, ...] = get_args(Size)
POSITIONS: tuple[Position, ...] = get_args(Position)
"""Row by row, so that position p is row p // 3 and column p % 3."""
RELATIONS: tuple[Relation, ...] = get_args(Relation)

HELD_OUT: frozenset[tuple[Shape, Colour]] = frozenset(
    {
        ("circle", "green"),
        ("square", "purple"),
        ("triangle", "cyan"),
        ("star", "black"),
        ("ring", "blue"),
        ("cross", "red"),
    }
)
"""Pairs that no training picture shows: one colour of each shape, six different colours.

Yellow and orange are not among them. They are the nearest two: a small discrete VAE that never saw
a yellow ring decodes it as an orange one, and what is to be measured is how prompts are composed.
"""

_OPPOSITE: dict[Relation, Relation] = {
    "left of": "right of",
    "right of": "left of",
    "above": "below",
    "below": "above",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Thing:
    """One object of a picture."""

    shape: Shape
    colour: Colour
    size: Size

    @property
    def held_out(self) -> bool:
        """Whether no training picture shows this shape in this colour."""
        return (self.shape, self.colour) in HELD_OUT


@dataclass(frozen=True, kw_only=True, slots=True)
class Scene:
    """One thing with a position, or two with the relation of the first to the second."""

    things: tuple[Thing, ...]
    position: Position | None = None
    """Of one thing; None where there are two."""
    relation: Relation | None = None
    """Of `things[0]` to `things[1]`; None where there is one thing."""

    def __post_init__(self) -> None:
        wants_position, wants_relation = len(self.things) == 1, len(self.things) == 2
        if not (wants_position or wants_relation):
            raise InputError(f"a scene with {len(self.things)} things; it holds one or two")
        if (self.position is not None) != wants_position:
            raise InputError(
                f"a scene of {len(self.things)} with position {self.position!r}; one thing has "
                "a position, two have a relation"
            )
        if (self.relation is not None) != wants_relation:
            raise InputError(
                f"a scene of {len(self.things)} with relation {self.relation!r}; two things have "
                "a relation, one has a position"
            )

    @property
    def held_out(self) -> bool:
        """Whether any of its things is a held-out pair."""
        return any(thing.held_out for thing in self.things)

    @property
    def turned(self) -> "Scene":
        """The same picture told from the other thing; a scene of one thing as it is."""
        if self.relation is None:
            return self
        return Scene(things=self.things[::-1], relation=_OPPOSITE[self.relation])

    @property
    def canonical(self) -> "Scene":
        """The telling that starts at the left or at the top: equal for equal pictures."""
        return self.turned if self.relation in ("right of", "below") else self


def random_scene(random: Random, *, held_out: bool, num_things: int) -> Scene:
    """Draw a scene: every attribute uniform among what is allowed, two things never alike.

    Args:
        random: where the choice comes from.
        held_out: False: every pair of shape and colour is one that training shows. True: exactly
            one thing, the first or the second, is a held-out pair.
        num_things: 1 or 2.

    Raises:
        InputError: `num_things` is neither 1 nor 2.
    """
    if num_things == 1:
        thing = _random_thing(random, held_out=held_out)
        return Scene(things=(thing,), position=random.choice(POSITIONS))
    if num_things != 2:
        raise InputError(f"num_things is {num_things}; a scene holds 1 or 2")
    which_held_out = random.randrange(2) if held_out else -1
    first = _random_thing(random, held_out=which_held_out == 0)
    second = _random_thing(random, held_out=which_held_out == 1)
    while second == first:  # "a red star left of a red star" would be odd to say
        second = _random_thing(random, held_out=which_held_out == 1)
    return Scene(things=(first, second), relation=random.choice(RELATIONS))


_SEEN_PAIRS: Sequence[tuple[Shape, Colour]] = tuple(
    (shape, colour) for shape in SHAPES for colour in COLOURS if (shape, colour) not in HELD_OUT
)
_HELD_OUT_PAIRS: Sequence[tuple[Shape, Colour]] = tuple(sorted(HELD_OUT))


def _random_thing(random: Random, *, held_out: bool) -> Thing:
    shape, colour = random.choice(_HELD_OUT_PAIRS if held_out else _SEEN_PAIRS)
    return Thing(shape=shape, colour=colour, size=random.choice(SIZES))
