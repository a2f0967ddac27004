"""The merges of byte-pair encoding, applied with dropout from a generator that a seed reaches."""

from collections.abc import Mapping, Sequence
from heapq import heapify, heappop, heappush
from itertools import pairwise
from random import Random

Merges = Mapping[tuple[int, int], tuple[int, int]]
"""(left id, right id) -> (rank, id of the joined entry); a lower rank is merged earlier."""

_POSITION_BITS = 32
_POSITION_MASK = (1 << _POSITION_BITS) - 1


def merge(symbols: Sequence[int], merges: Merges, *, dropout: float, random: Random) -> list[int]:
    """Join the neighbours of one word, the lowest rank and then the leftmost first.

    A candidate that comes up is passed over with probability `dropout`; all that were passed over
    come up again after the next join. So each join takes the best of a random part of the
    candidates, and at dropout 0 the result is the one of the `tokenizers` package. Neighbours
    are linked and candidates lie in a heap: the time is n log n in the length of the word.

    Args:
        symbols: ids of the single bytes of a word.
        merges: the table of merges.
        dropout: probability in [0, 1]; at 1 nothing is joined.
        random: where the draws come from; untouched at dropout 0.

    Returns:
        The ids of the joined entries.

    Source: arXiv 1910.13267, algorithm 1 (BPE-dropout).
    """
    ids = list(symbols)
    following = [*range(1, len(ids)), -1] if ids else []
    previous = list(range(-1, len(ids) - 1))
    # Rank and position packed in one integer: it compares faster than a pair.
    heap = [
        found[0] << _POSITION_BITS | position
        for position, pair in enumerate(pairwise(ids))
        if (found := merges.get(pair)) is not None
    ]
    heapify(heap)
    passed_over: list[int] = []
    while heap:
        candidate = heappop(heap)
        position = candidate & _POSITION_MASK
        left, right = ids[position], following[position]
        found = merges.get((left, ids[right])) if left >= 0 and right >= 0 else None
        if found is None or found[0] != candidate >> _POSITION_BITS:
            continue  # one of the two was joined to something else since this was queued
        if dropout > 0 and random.random() < dropout:
            passed_over.append(candidate)
            continue
        for again in passed_over:
            heappush(heap, again)
        passed_over.clear()
        ids[position], ids[right] = found[1], -1
        after = following[right]
        following[position] = after
        if after >= 0:
            previous[after] = position
        for start, end in ((previous[position], position), (position, after)):
            if start >= 0 and end >= 0 and (found := merges.get((ids[start], ids[end]))):
                heappush(heap, found[0] << _POSITION_BITS | start)
    return [i for i in ids if i >= 0]
