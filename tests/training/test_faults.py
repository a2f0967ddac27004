"""What goes wrong around a run: each ends with its status, a sentence, and nothing lost."""

import fcntl
import json
import os
import resource
import shutil
import signal
import socket
import threading
import time
from pathlib import Path

import pytest
import torch
from accelerate import DistributedType

from dalle import checkpoint
from dalle.checkpoint import steps
from dalle.errors import ConfigError, FolderInUseError, SaveError
from dalle.training import launch, lock
from dalle.training.lock import FolderLock
from dalle.training.loop import TrainConfig, train
from dalle.training.settings import differences
from dalle.training.signals import StopRequest
from tests.toys import ToySource, ToyTask
from tests.training.toy_process import ToyProcess, curve, finish


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_saves_and_the_same_command_goes_on(tmp_path: Path, number: int) -> None:
    out = tmp_path / "run"
    process = ToyProcess(out, steps=100_000, save_every=100_000)
    process.wait_for("step 1/")
    os.kill(process.pid, number)
    assert process.wait() == 75
    (path,) = steps.list_steps(out)
    at = steps.step_of(path)
    assert f"Interrupted: saved at step {at}; run the same command to continue" in process.said
    assert curve(out)[-1]["step"] == at
    again = ToyProcess(out, steps=100_000, save_every=100_000)
    again.wait_for(f"going on from step {at} of 100000")
    again.kill()


def test_a_second_ctrl_c_leaves_at_once(tmp_path: Path) -> None:
    out = tmp_path / "run"
    process = ToyProcess(out, steps=100_000, task={"slow_at": 3})
    process.wait_for("step 1/")
    time.sleep(0.5)
    os.kill(process.pid, signal.SIGINT)
    time.sleep(1.2)
    assert process.running  # it wants to finish its step, which takes for ever
    os.kill(process.pid, signal.SIGINT)
    assert process.wait() == 130
    assert steps.list_steps(out) == []


def test_one_press_that_arrives_twice_is_one_press() -> None:
    with StopRequest() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)  # as launchers pass it on
        assert stop.signal == "SIGINT"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_second_run_in_the_same_folder_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "run"
    first = ToyProcess(out, steps=100_000)
    first.wait_for("step 1/")
    second = ToyProcess(out.with_name("run"), steps=100_000)
    assert second.wait() == 7
    said = second.said
    assert f"in use by another run (process {first.pid} on {socket.gethostname()})" in said
    first.kill()
    third = ToyProcess(out, steps=100_000)  # the lock of a killed run holds nobody up
    third.wait_for("parameters")
    third.kill()


def test_a_silent_lock_of_another_machine_is_taken_over_and_a_beating_one_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "SILENCE_SECONDS", 0.3)
    monkeypatch.setattr(lock, "BEAT_SECONDS", 0.1)
    path = tmp_path / ".lock"
    owner = json.dumps({"pid": 1, "host": "elsewhere"})
    path.write_text(owner)
    with FolderLock(tmp_path):
        assert json.loads(path.read_text()) == {"pid": os.getpid(), "host": socket.gethostname()}
        touched = path.stat().st_mtime_ns
        time.sleep(0.3)
        assert path.stat().st_mtime_ns > touched
    path.write_text(owner)
    beating = threading.Thread(target=_touch, args=(path,))
    beating.start()
    with pytest.raises(FolderInUseError, match="process 1 on elsewhere"), FolderLock(tmp_path):
        pass
    beating.join()


def _touch(path: Path) -> None:
    for _ in range(20):
        time.sleep(0.02)
        os.utime(path)


def test_loader_workers_do_not_keep_the_folder_locked(tmp_path: Path) -> None:
    with FolderLock(tmp_path):
        child = os.fork()
        if child == 0:
            file = os.open(tmp_path / ".lock", os.O_RDWR)
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                os._exit(0)  # locked against others, and the child does not own it
            os._exit(1)
        assert os.waitpid(child, 0)[1] == 0


