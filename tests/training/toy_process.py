"""Processes that train the toy, forked from one that has imported everything already.

Starting is what takes longest: torch, accelerate and DeepSpeed need seconds each.
"""

import json
import multiprocessing
import os
import sys
import time
from pathlib import Path
from typing import Any

import torch

from dalle.training import tracking
from tests.training.train_toy import die_at_call, train_toy

# The first optimizer of a process imports torch's compiler, which takes seconds.
torch.optim.AdamW([torch.zeros(1, requires_grad=True)])

CONTEXT = multiprocessing.get_context("forkserver")
# What accelerate and DeepSpeed import when they are asked to.
CONTEXT.set_forkserver_preload(
    [__name__, "transformers", "deepspeed", "deepspeed.runtime.zero.muon.muon_optimizer"]
)


class ToyProcess:
    """The toy in training; `said` is what it wrote to the terminal."""

    def __init__(
        self,
        out: Path,
        *,
        die_at: int = 0,
        task: dict[str, Any] | None = None,
        **changes: Any,
    ) -> None:
        self._log = out.with_name(f"{out.name}.log")
        self._log.unlink(missing_ok=True)
        self.process = CONTEXT.Process(
            target=_train,
            args=(str(out), changes, task or {}, die_at, str(self._log)),
            daemon=True,
        )
        self.process.start()

    @property
    def said(self) -> str:
        return _read(self._log)

    @property
    def pid(self) -> int:
        assert self.process.pid is not None
        return self.process.pid

    @property
    def running(self) -> bool:
        return self.process.is_alive()

    def wait(self) -> int:
        """The exit status, negative after a signal."""
        self.process.join(60)
        assert self.process.exitcode is not None, f"it hangs:\n{self.said}"
        return self.process.exitcode

    def wait_for(self, text: str, file: Path | None = None) -> None:
        """Until it has said `text`, or written it to `file`."""
        deadline = time.monotonic() + 60
        while text not in (self.said if file is None else _read(file)):
            assert self.running and time.monotonic() < deadline, self.said
            time.sleep(0.002)

    def kill(self) -> int:
        self.process.kill()
        return self.wait()


def _read(file: Path) -> str:
    return file.read_text() if file.exists() else ""


def finish(out: Path, **options: Any) -> str:
    """Train to the end; what was said."""
    process = ToyProcess(out, **options)
    assert process.wait() == 0, process.said
    return process.said


def curve(out: Path) -> list[dict[str, float]]:
    """metrics.jsonl without its times."""
    lines = [json.loads(text) for text in (out / tracking.METRICS).read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in tracking.TIME_FIELDS} for line in lines]


def _train(out: str, changes: dict[str, Any], task: dict[str, Any], die_at: int, log: str) -> None:
    torch.set_num_threads(1)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    if die_at:
        die_at_call(die_at)
    sys.exit(train_toy(out, changes, task))
