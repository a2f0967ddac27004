"""The built-in captioned pictures, and the reader that tells what a picture shows."""

from dalle.data.shapes.draw import draw
from dalle.data.shapes.judge import Verdict, judge, perfect_reading
from dalle.data.shapes.reader import Reading, Seen, read_scene
from dalle.data.shapes.scene import (
    COLOURS,
    HELD_OUT,
    POSITIONS,
    RELATIONS,
    SHAPES,
    SIZES,
    Scene,
    Thing,
    random_scene,
)
from dalle.data.shapes.source import ShapesSource
from dalle.data.shapes.text import (
    all_captions,
    caption,
    captions,
    parse_caption,
    plain_caption,
)

__all__ = [
    "COLOURS",
    "HELD_OUT",
    "POSITIONS",
    "RELATIONS",
    "SHAPES",
    "SIZES",
    "Reading",
    "Scene",
    "Seen",
    "ShapesSource",
    "Thing",
    "Verdict",
    "all_captions",
    "caption",
    "captions",
    "draw",
    "judge",
    "parse_caption",
    "perfect_reading",
    "plain_caption",
    "random_scene",
    "read_scene",
]
