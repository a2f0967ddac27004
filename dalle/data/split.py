"""Parts of data sets: chosen samples, and a held-out part that stays the same."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np

from dalle.errors import ConfigError, DataError
from dalle.protocols import EncodedSample, Sample, Source


class Subset:
    """Some samples of a source, in a given order; of a subset, samples of what it is a part of."""

    def __init__(self, source: Source, indices: "np.ndarray | list[int]") -> None:
        chosen = np.asarray(indices, dtype=np.int64)
        whole: Source = source
        if isinstance(source, Subset):
            whole, chosen = source.source, source.indices[chosen]
        self.source: Source = whole
        self.indices: np.ndarray = chosen

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int, /) -> Sample | EncodedSample:
        return self.source[self._at(index)]

    def key(self, index: int) -> str:
        """The name of a sample, without reading it."""
        return key_at(self.source, self._at(index))

    def captions(self, index: int) -> tuple[str, ...]:
        """The captions of a sample, without its picture being decoded where that is possible."""
        return captions_at(self.source, self._at(index))

    def origin(self, index: int) -> tuple[Source, int]:
        """Where a sample is from: a source, and its number there."""
        return origin_of(self.source, self._at(index))

    def _at(self, index: int) -> int:
        if not 0 <= index < len(self):
            raise IndexError(index)
        return int(self.indices[index])


@dataclass(frozen=True, kw_only=True, slots=True)
class Split:
    """A data set in two parts that share no sample."""

    train: Source
    held_out: Source


def split_held_out(
    source: Source, *, fraction: float | None = None, count: int | None = None, seed: int = 0
) -> Split:
    """Hold out samples by a hash of their keys.

    A sample's side does not depend on the others under `fraction`, and changes for few under
    `count`, when samples are added later. Keys that differ in their extension only fall on
    the same side. At least one sample is on each side.

    Args:
        fraction: about this share of the samples is held out, in (0, 1).
        count: exactly so many samples are held out (more, if keys that belong together need it).
            Give one of the two.
        seed: another one holds out others.

    Raises:
        ConfigError: the numbers leave nothing on one side.
    """
    size = len(source)
    hashes = np.fromiter(
        (hash_of_key(key_at(source, i), seed) for i in range(size)), dtype=np.uint64, count=size
    )
    distinct = np.unique(hashes)
    if len(distinct) < 2:
        raise ConfigError(f"{size} samples cannot be split in two parts; give a held-out data set")
    if fraction is not None and count is None and 0 < fraction < 1:
        limit = np.uint64(int(fraction * 2**64))
    elif count is not None and fraction is None and 0 < count < size:
        limit = np.sort(hashes)[count - 1]
    else:
        raise ConfigError(
            f"held-out fraction {fraction}, count {count}; give one of the two, a fraction in "
            f"(0, 1) or a count in (0, {size})"
        )
    limit = min(max(limit, distinct[0]), distinct[-2])
    held_out = hashes <= limit
    return Split(
        train=Subset(source, np.flatnonzero(~held_out)),
        held_out=Subset(source, np.flatnonzero(held_out)),
    )


def key_at(source: Source, index: int) -> str:
    """The key of a sample: told by the source without reading the sample, or else the number."""
    key = getattr(source, "key", None)
    return key(index) if callable(key) else str(index)


def captions_at(source: Source, index: int) -> tuple[str, ...]:
    """The captions of a sample, told by the source or read from the sample."""
    captions = getattr(source, "captions", None)
    return captions(index) if callable(captions) else source[index].captions


def origin_of(source: Source, index: int) -> tuple[Source, int]:
    """The data set that a sample of a part or a mixture is from, and its number there."""
    origin = getattr(source, "origin", None)
    return origin(index) if callable(origin) else (source, index)


def mark_at(source: Source, index: int) -> str:
    """What changes when a sample's file does, told by a source that `is_marked`.

    Raises:
        DataError: the file is gone.
    """
    whole, number = origin_of(source, index)
    return str(whole.mark(number))  # type: ignore[attr-defined]


def is_marked(source: Source) -> bool:
    """Whether a source tells when its samples change, in all its parts."""
    if isinstance(source, Subset):
        return is_marked(source.source)
    parts = getattr(source, "sources", None)
    return hasattr(source, "mark") if parts is None else all(map(is_marked, parts))


def all_captions(source: Source) -> Iterator[str]:
    """Every caption of a source, for training a tokenizer; damaged samples are passed over."""
    for index in range(len(source)):
        try:
            yield from captions_at(source, index)
        except DataError:
            continue


def hash_of_key(key: str, seed: int) -> int:
    """What decides on which side of a split a sample is: in [0, 2**64)."""
    data = f"{seed}/{os.path.splitext(key)[0]}".encode("utf-8", "surrogatepass")
    return int.from_bytes(blake2b(data, digest_size=8).digest(), "little")
