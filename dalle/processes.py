"""Processes that work together: small tensors and values between them, and one error for all."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from jaxtyping import Shaped
from torch import Tensor

from dalle import errors
from dalle.errors import DalleError, RankError

TIMEOUT = timedelta(minutes=70)
"""Of waiting for one another: longer than training lets anything take, which then says more."""
MAIN = 0
MESSAGE_LETTERS = 4000
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class Processes:
    """All processes that do one piece of work, as one of them sees them.

    Each method but `lost` is called by all of them, in the same order.
    """

    rank: int
    size: int
    control: Any
    """The process group for what is small, on the host (gloo); None for one process."""

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and talks."""
        return self.rank == MAIN

    def sum(self, values: Sequence[float]) -> list[float]:
        """Each value summed over all processes, in float64."""
        if self.size == 1:
            return list(values)
        tensor = torch.tensor(values, dtype=torch.float64)
        self._talk(lambda: dist.all_reduce(tensor, group=self.control))
        return [float(value) for value in tensor.tolist()]

    def barrier(self) -> None:
        """Wait for all processes."""
        self.sum([0.0])

    def gather(self, rows: Shaped[Tensor, "n *rest"]) -> list[Tensor]:
        """The rows of each process, by rank, on the main process; on the others nothing.

        Args:
            rows: on the host; any number of them, of the same shape and dtype everywhere.

        Raises:
            RankError: a process is gone; it is named.
        """
        if self.size == 1:
            return [rows]
        if not self.is_main:
            number = torch.tensor([len(rows)])
            self._talk(lambda: dist.send(number, MAIN, group=self.control), "the main process")
            sent = rows.contiguous()
            self._talk(lambda: dist.send(sent, MAIN, group=self.control), "the main process")
            return []
        return [rows, *(self._receive(rank, rows) for rank in range(1, self.size))]

    def _receive(self, rank: int, like: Tensor) -> Tensor:
        # One after another, so that it is known who is gone.
        number = torch.zeros(1, dtype=torch.long)
        self._talk(lambda: dist.recv(number, rank, group=self.control), f"process {rank}")
        rows = like.new_empty((int(number), *like.shape[1:]))
        self._talk(lambda: dist.recv(rows, rank, group=self.control), f"process {rank}")
        return rows

    def gather_values(self, value: Any) -> list[Any]:
        """The JSON value of each process, by rank, on the main process; on the others nothing."""
        return [json.loads(bytes(data.tolist())) for data in self.gather(_packed(value))]

    def on_main(self, work: Callable[[], T]) -> T:
        """Run `work` on the main process; all get its result, or its error.

        Args:
            work: gives a JSON value.
        """
        if self.size == 1:
            return work()
        result: T = self._tell(self.together(lambda: work() if self.is_main else None))
        return result

    def together(self, work: Callable[[], T]) -> T:
        """Run `work` on every process; where it fails on one, it fails on all.

        Args:
            work: does not talk to the others.
        """
        if self.size == 1:
            return work()
        error: Exception | None = None
        try:
            result = work()
        except Exception as raised:
            error = raised
        self.agree(error)
        return result

    def agree(self, error: Exception | None) -> None:
        """Go on only if no process has an error; else all raise the first one's.

        One that is no `DalleError` is a `RankError` to the others.
        """
        if self.size == 1:
            if error is not None:
                raise error
            return
        heard = self.gather_values(None if error is None else _said(error))
        first = next(([rank, *said] for rank, said in enumerate(heard) if said), None)
        told = self._tell(first)
        if error is not None:
            raise error
        if told is not None:
            rank, name, message = told
            raise getattr(errors, name, RankError)(f"process {rank}: {message}")

    def _tell(self, value: Any) -> Any:
        """The main process's JSON value, on all."""
        data = _packed(value)
        size = torch.tensor([len(data)])
        self._talk(lambda: dist.broadcast(size, MAIN, group=self.control))
        if not self.is_main:
            data = torch.empty(int(size), dtype=torch.uint8)
        self._talk(lambda: dist.broadcast(data, MAIN, group=self.control))
        return json.loads(bytes(data.tolist()))

    def _talk(self, call: Callable[[], object], whom: str = "the others") -> None:
        try:
            call()
        except RuntimeError as error:
            raise self.lost(error, whom) from None

    def lost(self, error: RuntimeError, whom: str = "the others") -> RankError:
        """What to say when the processes cannot reach one another any more."""
        reason = str(error).splitlines()[0]
        return RankError(
            f"process {self.rank} of {self.size} lost {whom} ({reason}); see what each process "
            "said, on the terminal or in the logs of a run's folder, then run the same command "
            "again"
        )


ALONE = Processes(rank=0, size=1, control=None)


def lost_others(error: RuntimeError) -> bool:
    """Whether torch says that another process is gone, or does not answer."""
    return isinstance(error, dist.DistError) or "gloo" in str(error)


def _packed(value: Any) -> Tensor:
    return torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)


def _said(error: Exception) -> tuple[str, str]:
    """What is raised elsewhere: the name of a class of `dalle.errors`, and its message."""
    if isinstance(error, DalleError):
        return type(error).__name__, str(error)[:MESSAGE_LETTERS]
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return errors.OutOfMemoryError.__name__, f"out of memory: {error}"[:MESSAGE_LETTERS]
    return RankError.__name__, f"{type(error).__name__}: {error}"[:MESSAGE_LETTERS]
