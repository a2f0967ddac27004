"""Tells from the pixels alone what a built-in picture shows.

Ground, then ink on it, then connected blots; of each blot the colour (the direction of its ink),
then the shape and radius (the best of many drawn candidates), then where it is. Nothing is
learned. What is not plain is None, "unclear".
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, UInt8
from numpy import ndarray
from PIL import Image

from dalle.data.shapes.draw import CELLS, RADIUS, RGB, SMALLEST_SIDE
from dalle.data.shapes.match import match_shape
from dalle.data.shapes.scene import (
    COLOURS,
    POSITIONS,
    Colour,
    Position,
    Relation,
    Scene,
    Shape,
    Size,
    Thing,
)
from dalle.data.shapes.segment import Parts, connected_parts
from dalle.errors import InputError

_DARKEST_GROUND = 0.75
_INKED = 0.4
"""Ink of a pixel that belongs to a blot: two large things stay apart at 32 pixels, blurred."""
_FAINT, _MOST_FAINT = 0.25, 0.05
"""Ink that the ground may not have on more than this share of the picture."""
_SPECK = 0.2
"""Blots below this part of the lightest thing that is drawn are not seen."""
_MOST_THINGS = 4
_LEAST_FIT, _LEAST_LEAD = 0.9, 0.002
_LEAST_PURITY, _LARGEST_COLOUR_ERROR = 0.6, 0.3
_LEAST_DEPTH = 0.55
"""Part of a colour's ink that the core of a blot must have: pink is not red."""
_BETWEEN_COLOURS = 0.15
"""A pixel is of another colour than its blot if that one explains it better by this much."""
_MIDDLE_RADIUS = (RADIUS["small"] * RADIUS["large"]) ** 0.5
_NEITHER_SIZE = 1.06
"""Radii within this factor of the middle one are neither small nor large."""
_CELL_REACH = 0.11
"""How far from the middle of its cell a thing may be; half-way to the next cell is 0.13."""
_LEAST_APART, _LEAST_SLANT = 0.25, 1.5
_INKS = 1 - np.array([RGB[colour] for colour in COLOURS], np.float32) / 255
"""What each colour takes away from white."""
_LIGHTEST = 0.9 * RADIUS["small"] ** 2
"""About the area of a small star, cross or ring, as a fraction of the picture's."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Seen:
    """A thing as read; None is "unclear"."""

    shape: Shape | None
    colour: Colour | None
    size: Size | None
    row: float
    """Of its middle, as a fraction of the side."""
    col: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """What a picture shows."""

    count: int | None
    """How many things; None where that is unclear: noise, no white ground, many blots."""
    things: tuple[Seen, ...]
    """From the left if they stand beside one another, else from the top."""
    position: Position | None
    """Of one thing."""
    relation: Relation | None
    """Of the first of two things to the second: "left of" or "above"."""

    @property
    def scene(self) -> Scene | None:
        """The scene, where one or two things, all their attributes and their place are plain."""
        things = []
        for seen in self.things:
            if seen.shape is None or seen.colour is None or seen.size is None:
                return None
            things.append(Thing(shape=seen.shape, colour=seen.colour, size=seen.size))
        if self.position is None and self.relation is None:
            return None
        return Scene(things=tuple(things), position=self.position, relation=self.relation)

    @property
    def clear(self) -> bool:
        """Whether the picture plainly shows a scene."""
        return self.scene is not None


_UNCLEAR = Reading(count=None, things=(), position=None, relation=None)


def read_scene(picture: UInt8[ndarray, "side side 3"] | Image.Image) -> Reading:
    """Tell what a picture shows.

    Args:
        picture: RGB, square, at least 32 pixels a side.

    Raises:
        InputError: the picture has another form.
    """
    pixels = _pixels(picture)
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    ground = np.median(border, axis=0)
    if ground.min() < _DARKEST_GROUND:
        return _UNCLEAR
    ink = 1 - pixels / ground
    depth = np.maximum(np.maximum(ink[..., 0], ink[..., 1]), ink[..., 2])
    parts = connected_parts(depth > _INKED, depth)
    num_things = int((parts.weights > _SPECK * _LIGHTEST * depth.size).sum())
    faint = ((depth > _FAINT) & ~_near(parts.labels >= 0)).mean()
    if num_things > _MOST_THINGS or faint > _MOST_FAINT:
        return _UNCLEAR
    return _arrange([_read_thing(ink, depth, parts, number) for number in range(num_things)])


def _pixels(picture: UInt8[ndarray, "side side 3"] | Image.Image) -> Float[ndarray, "side side 3"]:
    if isinstance(picture, Image.Image):
        picture = np.asarray(picture.convert("RGB"))
    if (
        picture.ndim != 3
        or picture.shape[0] != picture.shape[1]
        or picture.shape[2] != 3
        or len(picture) < SMALLEST_SIDE
        or picture.dtype != np.uint8
    ):
        raise InputError(
            f"a picture of shape {picture.shape} and type {picture.dtype}; the reader takes "
            f"square ones, rows by columns by 3, of uint8, from {SMALLEST_SIDE} pixels on"
        )
    return picture.astype(np.float32) / np.float32(255)


def _near(mask: Bool[ndarray, "rows cols"]) -> Bool[ndarray, "rows cols"]:
    """The pixels of a mask and those up to two rows and two columns away."""
    near = mask.copy()
    for away in (1, 2):
        near[away:] |= mask[:-away]
        near[:-away] |= mask[away:]
    wide = near.copy()
    for away in (1, 2):
        wide[:, away:] |= near[:, :-away]
        wide[:, :-away] |= near[:, away:]
    return wide


def _read_thing(
    ink: Float[ndarray, "side side 3"],
    depth: Float[ndarray, "side side"],
    parts: Parts,
    number: int,
) -> Seen:
    own = parts.labels == number
    near = _near(own) & ((parts.labels < 0) | own)
    colour = _read_colour(ink, depth, own, near)
    if colour is None:
        coverage = depth
    else:  # along the colour's own direction noise does not add up as it does in `depth`
        reference = _INKS[COLOURS.index(colour)]
        coverage = ink @ (reference / (reference @ reference))
    match = match_shape(np.where(near, np.clip(coverage, 0, 1), 0))
    size: Size | None = "small" if match.radius < _MIDDLE_RADIUS else "large"
    if 1 / _NEITHER_SIZE < match.radius / _MIDDLE_RADIUS < _NEITHER_SIZE:
        size = None
    plain = match.fit >= _LEAST_FIT and match.lead >= _LEAST_LEAD
    return Seen(
        shape=match.shape if plain else None,
        colour=colour,
        size=size,
        row=match.row,
        col=match.col,
    )


def _read_colour(
    ink: Float[ndarray, "side side 3"],
    depth: Float[ndarray, "side side"],
    own: Bool[ndarray, "side side"],
    near: Bool[ndarray, "side side"],
) -> Colour | None:
    """The colour whose ink explains a blot: all of it, and most of its dark pixels one by one."""
    # a blur moves ink about but keeps its sum, fringe included
    total = ink[near].sum(axis=0, keepdims=True) / depth[near].sum()
    core = ink[own & (depth >= 0.7 * depth[own].max())]
    errors = _colour_errors(total)[0]
    best = int(errors.argmin())
    inked = float((core @ _INKS[best]).mean() / (_INKS[best] @ _INKS[best]))
    of_core = _colour_errors(core)
    purity = (of_core[:, best] <= of_core.min(axis=1) + _BETWEEN_COLOURS).mean()
    if errors[best] > _LARGEST_COLOUR_ERROR or purity < _LEAST_PURITY or inked < _LEAST_DEPTH:
        return None
    return COLOURS[best]


def _colour_errors(ink: Float[ndarray, "pixels 3"]) -> Float[ndarray, "pixels colours"]:
    """What is left of each pixel's ink beside each colour's direction, relative to its length."""
    lengths = np.linalg.norm(_INKS, axis=1)
    along = np.clip((ink @ _INKS.T) / lengths**2, 0.3, 1.15)  # n colours
    left = ink[:, None] - along[..., None] * _INKS
    return np.linalg.norm(left, axis=-1) / np.maximum(np.linalg.norm(ink, axis=-1), 1e-6)[:, None]


def _arrange(things: list[Seen]) -> Reading:
    if len(things) == 1:
        return Reading(count=1, things=tuple(things), position=_position(things[0]), relation=None)
    if len(things) != 2:
        return Reading(count=len(things), things=tuple(things), position=None, relation=None)
    down = abs(things[0].row - things[1].row)
    right = abs(things[0].col - things[1].col)
    relation: Relation = "left of" if right > down else "above"
    things.sort(key=lambda thing: thing.col if right > down else thing.row)
    plain = max(down, right) >= max(_LEAST_APART, _LEAST_SLANT * min(down, right))
    return Reading(
        count=2, things=tuple(things), position=None, relation=relation if plain else None
    )


def _position(thing: Seen) -> Position | None:
    cell = []
    for place in (thing.row, thing.col):
        distances = [abs(place - centre) for centre in CELLS]
        if min(distances) > _CELL_REACH:
            return None
        cell.append(distances.index(min(distances)))
    return POSITIONS[3 * cell[0] + cell[1]]
