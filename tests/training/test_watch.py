"""A process of many that hangs, fails or dies: the run ends, and says which one, where and why."""

import os
import signal
import socket
import time
from pathlib import Path

import pytest

from dalle.config import from_json
from dalle.errors import DalleError
from dalle.training import steps, watch
from dalle.training.loop import TrainConfig, train
from dalle.training.watch import log_path, silent_processes
from tests.toys import ToySource, ToyTask
from tests.training.toy_group import Group
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


def train_with(fault: str, out: str) -> int:
    """One of two processes; number 1 has the fault at a step."""
    steps.STEP_SECONDS, watch.BEAT_SECONDS, watch.SILENT_SECONDS = 4.0, 0.2, 1.0

    def on_step(step: int) -> None:
        if os.environ["RANK"] == "1" and step + 1 == AT_STEP:
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
        return error.exit_status
    return 0


def train_two(fault: str, out: Path) -> tuple[list[int], str]:
    """Their exit statuses, and what both said."""
    log = out.with_name("run.log")
    group = Group(train_with, fault, str(out), log=log, strategy="ddp")
    group.processes[0].join(60)
    if fault == "be_stopped":  # which would stay so for ever
        group.processes[1].kill()
    return group.wait(), group.said


def test_one_that_hangs_ends_the_run_with_its_stack(tmp_path: Path) -> None:
    out = tmp_path / "run"
    statuses, said = train_two("fall_asleep", out)
    assert statuses == [9, 9]
    host = socket.gethostname()
    assert f"dalle: process 1 of 2 ({host}) has been in step 4 for 4 s and ends" in said
    for text in (said, log_path(out, 1).read_text()):
        assert "in fall_asleep" in text
    assert f"process 0 of 2 ({host})" in said
    assert "fall_asleep" not in log_path(out, 0).read_text()


def test_one_that_fails_leaves_its_traceback_and_ends_the_others(tmp_path: Path) -> None:
    out = tmp_path / "run"
    statuses, said = train_two("fail", out)
    assert statuses == [9, 1]
    assert "failed in step 4: ValueError('a bug of one process')" in said
    assert "in fail" in log_path(out, 1).read_text()
    assert "failed in step 4: process 0 of 2 lost the others" in said


def test_one_that_is_killed_is_named_by_the_others(tmp_path: Path) -> None:
    out = tmp_path / "run"
    stale = log_path(out, 7).with_suffix(".json")
    stale.parent.mkdir(parents=True)
    stale.write_text('{"pid": 999999999, "host": "another", "at": "step 1"}')
    os.utime(stale, (0, 0))  # of a run with more processes, which was killed
    statuses, said = train_two("be_killed", out)
    assert statuses == [9, -signal.SIGKILL] and "process 7" not in said
    assert "process 0 of 2 lost the others" in said
    assert "; process 1 (pid " in said and " is dead, after st" in said


def test_one_that_is_stopped_is_named_by_the_others(tmp_path: Path) -> None:
    statuses, said = train_two("be_stopped", tmp_path / "run")
    assert statuses == [9, -signal.SIGKILL]
    assert "; process 1 (pid " in said and " has been silent for " in said


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
