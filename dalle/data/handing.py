"""Arrays handed from a reading process to the one that trains, in memory that is used again.

Shared memory that is fresh comes page by page: writing twelve megabytes of pixels to it took 11 ms,
and 1.5 ms to memory that had been written to before. So the reader keeps its places, and whoever
takes what is in one copies it and gives the place back.
"""

import math
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor
from torch.utils.data import Dataset

from dalle.data.parts import Part, Parts
from dalle.data.streamed import StreamParts

FREE, TAKEN = 0, 1
"""What the first byte of a place says: the reader may write to it, or it holds what was sent."""
ALIGNED = 64
"""Bytes to which arrays are aligned, as torch's own are."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Handed:
    """A micro-batch whose arrays lie in a place of the process that read it."""

    part: Part
    """All but its arrays."""
    place: UInt8[Tensor, " bytes"]
    arrays: dict[str, tuple[int, tuple[int, ...], torch.dtype]]
    """Where each begins, its shape and its type."""

    def taken(self) -> Part:
        """The micro-batch in memory of its own; its place is free again. Once only."""
        return self._taken_to(torch.empty_like(self.place))

    def pin_memory(self) -> Part:
        """The same, where a GPU fetches it by itself; torch's pinning thread calls it."""
        return self._taken_to(torch.empty(len(self.place), dtype=torch.uint8, pin_memory=True))

    def _taken_to(self, own: UInt8[Tensor, " bytes"]) -> Part:
        own.copy_(self.place)
        self.place[0] = FREE
        arrays = {
            name: _array(own, start, shape, dtype)
            for name, (start, shape, dtype) in self.arrays.items()
        }
        return replace(self.part, arrays=arrays)


@dataclass(kw_only=True, slots=True)
class HandedParts(Dataset[Handed]):
    """Micro-batches, each handed over in a place of the process that reads it."""

    parts: Parts | StreamParts
    places: list[UInt8[Tensor, " bytes"]] = field(default_factory=list)
    """As many as there were unread at once, at most; a reader begins with none."""

    def __getitem__(self, item: object) -> Handed:
        read = self.parts.rows(item)  # type: ignore[arg-type]
        arrays, end = {}, ALIGNED
        for name, first in (read.rows[0] if read.rows else {}).items():
            shape = (len(read.rows), *first.shape)
            arrays[name] = (end, shape, torch.from_numpy(first).dtype)
            end += -(-len(read.rows) * first.nbytes // ALIGNED) * ALIGNED
        place = self._free_place(end)
        place[0] = TAKEN
        for name, where in arrays.items():
            np.stack([row[name] for row in read.rows], out=_array(place, *where).numpy())
        part = Part(arrays={}, unused=read.unused, error=read.error)
        return Handed(part=part, place=place, arrays=arrays)

    def _free_place(self, size: int) -> UInt8[Tensor, " bytes"]:
        free = [place for place in self.places if place[0] == FREE]
        if fitting := [place for place in free if len(place) == size]:
            return fitting[0]
        # Those of another size are for what is not read any more.
        kept = [place for place in self.places if place[0] != FREE]
        self.places = [*kept, torch.empty(size, dtype=torch.uint8).share_memory_()]
        return self.places[-1]


def _array(
    place: UInt8[Tensor, " bytes"], start: int, shape: tuple[int, ...], dtype: torch.dtype
) -> Tensor:
    return place[start : start + math.prod(shape) * dtype.itemsize].view(dtype).view(shape)
