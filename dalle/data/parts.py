"""Samples read into micro-batches, another standing in for each that cannot be used."""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from dalle.data.order import sample_at, sample_random, substitute
from dalle.data.split import key_at
from dalle.errors import DalleError, DataError
from dalle.protocols import Source

MAX_ATTEMPTS = 100
"""Substitutes tried for one sample before the data set is given up."""

Read = Callable[[Any, Random], Mapping[str, np.ndarray] | None]
"""A sample of the source and its generator to arrays of fixed shapes; None leaves it out."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Unused:
    """A sample that another one stood in for."""

    index: int
    key: str
    reason: str | None
    """What was wrong; None where `read` left it out."""
    substitute: int | None
    """The sample that stood in; None where none could."""
    substitute_key: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """One micro-batch of one rank, or the error that reading it ended with."""

    arrays: dict[str, Tensor]
    unused: tuple[Unused, ...] = ()
    error: DalleError | None = None

    def pin_memory(self) -> "Part":
        """With arrays that a GPU fetches by itself."""
        pinned = {name: array.pin_memory() for name, array in self.arrays.items()}
        return replace(self, arrays=pinned)


@dataclass(frozen=True, kw_only=True, slots=True)
class Rows:
    """What one micro-batch is made of: equal arrays of each sample."""

    rows: Sequence[Mapping[str, np.ndarray]]
    unused: tuple[Unused, ...] = ()
    error: DalleError | None = None

    def stacked(self) -> Part:
        """The micro-batch."""
        arrays = stack(self.rows) if self.rows else {}
        return Part(arrays=arrays, unused=self.unused, error=self.error)


@dataclass(frozen=True, kw_only=True, slots=True)
class Parts(Dataset[Part]):
    """One rank's micro-batches, numbered: step * micro_batches + micro-batch."""

    source: Source
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

    def positions(self, number: int) -> range:
        """Where a micro-batch lies in the endless sequence of samples."""
        step, micro = divmod(number, self.micro_batches)
        start = step * self.batch_size + (self.rank * self.micro_batches + micro) * self.size
        return range(start, start + self.size)

    def indices(self, number: int) -> list[int]:
        """The samples of a micro-batch, before any substitution."""
        size = len(self.source)
        return [sample_at(p, seed=self.seed, size=size)[1] for p in self.positions(number)]

    def __getitem__(self, number: int) -> Part:
        return self.rows(number).stacked()

    def rows(self, number: int) -> Rows:
        """A micro-batch whose arrays are still those of its samples."""
        unused: list[Unused] = []
        try:
            rows = [self._row(position, unused) for position in self.positions(number)]
        except DalleError as error:  # carried over: a worker would wrap it in a traceback
            return Rows(rows=[], unused=tuple(unused), error=error)
        return Rows(rows=rows, unused=tuple(unused))

    def _row(self, position: int, unused: list[Unused]) -> Mapping[str, np.ndarray]:
        size = len(self.source)
        epoch, first = sample_at(position, seed=self.seed, size=size)
        index, failed = first, list[tuple[int, str | None]]()
        for attempt in range(MAX_ATTEMPTS):
            if attempt > 0:
                index = substitute(self.seed, epoch, first, attempt=attempt, size=size)
            random = sample_random(self.seed, epoch, first)
            try:
                row = self.read(self.source[index], random)
            except DataError as error:
                failed.append((index, str(error)))
                continue
            if row is not None:
                unused += self._unused(failed, index)
                return row
            failed.append((index, None))
        unused += self._unused(failed, None)
        raise DataError(
            f"{MAX_ATTEMPTS} samples in a row are damaged or left out; the last one: "
            f"{failed[-1][1] or 'left out by the settings'}"
        )

    def _unused(
        self, failed: Sequence[tuple[int, str | None]], instead: int | None
    ) -> list[Unused]:
        key = None if instead is None else key_at(self.source, instead)
        return [
            Unused(
                index=index,
                key=key_at(self.source, index),
                reason=reason,
                substitute=instead,
                substitute_key=key,
            )
            for index, reason in failed
        ]

    def items(self, start_step: int) -> Iterator[int]:
        """The numbers of all micro-batches from a step on, without end."""
        return itertools.count(start_step * self.micro_batches)

    def described(self, number: int) -> tuple[int, str]:
        """The step of a micro-batch, and its samples, for messages."""
        shown = ", ".join(map(str, self.indices(number)))
        return number // self.micro_batches, f"those numbered {shown}"


def stack(rows: Sequence[Mapping[str, np.ndarray]]) -> dict[str, Tensor]:
    """Equal arrays of samples as tensors with a batch axis in front."""
    return {name: torch.from_numpy(np.stack([row[name] for row in rows])) for name in rows[0]}
