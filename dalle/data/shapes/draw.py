"""Drawing a scene: smooth edges at any picture size, on white.

Lengths are fractions of the side. One thing stands in a cell of a grid of 3 by 3; two stand on the
axis of their relation, far enough apart that large ones never touch, and stray across it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

import numpy as np
from jaxtyping import Float, UInt8
from numpy import ndarray

from dalle.data.shapes.scene import POSITIONS, Colour, Scene, Shape, Size, Thing
from dalle.errors import InputError

RGB: dict[Colour, tuple[int, int, int]] = {
    "red": (210, 15, 45),
    "orange": (255, 125, 0),
    "yellow": (255, 240, 40),
    "green": (0, 170, 45),
    "cyan": (20, 205, 230),
    "blue": (30, 60, 225),
    "purple": (160, 35, 180),
    "black": (15, 15, 15),
}
"""Any two are at least 120 apart, and their differences from white at least 20 degrees."""
RADIUS: dict[Size, float] = {"small": 0.13, "large": 0.2}
RADIUS_JITTER = 0.04
"""Relative."""
CELLS = (0.24, 0.5, 0.76)
"""Centres of the rows and of the columns."""
CELL_JITTER = 0.03
AXIS_JITTER = 0.02
"""Along the relation: large things stay at least 0.48 - 2 · 0.208 = 0.06 apart."""
ACROSS_JITTER = 0.08
SMALLEST_SIDE = 32
"""Pixels; below it a small star and a small triangle are not told apart."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Placed:
    """A thing with its exact place."""

    thing: Thing
    row: float
    """Of its middle, as a fraction of the side from the top."""
    col: float
    """As a fraction of the side from the left."""
    radius: float
    """As a fraction of the side."""


def place(scene: Scene, random: Random) -> tuple[Placed, ...]:
    """Choose where exactly, and how large, each thing of a scene is drawn."""
    return tuple(
        Placed(
            thing=thing,
            row=row,
            col=col,
            radius=RADIUS[thing.size] * (1 + random.uniform(-RADIUS_JITTER, RADIUS_JITTER)),
        )
        for thing, (row, col) in zip(scene.things, _centres(scene, random), strict=True)
    )


def _centres(scene: Scene, random: Random) -> list[tuple[float, float]]:
    if scene.position is not None:
        row, col = divmod(POSITIONS.index(scene.position), 3)
        return [
            (
                CELLS[row] + random.uniform(-CELL_JITTER, CELL_JITTER),
                CELLS[col] + random.uniform(-CELL_JITTER, CELL_JITTER),
            )
        ]
    near_to_far = (CELLS[0], CELLS[2])
    if scene.relation in ("right of", "below"):
        near_to_far = near_to_far[::-1]
    along = [centre + random.uniform(-AXIS_JITTER, AXIS_JITTER) for centre in near_to_far]
    across = [CELLS[1] + random.uniform(-ACROSS_JITTER, ACROSS_JITTER) for _ in along]
    if scene.relation in ("left of", "right of"):
        return list(zip(across, along, strict=True))
    return list(zip(along, across, strict=True))


def draw(scene: Scene, random: Random, *, size: int = 64) -> UInt8[ndarray, "{size} {size} 3"]:
    """Draw a scene, with jitter from `random`, as RGB.

    Args:
        scene: what to show.
        random: the jitter; the same state gives the same picture, and the same up to the
            resolution at every size.
        size: side of the picture in pixels.

    Raises:
        InputError: `size` is below `SMALLEST_SIDE`.
    """
    return paint(place(scene, random), size=size)


