"""The processes of a run: one on a CPU or a GPU, or many under a launcher."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from accelerate import Accelerator

from dalle import errors
from dalle.errors import DalleError, RankError

TIMEOUT = timedelta(minutes=70)
"""Of waiting for one another: longer than watch.py lets anything take, which says more."""
MESSAGE_BYTES = 4096
DIVIDING = ("zero3", "fsdp2")
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class World:
    """All processes of a run, as one of them sees them."""

    accelerator: Accelerator
    rank: int
    size: int
    strategy: str
    """ "single", "ddp", "fsdp2" or "zero" with its stage."""
    offload: bool
    """Whether the optimizer's state, and what is divided of the weights, is kept on the host."""
    precision: str
    """ "float32", "bfloat16" or "float16"."""
    control: Any
    """The process group for small numbers on the host; None for one process."""

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and talks."""
        return self.rank == 0

    @property
    def divides_weights(self) -> bool:
        """Whether each process has only its part of the weights."""
        return self.strategy in DIVIDING

    @property
    def device(self) -> torch.device:
        """Where this process computes."""
        return self.accelerator.device

    def sum(self, values: Sequence[float]) -> list[float]:
        """Each value summed over all processes, in float64."""
        if self.size == 1:
            return list(values)
        tensor = torch.tensor(values, dtype=torch.float64)
        self._collective(lambda: dist.all_reduce(tensor, group=self.control))
        return [float(value) for value in tensor.tolist()]

    def barrier(self) -> None:
        """Wait for all processes."""
        self.sum([0.0])

    def on_main(self, work: Callable[[], T]) -> T:
        """Run `work` on the main process; all get its result, or its error.

        Args:
            work: gives a JSON value.
        """
        if self.size == 1:
            return work()
        answer = ""
        error: DalleError | None = None
        if self.is_main:
            try:
                answer = json.dumps({"value": work()})
            except DalleError as raised:
                error = raised
        self.agree(error)
        size = torch.tensor([len(answer.encode())])
        self._collective(lambda: dist.broadcast(size, src=0, group=self.control))
        data = torch.zeros(int(size), dtype=torch.uint8)
        if self.is_main:
            data = torch.frombuffer(bytearray(answer.encode()), dtype=torch.uint8)
        self._collective(lambda: dist.broadcast(data, src=0, group=self.control))
        result: T = json.loads(bytes(data.tolist()))["value"]
        return result

    def agree(self, error: DalleError | None) -> None:
        """Go on only if no process has an error; else all raise the first one's."""
        if self.size == 1:
            if error is not None:
                raise error
            return
        text = "" if error is None else f"{type(error).__name__}\n{error}"
        mine = torch.zeros(MESSAGE_BYTES, dtype=torch.uint8)
        encoded = text.encode()[:MESSAGE_BYTES]
        mine[: len(encoded)] = torch.tensor(list(encoded), dtype=torch.uint8)
        everyone = [torch.zeros_like(mine) for _ in range(self.size)]
        self._collective(lambda: dist.all_gather(everyone, mine, group=self.control))
        if error is not None:
            raise error
        for rank, message in enumerate(everyone):
            raw = bytes(message.tolist()).rstrip(b"\0").decode(errors="replace")
            if raw:
                name, _, said = raw.partition("\n")
                raise getattr(errors, name, RankError)(f"process {rank}: {said}")

    def _collective(self, call: Callable[[], object]) -> None:
        try:
            call()
        except RuntimeError as error:
            raise self.lost(error) from None

    def lost(self, error: RuntimeError) -> RankError:
        """What to say when the processes cannot reach one another any more."""
        reason = str(error).splitlines()[0]
        return RankError(
            f"process {self.rank} of {self.size} lost the others ({reason}); see the logs of all "
            "in the run's folder, then run the same command again"
        )


def lost_others(error: RuntimeError) -> bool:
    """Whether torch says that another process is gone, or does not answer."""
    return isinstance(error, dist.DistError) or "gloo" in str(error)
