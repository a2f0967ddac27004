"""Work done behind other work, one piece at a time and in order.

While a launch is sampled, the pictures of the one before are decoded and scored. On a GPU that
has a stream of its own; on a CPU the two would only share the cores.
"""

import contextlib
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Generic, TypeVar

import torch

T = TypeVar("T")


def runs_beside(device: torch.device) -> bool:
    """Whether work on a device gains from running beside other work there."""
    return device.type == "cuda"


class Behind(Generic[T]):
    """A place to leave work at, whose results come in the order in which it was left.

    At most one piece waits or runs: whoever leaves the next one waits for it, and gets its error.
    What a piece reads and gives should be on the host, since it runs in a thread and a stream of
    its own. Leaving the `with` block by an error ends after the piece in hand.

    Args:
        device: where the work is done.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._results: list[T] = []
        self._pending: Future[T] | None = None
        self._pool = ThreadPoolExecutor(max_workers=1) if runs_beside(device) else None
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def __enter__(self) -> "Behind[T]":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def add(self, work: Callable[[], T]) -> None:
        """Leave a piece of work."""
        if self._pool is None:
            self._results.append(work())
            return
        self._wait()
        self._pending = self._pool.submit(self._run, work)

    def results(self) -> list[T]:
        """What all pieces gave, in their order."""
        self._wait()
        return self._results

    def _wait(self) -> None:
        if self._pending is not None:
            pending, self._pending = self._pending, None
            self._results.append(pending.result())

    def _run(self, work: Callable[[], T]) -> T:
        stream = (
            contextlib.nullcontext() if self._stream is None else torch.cuda.stream(self._stream)
        )
        with stream:
            return work()
