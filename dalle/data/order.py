"""The order of samples and their randomness, as functions of the seed: no state is ever stored."""

from functools import lru_cache
from random import Random

import numpy as np
from jaxtyping import Int, UInt64

_GOLDEN = 0x9E3779B97F4A7C15
_WORD = 2**64


@lru_cache(maxsize=2)
def permutation(seed: int, epoch: int, size: int) -> Int[np.ndarray, " size"]:
    """The order of one epoch: 0 .. size - 1 sorted by a hash of (seed, epoch, number).

    It is written out here, and no library's generator, so that a resumed run goes on in its order
    whatever was upgraded meanwhile. The last two are kept; a million numbers take 8 MB.
    """
    start = _mix_int((_mix_int(seed % _WORD) + epoch) % _WORD)
    with np.errstate(over="ignore"):
        steps = np.arange(1, size + 1, dtype=np.uint64) * np.uint64(_GOLDEN)
        order = np.argsort(_mix(steps + np.uint64(start)), kind="stable")
    order.setflags(write=False)
    return order


def sample_at(position: int, *, seed: int, size: int) -> tuple[int, int]:
    """(epoch, index) of a position in the endless sequence of samples."""
    epoch, offset = divmod(position, size)
    return epoch, int(permutation(seed, epoch, size)[offset])


def sample_random(seed: int, epoch: int, index: int) -> Random:
    """The sample's own generator: crops, choice of caption, BPE dropout."""
    return Random(f"{seed}/{epoch}/{index}")


def substitute(seed: int, epoch: int, index: int, *, attempt: int, size: int) -> int:
    """The index that stands in for an unusable sample at attempt 1, 2, ...."""
    return Random(f"substitute/{seed}/{epoch}/{index}/{attempt}").randrange(size)


def _mix(words: UInt64[np.ndarray, " n"]) -> UInt64[np.ndarray, " n"]:
    """Spread 64-bit words. Source: the finaliser of splitmix64 (doi 10.1145/2714064.2660195)."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))


def _mix_int(word: int) -> int:
    with np.errstate(over="ignore"):
        return int(_mix(np.array([(word + _GOLDEN) % _WORD], dtype=np.uint64))[0])
