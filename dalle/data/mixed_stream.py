"""Several data sets as one stream, each drawn from as often as its weight says."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from dalle.data.order import permutation
from dalle.data.split import captions_at, key_at
from dalle.errors import DataError
from dalle.protocols import Sample, Source, Stream, StreamRow

_PASSES = 2**20
"""More than a part is gone through in one epoch of the whole."""


class NumberedStream:
    """A data set whose samples have numbers, read as a stream."""

    def __init__(self, source: Source) -> None:
        self.source = source

    def rows(self, *, seed: int, epoch: int) -> Iterator[StreamRow]:
        """All samples in the order of an epoch."""
        for index in permutation(seed, epoch, len(self.source)).tolist():
            captions = captions_at(self.source, index)
            yield StreamRow(number=index, key=self.key(index), value=index, captions=captions)

    def sample(self, row: StreamRow) -> Sample:
        """A row, decoded."""
        sample = self.source[row.value]
        if not isinstance(sample, Sample):
            raise DataError(f"{sample.key} is encoded already; give a source of pictures")
        return sample

    def key(self, number: int) -> str:
        """The key of the row of that number."""
        return key_at(self.source, number)


class MixedStream:
    """Streams of which each gives its share of the rows.

    An epoch has each part's share and every row at least once: it ends when all parts have, and
    those that are too small for their share are gone through again in other orders.

    Args:
        parts: weight and stream; weights count as shares of their sum.
    """

    def __init__(self, parts: Sequence[tuple[float, Stream]]) -> None:
        self.weights = tuple(weight for weight, _ in parts)
        self.sources = tuple(source for _, source in parts)

    def rows(self, *, seed: int, epoch: int) -> Iterator[StreamRow]:
        """All rows in the order of an epoch.

        Raises:
            DataError: a part is empty, or breaks off.
        """
        parts = range(len(self.sources))
        passes, given, unfinished = [0] * len(parts), [0] * len(parts), set(parts)

        def begin(part: int) -> Iterator[StreamRow]:
            number = epoch * _PASSES + passes[part]
            passes[part] += 1
            return iter(self.sources[part].rows(seed=seed, epoch=number))

        running = [begin(part) for part in parts]
        while True:
            # The one that is furthest behind its share; of equal ones the first.
            part = min(parts, key=lambda one: (given[one] + 1) / self.weights[one])
            row = next(running[part], None)
            if row is None:
                unfinished.discard(part)
                if not unfinished:
                    return
                running[part] = begin(part)
                row = next(running[part], None)
                if row is None:
                    raise DataError(f"part {part + 1} of the mixture is empty")
            given[part] += 1
            yield replace(row, number=row.number * len(parts) + part)

    def sample(self, row: StreamRow) -> Sample:
        """A row, decoded."""
        number, part = divmod(row.number, len(self.sources))
        return self.sources[part].sample(replace(row, number=number))

    def key(self, number: int) -> str:
        """The key of the row of that number."""
        within, part = divmod(number, len(self.sources))
        return self.sources[part].key(within)
