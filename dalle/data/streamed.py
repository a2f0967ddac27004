"""Micro-batches of a stream: its rows in order, decoded where they are wanted."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from random import Random

import numpy as np
from torch.utils.data import Dataset

from dalle.data.order import permutation
from dalle.data.parts import Part, Read, Rows, Unused
from dalle.errors import DalleError, DataError
from dalle.protocols import Stream, StreamRow

SPARES = 8
"""Rows of a batch that stand in for damaged ones of it, one after another."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RawPart:
    """One micro-batch of one rank before it is decoded."""

    step: int
    rows: tuple[tuple[int, StreamRow], ...]
    """With the epoch of each."""
    spares: tuple[tuple[int, StreamRow], ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class StreamParts(Dataset[Part]):
    """One rank's micro-batches of a stream.

    The row at position step * batch_size + k is a function of the seed, whatever ranks, parts and
    workers there are: every process goes through the whole stream and keeps what is its own.
    """

    source: Stream
    read: Read
    batch_size: int
    seed: int
    rank: int
    world: int
    micro_batches: int

    @property
    def size(self) -> int:
        """Samples in one micro-batch."""
        return self.batch_size // (self.world * self.micro_batches)

    def items(self, start_step: int) -> Iterator[RawPart]:
        """All micro-batches from a step on, without end; what is before it is passed over.

        Raises:
            DataError: the stream is empty.
        """
        rows, step = self._endless(), 0
        while True:
            batch = tuple(next(rows) for _ in range(self.batch_size))
            order = permutation(self.seed, step, self.batch_size)[:SPARES].tolist()
            for micro in range(self.micro_batches) if step >= start_step else ():
                first = (self.rank * self.micro_batches + micro) * self.size
                yield RawPart(
                    step=step,
                    rows=batch[first : first + self.size],
                    spares=tuple(batch[place] for place in order),
                )
            step += 1

    def _endless(self) -> Iterator[tuple[int, StreamRow]]:
        epoch = 0
        while True:
            empty = True
            for row in self.source.rows(seed=self.seed, epoch=epoch):
                empty = False
                yield epoch, row
            if empty:
                raise DataError("the stream is empty")
            epoch += 1

    def described(self, item: RawPart) -> tuple[int, str]:
        """The step of a micro-batch, and its samples, for messages."""
        return item.step, ", ".join(row.key for _, row in item.rows)

    def __getitem__(self, item: RawPart) -> Part:
        return self.rows(item).stacked()

    def rows(self, item: RawPart) -> Rows:
        """A micro-batch whose arrays are still those of its samples."""
        unused: list[Unused] = []
        try:
            rows = [self._row(one, item.spares, unused) for one in item.rows]
        except DalleError as error:  # carried over: a worker would wrap it in a traceback
            return Rows(rows=[], unused=tuple(unused), error=error)
        return Rows(rows=rows, unused=tuple(unused))

    def _row(
        self,
        wanted: tuple[int, StreamRow],
        spares: tuple[tuple[int, StreamRow], ...],
        unused: list[Unused],
    ) -> Mapping[str, np.ndarray]:
        epoch, first = wanted
        failed: list[tuple[StreamRow, str | None]] = []
        for row in (first, *(spare for _, spare in spares)):
            try:
                found = self.read(
                    self.source.sample(row), Random(f"{self.seed}/{epoch}/{first.number}")
                )
            except DataError as error:
                failed.append((row, str(error)))
                continue
            if found is not None:
                unused += (_unused(one, why, row) for one, why in failed)
                return found
            failed.append((row, None))
        unused += (_unused(one, why, None) for one, why in failed)
        raise DataError(
            f"{len(failed)} samples of one batch are damaged or left out; the last one: "
            f"{failed[-1][1] or 'left out by the settings'}"
        )


def _unused(row: StreamRow, reason: str | None, instead: StreamRow | None) -> Unused:
    return Unused(
        index=row.number,
        key=row.key,
        reason=reason,
        substitute=None if instead is None else instead.number,
        substitute_key=None if instead is None else instead.key,
    )