def test_a_full_disk_stops_with_the_path_and_keeps_what_was_saved(
    tmp_path: Path,
) -> None:
    """A limit on the size of files stands for the disk: the third save hits it."""
    config = TrainConfig(steps=30, batch_size=4, save_every=5, log_every=1000, device="cpu")

    def limited(step: int) -> None:
        if step == 12:
            while not (tmp_path / "step-00000010").exists():
                time.sleep(0.001)
            resource.setrlimit(resource.RLIMIT_FSIZE, (512, hard))

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    task = ToyTask(on_step=limited)
    try:
        with pytest.raises(SaveError, match=r"cannot write .*step-00000015.*needs about.*are free"):
            train(
                task,
                config,
                train_source=ToySource(),
                held_out_source=None,
                out=tmp_path,
            )
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert [path.name for path in steps.list_steps(tmp_path)] == ["step-00000005", "step-00000010"]
    for path in steps.list_steps(tmp_path):
        checkpoint.verify(path, training=True)
    assert not list(tmp_path.glob(".tmp-*"))
    result = train(ToyTask(), config, train_source=ToySource(), held_out_source=None, out=tmp_path)
    assert result.step == 30


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(SaveError, match=r"cannot write .*file.*: (Not a directory|File exists)"):
        train(
            ToyTask(),
            TrainConfig(steps=3, batch_size=4, device="cpu"),
            train_source=ToySource(),
            held_out_source=None,
            out=tmp_path / "file" / "run",
        )


def test_a_run_whose_checkpoints_are_all_damaged_does_not_start_over(tmp_path: Path) -> None:
    out = tmp_path / "run"
    finish(out, steps=10)
    for path in steps.list_steps(out):
        (path / "MANIFEST.json").unlink()
    process = ToyProcess(out, steps=10)
    assert process.wait() == 3
    assert "NoWholeCheckpoint" in process.said and "step-00000010" in process.said
    assert len(steps.list_steps(out)) == 2


def test_what_killed_runs_left_half_written_is_swept(tmp_path: Path) -> None:
    out = tmp_path / "run"
    (out / ".tmp-5-1").mkdir(parents=True)
    (out / ".tmp-5-1" / "model.safetensors").write_bytes(b"half")
    finish(out, steps=2)
    assert not (out / ".tmp-5-1").exists()
    shutil.rmtree(out)


CPU = TrainConfig(steps=1, batch_size=4, device="cpu")


def test_processes_that_do_not_see_each_other_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match=r"started 2 processes, but accelerate sees 1.*torchrun"):
        launch.check_world(1, DistributedType.NO, deepspeed=False)
    launch.check_world(2, DistributedType.MULTI_CPU, deepspeed=False)
    with pytest.raises(ConfigError, match=r"DeepSpeed was asked for .*, but MULTI_CPU is in force"):
        launch.check_world(2, DistributedType.MULTI_CPU, deepspeed=True)
    launch.check_world(2, DistributedType.DEEPSPEED, deepspeed=True)


ZERO, FSDP = {"ACCELERATE_USE_DEEPSPEED": "true"}, {"ACCELERATE_USE_FSDP": "1"}


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"WORLD_SIZE": "2"}, "WORLD_SIZE is 2, but no launcher started this process"),
        (ZERO, "DeepSpeed was asked for, but no launcher"),
        (FSDP | {"FSDP_VERSION": "2"}, "FSDP was asked for, but no launcher"),
        (FSDP, "FSDP's first version was asked for; set FSDP_VERSION=2"),
        (ZERO | FSDP, "DeepSpeed and FSDP were both asked for; unset"),
    ],
)
def test_what_was_asked_for_and_cannot_be_is_refused(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], message: str
) -> None:
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=message):
        launch.open_world(CPU)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_refused() -> None:
    with pytest.raises(ConfigError, match="no usable GPU; set it to 'cpu'"):
        launch.open_world(TrainConfig(steps=1, batch_size=4, device="cuda"))


def test_differences_are_told_by_path() -> None:
    then = {"a": {"b": 1, "c": [1, 2], "out": "x"}, "d": 5, "f": {"b": 1}}
    now = {"a": {"b": 2, "c": [1, 2], "out": "y"}, "e": 6, "f": {"b": 2}}
    assert differences(then, now) == [
        "a.b: 1 then, 2 now",
        "d: 5 then, 'not set' now",
        "e: 'not set' then, 6 now",
    ]
    assert differences(then, now, allowed=("b", "d")) == ["e: 'not set' then, 6 now"]
    assert differences(then, now, allowed=("a", "d"))[0] == "f.b: 1 then, 2 now"
    assert differences(then, then) == []