def paint(things: tuple[Placed, ...], *, size: int) -> UInt8[ndarray, "{size} {size} 3"]:
    """Draw things with their exact places on white, the later over the earlier.

    Raises:
        InputError: `size` is below `SMALLEST_SIDE`.
    """
    if size < SMALLEST_SIDE:
        raise InputError(
            f"pictures of {size} pixels a side; shapes can be told apart from {SMALLEST_SIDE} on"
        )
    picture = np.full((size, size, 3), 255, np.uint8)
    for placed in things:
        top, rows = _reach(placed.row, placed.radius, size)
        left, cols = _reach(placed.col, placed.radius, size)
        mask = cover(
            placed.thing.shape,
            rows - placed.row * size,
            cols - placed.col * size,
            radius=placed.radius * size,
        )[..., None]
        part = picture[top : top + len(rows), left : left + len(cols)]
        colour = np.array(RGB[placed.thing.colour], np.float32)
        part[...] = part + mask * (colour - part) + 0.5
    return picture


def _reach(centre: float, radius: float, size: int) -> tuple[int, Float[ndarray, " pixels"]]:
    """The first pixel that a thing may touch, and the middles of all such pixels, in pixels."""
    first = max(0, int((centre - 1.05 * radius) * size - 1))
    last = min(size, int((centre + 1.05 * radius) * size + 2))
    return first, np.arange(first, last, dtype=np.float32) + np.float32(0.5)


def cover(
    shape: Shape,
    rows: Float[ndarray, " rows"],
    cols: Float[ndarray, " cols"],
    *,
    radius: float,
) -> Float[ndarray, "rows cols"]:
    """How much of each pixel a shape covers, 0 to 1.

    Args:
        shape: which.
        rows: middles of the pixel rows, relative to the middle of the shape, in pixels.
        cols: the same of the columns.
        radius: in pixels; the shape lies within 1.05 radii of its middle.
    """
    # the distance to an edge, in pixels, is the coverage of a pixel that it crosses
    outside = _DISTANCES[shape](rows[:, None] / radius, cols[None, :] / radius)
    return np.clip(0.5 - outside * radius, 0, 1).astype(np.float32)


# Signed distances to the edge, in radii, negative inside; `y` grows downwards.


def _circle(y: ndarray, x: ndarray) -> ndarray:
    return np.sqrt(x * x + y * y) - 0.95


def _square(y: ndarray, x: ndarray) -> ndarray:
    return np.maximum(abs(x), abs(y)) - 0.82


def _triangle(y: ndarray, x: ndarray) -> ndarray:
    # apex (0, -0.85), feet (±1, 0.85): each flank has the normal (1.7, -1) / 1.972
    return np.maximum((1.7 * abs(x) - y - 0.85) / 1.972, y - 0.85)


def _ring(y: ndarray, x: ndarray) -> ndarray:
    return abs(np.sqrt(x * x + y * y) - 0.76) - 0.24


def _cross(y: ndarray, x: ndarray) -> ndarray:
    y, x = abs(y), abs(x)
    return np.minimum(np.maximum(x - 1, y - 0.3), np.maximum(y - 1, x - 0.3))


def _star(y: ndarray, x: ndarray) -> ndarray:
    """Five points of radius 1.05, inner corners at 0.45 of that; folded onto half a point."""
    cos36, sin36 = 0.809017, 0.587785
    x, y = abs(x), 0.05 - y  # upright and centred between its tip and its feet
    beyond = np.maximum(cos36 * x - sin36 * y, 0)
    x, y = x - 2 * cos36 * beyond, y + 2 * sin36 * beyond
    beyond = np.maximum(-cos36 * x - sin36 * y, 0)
    x, y = abs(x + 2 * cos36 * beyond), y + 2 * sin36 * beyond
    edge_x, edge_y = 0.45 * sin36, 0.45 * cos36 - 1  # from the tip to the inner corner
    length = (edge_x**2 + edge_y**2) ** 0.5
    return ((y - 1.05) * edge_x - x * edge_y) / length


_DISTANCES: dict[Shape, Callable[[ndarray, ndarray], ndarray]] = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "star": _star,
    "ring": _ring,
    "cross": _cross,
}
