"""How many captions say what a built-in picture shows, by reading the captions."""

from collections.abc import Sequence

from dalle.data.shapes.judge import perfect_reading
from dalle.data.shapes.reader import Reading
from dalle.data.shapes.text import parse_caption
from dalle.errors import InputError

UNREADABLE = Reading(count=None, things=(), position=None, relation=None)


def read_captions(captions: Sequence[str]) -> list[Reading]:
    """What captions say, as if it had been read from pictures.

    So that `rates`, `chance` and `shuffled` judge them as they do pictures. A caption in other
    words than those of `dalle.data.shapes` is unclear, and right in nothing.
    """
    readings = []
    for caption in captions:
        try:
            readings.append(perfect_reading(parse_caption(caption)))
        except InputError:
            readings.append(UNREADABLE)
    return readings
