"""Micro-batches read ahead by worker processes, which may die or hang."""

import itertools
import logging
import os
import signal
import threading
import warnings
from collections import deque
from collections.abc import Generator, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from dalle.data.handing import Handed, HandedParts
from dalle.data.parts import Part, Parts
from dalle.data.streamed import StreamParts
from dalle.device_memory import keep_freed_memory
from dalle.errors import DataError

POLL_SECONDS = 5.0
"""How soon the death of a worker is noticed."""

_log = logging.getLogger(__name__)


def read_in_workers(
    parts: Parts | StreamParts,
    items: Iterator[Any],
    *,
    num_workers: int,
    timeout: float,
    pinned: bool = False,
) -> Generator[Part]:
    """The micro-batches of `items`, in order.

    When a worker dies or does not answer, the micro-batch that was waited for is read again by a
    new worker on its own, and all workers are started again after it.

    Args:
        parts: reads an item.
        items: what the workers are given one after another.
        timeout: seconds to wait for one micro-batch.
        pinned: whether a thread puts their arrays where a GPU fetches them by itself.

    Raises:
        DataError: the same micro-batch was lost twice; it names the step and the samples.
    """
    workers = None
    given: deque[Any] = deque()
    places: dict[int, Tensor] = {}

    def giving(some: Iterator[Any]) -> Iterator[Any]:
        for item in some:
            given.append(item)
            yield item

    while True:
        if workers is None:
            again = list(given)
            given.clear()
            following = giving(itertools.chain(again, items))
            workers = _start(parts, following, num_workers, timeout=timeout, pinned=pinned)
            places.clear()
        try:
            handed = _wait_for(workers, timeout)
            given.popleft()
            if isinstance(handed, Handed):
                # What is still mapped when it comes again need not be mapped again.
                places[handed.place.data_ptr()] = handed.place
            part = _taken(handed)
        except _WorkerLost as lost:
            workers = None
            item = given.popleft()
            step, _ = parts.described(item)
            _log.warning("reading step %d: %s; it is read again by a new worker", step, lost)
            part = _read_alone(parts, item, timeout=timeout, pinned=pinned)
        yield part


def _read_alone(parts: Parts | StreamParts, item: Any, *, timeout: float, pinned: bool) -> Part:
    """Read one micro-batch in a new worker: nothing else that it reads ahead can kill it."""
    try:
        worker = _start(parts, iter([item]), 1, timeout=timeout, pinned=pinned)
        return _taken(_wait_for(worker, timeout))
    except _WorkerLost as lost:
        step, samples = parts.described(item)
        raise DataError(
            f"step {step} could not be read in two attempts: {lost}. Its samples are {samples}. "
            "Workers die when memory or /dev/shm is full; with 0 workers an error shows where it "
            "happens"
        ) from None


class _WorkerLost(Exception):
    """A worker died or does not answer."""


def _start(
    parts: Parts | StreamParts,
    items: Iterator[Any],
    num_workers: int,
    *,
    timeout: float,
    pinned: bool,
) -> Iterator[Handed | Part]:
    # Without it, `tokenizers` prints a warning in every worker: it was used before the fork.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    in_main = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGCHLD) if in_main else None
    with warnings.catch_warnings():
        # More workers than cores is the user's choice: reading may wait for disks.
        warnings.filterwarnings("ignore", message="This DataLoader will create")
        workers = iter(
            DataLoader(
                HandedParts(parts=parts),
                batch_size=None,
                sampler=items,  # type: ignore[arg-type]
                num_workers=num_workers,
                pin_memory=pinned,
                timeout=min(POLL_SECONDS, timeout),
                worker_init_fn=_settle,
                generator=torch.Generator(),  # the global one stays untouched
            )
        )
    if in_main:
        # torch's handler raises wherever the program is when a worker dies, perhaps in the middle
        # of a training step; waiting for the next part notices it as well.
        signal.signal(signal.SIGCHLD, handler)
    return workers


def _taken(part: Handed | Part) -> Part:
    return part if isinstance(part, Part) else part.taken()


def _wait_for(workers: Iterator[Handed | Part], timeout: float) -> Handed | Part:
    """The next part; torch looks after its workers each time its own waiting ends."""
    waited = 0.0
    while True:
        try:
            return next(workers)
        except RuntimeError as error:
            if str(error).startswith("Caught"):  # `read` raised it, and no worker was lost
                raise
            if "timed out" not in str(error):
                raise _WorkerLost("a worker process died") from None
            waited += POLL_SECONDS
            if waited >= timeout:
                raise _WorkerLost(f"no answer for {timeout:.0f} s") from None


def _settle(_: int) -> None:
    """What each worker begins with."""
    # Ctrl-C reaches all processes: the workers go on, so that the step can end and be saved.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    keep_freed_memory()
