"""Captions that are nearly right, to be told from the right one.

Two words of a caption are exchanged, or one becomes another, such that what comes out reads like
the data: every two tokens in a row also stand in a row in some caption. So only the picture tells
which one is wrong, and a CLIP has to learn which attribute belongs to which thing.

    a small red circle above a large blue ring
    a small blue circle above a large red ring      two exchanged
    a small red circle below a large blue ring      one replaced

Source of the idea: arXiv 2210.01936, section 4, with grammar in the place of neighbours.
"""

from collections.abc import Iterable, Sequence
from itertools import islice, pairwise
from random import Random

import numpy as np
from jaxtyping import Int

Stream = Int[np.ndarray, " slots"]
MAX_CAPTIONS = 50_000
"""So many are read to learn what stands beside what."""
TRIES = 12
"""So many words are tried before a caption is given up, and so many others for each."""
EDGE = -1
"""Stands before the first token and behind the last."""


class WrongCaptions:
    """Makes them from what stands beside what.

    Args:
        followers: of each token (and of the edge) those that follow it in some caption.
    """

    def __init__(self, followers: dict[int, set[int]]) -> None:
        self._followers = followers
        self._choices = {token: sorted(behind) for token, behind in followers.items()}

    @classmethod
    def learn(cls, captions: Iterable[Sequence[int]]) -> "WrongCaptions":
        """From the tokens of captions, the first `MAX_CAPTIONS` of them."""
        followers: dict[int, set[int]] = {}
        for tokens in islice(captions, MAX_CAPTIONS):
            for token, follower in pairwise([EDGE, *tokens, EDGE]):
                followers.setdefault(token, set()).add(follower)
        return cls(followers)

    def draw(self, stream: Stream, *, num: int, random: Random) -> Int[np.ndarray, "{num} slots"]:
        """Wrong versions of a stream of text; a stream without tokens where none was found.

        Args:
            stream: start, tokens, pads.
            num: how many.
            random: the sample's own generator.
        """
        start = stream[0]
        line = [EDGE, *stream[(stream != start) & (stream < start)].tolist(), EDGE]
        wrong = np.tile(np.arange(start, start + len(stream), dtype=stream.dtype), (num, 1))
        for row in wrong:
            found = self._exchange(line, random) if random.random() < 0.5 else None
            found = found or self._replace(line, random)
            if found:
                row[1 : len(line) - 1] = found[1:-1]
        return wrong

    def _exchange(self, line: list[int], random: Random) -> list[int] | None:
        """Two tokens in each other's place, or None if no such pair is met with."""
        places = _shuffled(range(1, len(line) - 1), random)
        for first in places[:TRIES]:
            for second in _shuffled(places, random):
                if line[first] != line[second] and abs(first - second) > 1:
                    found = line.copy()
                    found[first], found[second] = line[second], line[first]
                    if self._reads_well(found, first) and self._reads_well(found, second):
                        return found
        return None

    def _replace(self, line: list[int], random: Random) -> list[int] | None:
        """Another token in the place of one, or None if none is met with that fits."""
        for place in _shuffled(range(1, len(line) - 1), random)[:TRIES]:
            choices = self._choices.get(line[place - 1], [])
            for token in random.sample(choices, min(TRIES, len(choices))):
                if token not in (EDGE, line[place]):
                    found = line.copy()
                    found[place] = token
                    if self._reads_well(found, place):
                        return found
        return None

    def _reads_well(self, line: list[int], place: int) -> bool:
        before, token, behind = line[place - 1 : place + 2]
        return token in self._followers.get(before, ()) and behind in self._followers.get(token, ())


def _shuffled(places: Iterable[int], random: Random) -> list[int]:
    shuffled = list(places)
    random.shuffle(shuffled)
    return shuffled
