"""Parts of streams: rows that are left out, and a held-out part that is kept in memory."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from dalle.data.split import hash_of_key
from dalle.errors import ConfigError
from dalle.protocols import Sample, Source, Stream, StreamRow

LOOKED_THROUGH = 20_000
"""Rows at the beginning among which the held-out ones are kept."""
MOST_HELD = 1_000
"""Held-out rows that are kept, undecoded, at most."""


class ChosenRows:
    """The rows of a stream whose keys are chosen, in its order.

    Args:
        source: the whole stream.
        keeps: whether a key's row is in it.
    """

    def __init__(self, source: Stream, keeps: Callable[[str], bool]) -> None:
        self.source = source
        self._keeps = keeps

    def rows(self, *, seed: int, epoch: int) -> Iterator[StreamRow]:
        """Those rows in the order of an epoch."""
        return (row for row in self.source.rows(seed=seed, epoch=epoch) if self._keeps(row.key))

    def sample(self, row: StreamRow) -> Sample:
        """A row, decoded."""
        return self.source.sample(row)

    def key(self, number: int) -> str:
        """The key of the row of that number."""
        return self.source.key(number)


class HeldRows:
    """Rows of a stream, kept undecoded, as a data set whose samples have numbers."""

    def __init__(self, source: Stream, rows: Sequence[StreamRow]) -> None:
        self._source = source
        self._rows = tuple(rows)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int, /) -> Sample:
        return self._source.sample(self._rows[index])

    def key(self, index: int) -> str:
        """The name of a sample, without decoding it."""
        return self._rows[index].key

    def captions(self, index: int) -> tuple[str, ...]:
        """The captions of a sample, without decoding it."""
        return self._rows[index].captions


@dataclass(frozen=True, kw_only=True, slots=True)
class StreamSplit:
    """A stream without its held-out rows, and those of them that are at its beginning."""

    train: Stream
    held_out: Source


def split_stream(source: Stream, *, fraction: float, seed: int = 0) -> StreamSplit:
    """Hold out rows by a hash of their keys.

    All such rows are left out of training, and those among the first `LOOKED_THROUGH` are kept to
    be judged on.

    Args:
        fraction: about this share of the rows is held out, in (0, 1).
        seed: another one holds out others.

    Raises:
        ConfigError: no row would be left on one side.
    """
    keeps = partial(_above, int(fraction * 2**64), seed)
    looked, held = 0, list[StreamRow]()
    for row in first_rows(source, LOOKED_THROUGH):
        looked += 1
        if not keeps(row.key):
            held.append(row)
        if len(held) == MOST_HELD:
            break
    if not 0 < len(held) < looked:
        raise ConfigError(
            f"{len(held)} of the first {looked} rows of the stream are held out; give another "
            "--held-out-share, --held-out, or --held-out-share 0 for none"
        )
    return StreamSplit(train=ChosenRows(source, keeps), held_out=HeldRows(source, held))


def _above(limit: int, seed: int, key: str) -> bool:
    return hash_of_key(key, seed) > limit


def first_rows(source: Stream, count: int) -> Iterator[StreamRow]:
    """The rows that one order begins with, always the same, as many as that."""
    return itertools.islice(source.rows(seed=0, epoch=0), count)
