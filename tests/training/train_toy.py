"""Trains the toy in a process of its own, so that it can be killed, signalled or launched.

python train_toy.py OUT[,OUT...] [JSON of TrainConfig changes]
"""

import contextlib
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from dalle.config import from_json
from dalle.errors import DalleError
from dalle.training import steps
from dalle.training.loop import TrainConfig, train
from dalle.training.saver import Saver
from tests.toys import ToyConfig, ToySource, ToyTask

DEFAULTS: dict[str, Any] = {
    "steps": 30,
    "batch_size": 8,
    "optim": {"lr": 1e-2, "weight_decay": 0.1, "clip_norm": 1.0, "schedule": {"warmup": 3}},
    "ema_decay": 0.9,
    "log_every": 1,
    "validate_every": 10,
    "preview_every": 0,
    "save_every": 5,
}
WRITING = ("open", "os.rename", "os.mkdir", "shutil.rmtree", "os.link", "os.truncate")


def train_toy(out: str, changes: dict[str, Any], task: dict[str, Any]) -> int:
    """Train; the exit status is the one that the command would have.

    Args:
        out: the run's folder.
        changes: of the defaults.
        task: what the toy is built with; `wait_for_saves` besides lets no step begin before what is
            saved is whole.
    """
    if task.pop("wait_for_saves", False):
        steps.Saver = WaitingSaver  # type: ignore[misc]
    toy = ToyTask(config=ToyConfig(width=8, depth=1, dropout=0.2), **task)
    try:
        result = train(
            toy,
            from_json(TrainConfig, DEFAULTS | changes),
            train_source=ToySource(),
            held_out_source=ToySource(size=7),
            out=out,
        )
    except DalleError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return error.exit_status
    except KeyboardInterrupt:
        return 130
    print(f"finished at step {result.step}", file=sys.stderr)
    return 0


class WaitingSaver(Saver):
    """Writes while training waits: what a killed run has saved depends on no other work then."""

    def save(self, step: int, **more: Any) -> None:
        """Begin, and wait for the end."""
        super().save(step, **more)
        self.finish()


def die_at_call(number: int) -> None:
    """SIGKILL this process at the n-th of the calls that write a checkpoint."""
    calls = 0

    def count(event: str, args: tuple[Any, ...]) -> None:
        nonlocal calls
        if event not in WRITING:
            return
        if event == "open" and not (isinstance(args[0], str) and ".tmp-" in args[0]):
            return
        calls += 1
        if calls == number:
            os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(60)

    sys.addaudithook(count)


if __name__ == "__main__":
    changes = json.loads(sys.argv[2]) if len(sys.argv) > 2 else {}
    status = max(train_toy(out, changes, {}) for out in sys.argv[1].split(","))
    with contextlib.suppress(ImportError, AssertionError, ValueError):
        import torch.distributed as dist

        if dist.is_initialized():
            dist.destroy_process_group()
    sys.exit(status)
