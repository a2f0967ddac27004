"""Batches for training: sharded, resumable, always whole; and fixed ones for judging."""

import dataclasses
import itertools
import json
import logging
import re
from collections import Counter
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from random import Random
from typing import Any, cast

import numpy as np
from torch import Tensor

from dalle.data.order import permutation
from dalle.data.parts import Part, Parts, Read, Unused, stack
from dalle.data.streamed import StreamParts
from dalle.data.workers import read_in_workers
from dalle.errors import ConfigError, DataError
from dalle.protocols import Source, Stream

MIN_BAD = 8
"""So many damaged samples are borne in any data set, however small."""

_PARTICULAR = re.compile(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"|\d+")
_log = logging.getLogger(__name__)


class Loader:
    """Endless batches. Iterating gives, for each step from `start_step` on, this rank's share.

    The sample at position step * batch_size + k is a function of the seed alone, so the batches of
    all ranks together are the same for every number of ranks, micro-batches and workers, and a
    run that resumes at a step reads what it would have read. A data set smaller than a batch
    is gone through several times in one.

    A damaged sample (DataError) and one that `read` leaves out (None) is replaced by another,
    chosen by (seed, epoch, index). Damaged ones are told once each in `bad_samples`, with what
    stood in, and the first of each sort in the log. When there are more than `max_bad_fraction` of
    the samples seen (and more than 8), iterating raises DataError, which counts them by reason. So
    it does when the same batch cannot be read by two sets of workers.

    Args:
        source: the samples; a stream is read from its beginning by every process, and decoded by
            the workers of those whose share it is.
        read: a sample and its own generator to arrays of fixed shapes; runs in the workers.
        batch_size: of all ranks together.
        seed: of the order and of the samples' generators.
        rank, world: which share of each batch this is.
        micro_batches: how many parts the share is read in.
        num_workers: processes that read, each two parts ahead; 0 reads here.
        pinned: whether arrays are put where a GPU fetches them by itself.
        start_step: the first step to give.
        bad_samples: JSON-lines file that damaged samples are appended to.
        max_bad_fraction: in [0, 1].
        timeout: seconds to wait for a worker.

    Raises:
        ConfigError: the batch cannot be divided so.
        DataError: the source is empty.
    """

    def __init__(
        self,
        source: Source | Stream,
        read: Read,
        *,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world: int = 1,
        micro_batches: int = 1,
        num_workers: int = 0,
        pinned: bool = False,
        start_step: int = 0,
        bad_samples: Path | None = None,
        max_bad_fraction: float = 0.01,
        timeout: float = 120,
    ) -> None:
        parts = world * micro_batches
        if batch_size < 1 or parts < 1 or batch_size % parts:
            raise ConfigError(
                f"a batch of {batch_size} cannot be divided among {world} processes with "
                f"{micro_batches} micro-batches each; use a multiple of {parts}"
            )
        kind: type[Parts] | type[StreamParts] = StreamParts
        if hasattr(source, "__len__"):
            kind = Parts
            if len(cast(Source, source)) == 0:
                raise DataError("the data set is empty")
        self._parts = kind(
            source=source,  # type: ignore[arg-type]
            read=read,
            batch_size=batch_size,
            seed=seed,
            rank=rank,
            world=world,
            micro_batches=micro_batches,
        )
        self._num_workers = num_workers
        self._pinned = pinned
        self._start_step = start_step
        self._bad_samples = bad_samples
        self._max_bad_fraction = max_bad_fraction
        self._timeout = timeout
        self._bad: dict[int, str] = {}
        self._seen = 0
        self.num_left_out = 0
        """Samples that `read` left out, so far."""

    @property
    def num_bad(self) -> int:
        """Different damaged samples met so far."""
        return len(self._bad)

    def __iter__(self) -> Iterator[list[dict[str, Tensor]]]:
        micro_batches = self._parts.micro_batches
        # Closed at once, also when an error leaves: workers whose end is left to the garbage
        # collector take five seconds over it.
        with closing(self._read(self._parts.items(self._start_step))) as parts:
            while True:
                batch = []
                for part in itertools.islice(parts, micro_batches):
                    self._count(part)
                    batch.append(part.arrays)
                yield batch

    def _read(self, items: Iterator[Any]) -> Generator[Part]:
        if self._num_workers == 0:
            read = (self._parts[item] for item in items)
            return (part.pin_memory() for part in read) if self._pinned else read
        return read_in_workers(
            self._parts,
            items,
            num_workers=self._num_workers,
            pinned=self._pinned,
            timeout=self._timeout,
        )

    def _count(self, part: Part) -> None:
        fresh: dict[int, Unused] = {}
        for one in part.unused:
            if one.reason is None:
                self.num_left_out += 1
            elif one.index not in self._bad and one.index not in fresh:
                fresh[one.index] = one
        for one in fresh.values():
            self._tell(one)
        if fresh and self._bad_samples is not None:
            lines = [json.dumps(dataclasses.asdict(one)) for one in fresh.values()]
            with self._bad_samples.open("a", encoding="utf-8") as file:
                file.write("".join(line + "\n" for line in lines))
        if part.error is not None:
            raise part.error
        self._seen += self._parts.size
        if fresh and len(self._bad) > max(MIN_BAD, self._max_bad_fraction * self._seen):
            told = "; ".join(f"{n} x {reason}" for reason, n in self.bad_by_reason().most_common(5))
            listed = f" ({self._bad_samples} lists them)" if self._bad_samples is not None else ""
            raise DataError(
                f"{len(self._bad)} of the {self._seen} samples read so far are damaged, more "
                f"than {self._max_bad_fraction:.2%}: {told}{listed}; one of them: "
                f"{next(iter(fresh.values())).reason}. Mend or remove them, or allow more "
                "(--max-bad)"
            )

    def bad_by_reason(self) -> Counter[str]:
        """How many damaged samples were met, by what is wrong with them."""
        return Counter(self._bad.values())

    def _tell(self, one: Unused) -> None:
        reason = sort_of_reason(str(one.reason))
        if reason not in self._bad.values():
            _log.warning(
                "%s; another sample stands in for it, here and for all like it", one.reason
            )
        self._bad[one.index] = reason


def sort_of_reason(reason: str) -> str:
    """What is wrong, without the name and the numbers of the single file."""
    return _PARTICULAR.sub("...", reason)


def fixed_batches(
    source: Source, read: Read, *, count: int, batch_size: int
) -> Iterator[dict[str, Tensor]]:
    """The same samples in the same order at every call, for numbers on held-out data.

    They are spread over the whole source; each has a generator that depends on its key alone.
    Damaged samples and those that `read` leaves out are absent, and the last batch may be
    smaller.

    Args:
        count: how many samples; fewer where the source has fewer.
        batch_size: the most in one batch.
    """
    rows: list[Mapping[str, np.ndarray]] = []
    left = count
    for index in permutation(0, 0, len(source)).tolist():
        if left == 0:
            break
        try:
            sample = source[index]
            row = read(sample, Random(sample.key))
        except DataError:
            continue
        if row is None:
            continue
        rows.append(row)
        left -= 1
        if len(rows) == batch_size:
            yield stack(rows)
            rows = []
    if rows:
        yield stack(rows)
