"""A process of many that hangs, fails or dies: the run ends, and says which one, where and why."""

import os
import signal
import socket
import sys
import time
from pathlib import Path

import pytest
import torch

from dalle.config import from_json
from dalle.errors import DalleError
from dalle.training import loop, watch
from dalle.training.loop import TrainConfig, train
from dalle.training.watch import log_path, silent_processes
from tests.toys import ToySource, ToyTask
from tests.training.toy_process import CONTEXT
from tests.training.train_toy import DEFAULTS

pytestmark = pytest.mark.distributed
AT_STEP = 4


def fall_asleep() -> None:
    time.sleep(60)


def fail() -> None:
    raise ValueError("a bug of one process")


def be_killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def be_stopped() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


FAULTS = {fault.__name__: fault for fault in (fall_asleep, fail, be_killed, be_stopped)}


def train_with(fault: str, rank: int, out: str, port: int) -> None:
    """One of two processes; number 1 has the fault at a step."""
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "GLOO_SOCKET_IFNAME": "lo"}
    os.environ["ACCELERATE_USE_CPU"] = "true"
    os.dup2(os.open(f"{out}.{rank}", os.O_WRONLY | os.O_CREAT), 2)
    loop.STEP_SECONDS, watch.BEAT_SECONDS, watch.SILENT_SECONDS = 2.0, 0.2, 1.0

    def on_step(step: int) -> None:
        if rank == 1 and step + 1 == AT_STEP:
            FAULTS[fault]()

    try:
        train(
            ToyTask(on_step=on_step),
            from_json(TrainConfig, DEFAULTS),
            train_source=ToySource(),
            held_out_source=None,
            out=out,
        )
    except DalleError as error:
        sys.exit(error.exit_status)


def train_two(fault: str, out: Path) -> tuple[list[int | None], list[str]]:
    """Their exit statuses (None for one that still hangs), and what each said."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    processes = [
        CONTEXT.Process(target=train_with, args=(fault, rank, str(out), port)) for rank in range(2)
    ]
    for process in processes:
        process.start()
    for process in processes if fault != "be_stopped" else processes[:1]:
        process.join(60)
    statuses = [process.exitcode for process in processes]
    for process in processes:
        process.kill()
        process.join()
    return statuses, [Path(f"{out}.{rank}").read_text() for rank in range(2)]


def test_one_that_hangs_ends_the_run_with_its_stack(tmp_path: Path) -> None:
    out = tmp_path / "run"
    statuses, said = train_two("fall_asleep", out)
    assert statuses == [9, 9]
    host = socket.gethostname()
    assert f"dalle: process 1 of 2 ({host}) has been in step 4 for 2 s and ends" in said[1]
    for text in (said[1], log_path(out, 1).read_text()):
        assert "in fall_asleep" in text
    assert f"process 0 of 2 ({host})" in said[0] and "fall_asleep" not in said[0]


def test_one_that_fails_leaves_its_traceback_and_ends_the_others(tmp_path: Path) -> None:
    out = tmp_path / "run"
    statuses, said = train_two("fail", out)
    assert statuses == [9, 1]
    assert "failed in step 4: ValueError('a bug of one process')" in said[1]
    assert "in fail" in log_path(out, 1).read_text()
    assert "failed in step 4: process 0 of 2 lost the others" in said[0]


def test_one_that_is_killed_is_named_by_the_others(tmp_path: Path) -> None:
    out = tmp_path / "run"
    stale = log_path(out, 7).with_suffix(".json")
    stale.parent.mkdir(parents=True)
    stale.write_text('{"pid": 999999999, "host": "another", "at": "step 1"}')
    os.utime(stale, (0, 0))  # of a run with more processes, which was killed
    statuses, said = train_two("be_killed", out)
    assert statuses == [9, -signal.SIGKILL] and "process 7" not in said[0]
    assert "lost the others" in said[0]
    assert "; process 1 (pid " in said[0] and " is dead, after st" in said[0]


def test_one_that_is_stopped_is_named_by_the_others(tmp_path: Path) -> None:
    statuses, said = train_two("be_stopped", tmp_path / "run")
    assert statuses == [9, None]
    assert "; process 1 (pid " in said[0] and " has been silent for " in said[0]


def test_nobody_is_silent_after_a_run_that_ends_well(tmp_path: Path) -> None:
    train(
        ToyTask(),
        TrainConfig(steps=2, batch_size=4, device="cpu"),
        train_source=ToySource(),
        held_out_source=None,
        out=tmp_path,
    )
    assert not log_path(tmp_path, 0).exists()  # one process has its terminal
    assert list(silent_processes(log_path(tmp_path, 0).parent)) == []
