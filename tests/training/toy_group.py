"""Processes that train the toy together, as a launcher would have started them."""

import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from dalle.training import tracking
from tests.training.toy_process import CONTEXT
from tests.training.train_toy import train_toy

SECONDS = 120
ZERO = {
    stage: {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": str(stage)}
    for stage in (1, 2, 3)
}
OPTIMIZER_ON_HOST = {"ACCELERATE_DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE": "cpu"}
WEIGHTS_ON_HOST = {"ACCELERATE_DEEPSPEED_OFFLOAD_PARAM_DEVICE": "cpu"}
FSDP2 = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}
ENVIRONMENTS: dict[str, dict[str, str]] = {
    "single": {},
    "ddp": {"ACCELERATE_USE_CPU": "true"},
    "zero1": ZERO[1],
    "zero2": ZERO[2],
    "zero2-offload": ZERO[2] | OPTIMIZER_ON_HOST,
    "zero3": ZERO[3],
    "zero3-offload": ZERO[3] | OPTIMIZER_ON_HOST | WEIGHTS_ON_HOST,
    "fsdp2": FSDP2,
    "fsdp2-offload": FSDP2 | {"FSDP_OFFLOAD_PARAMS": "true"},
}
"""What `accelerate launch` sets for each launcher file, as far as it counts, and for none."""


class Group:
    """Processes that work together; `said` is what all of them wrote to the terminal."""

    def __init__(
        self,
        work: Callable[..., int],
        *arguments: Any,
        log: Path,
        strategy: str,
        size: int = 2,
    ) -> None:
        self._log = log
        self._log.unlink(missing_ok=True)
        environment = {
            **ENVIRONMENTS[strategy],
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(_free_port()),
            "WORLD_SIZE": str(size),
            "GLOO_SOCKET_IFNAME": "lo",
        }
        self.processes = [
            CONTEXT.Process(
                target=_be_one, args=(work, arguments, environment, rank, str(log)), daemon=True
            )
            for rank in range(size)
        ]
        for process in self.processes:
            process.start()

    @property
    def said(self) -> str:
        return self._log.read_text() if self._log.exists() else ""

    def wait(self) -> list[int]:
        """The exit statuses by rank, negative after a signal."""
        deadline = time.monotonic() + SECONDS
        for process in self.processes:
            process.join(max(0.0, deadline - time.monotonic()))
        statuses = [process.exitcode for process in self.processes]
        if None in statuses:
            self.kill()
            raise AssertionError(f"it hangs:\n{self.said}")
        return [status for status in statuses if status is not None]

    def wait_for(self, text: str, file: Path) -> None:
        """Until there is `text` in `file`."""
        deadline = time.monotonic() + SECONDS
        while not (file.exists() and text in file.read_text()):
            running = all(process.is_alive() for process in self.processes)
            assert running and time.monotonic() < deadline, self.said
            time.sleep(0.002)

    def kill(self) -> list[int]:
        for process in self.processes:
            process.kill()
        return self.wait()


class ToyGroup(Group):
    """The toy in training."""

    def __init__(
        self,
        out: Path,
        *,
        strategy: str,
        size: int = 2,
        task: dict[str, Any] | None = None,
        **changes: Any,
    ) -> None:
        log = out.with_name(f"{out.name}.log")
        arguments = (str(out), changes, task or {})
        super().__init__(train_toy, *arguments, log=log, strategy=strategy, size=size)


def finish_together(out: Path, **options: Any) -> str:
    """Train to the end; what was said."""
    group = ToyGroup(out, **options)
    assert set(group.wait()) == {0}, group.said
    return group.said


def kill_after(step: int, out: Path, **options: Any) -> None:
    """Start, and kill all processes at once when that many steps are done, and what was to be
    saved by then is."""
    group = ToyGroup(out, task={"slow_at": step, "wait_for_saves": True}, **options)
    group.wait_for(f'"step": {step},', out / tracking.METRICS)
    assert set(group.kill()) == {-signal.SIGKILL}, group.said


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _be_one(
    work: Callable[..., int],
    arguments: tuple[Any, ...],
    environment: dict[str, str],
    rank: int,
    log: str,
) -> None:
    torch.set_num_threads(1)
    os.environ |= {**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)}
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    status = work(*arguments)
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    sys.exit(status)
