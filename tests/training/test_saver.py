"""A step is written while training goes on, as it was, or its failure is told."""

import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from dalle import checkpoint
from dalle.checkpoint import steps
from dalle.checkpoint.manifest import TEMPORARY
from dalle.errors import Interrupted, SaveError
from dalle.training import optimizer_state, saver
from dalle.training.background import Background
from dalle.training.loop import TrainConfig, train
from tests.toys import ToySource, ToyTask
from tests.training.toy_group import Group, ToyGroup, finish_together
from tests.training.train_toy import train_toy

SECONDS = 30.0
FILES = ("model", "ema", "training/optimizer")


def run(out: Path, task: ToyTask | None = None, **changes: Any) -> None:
    config = TrainConfig(
        **{"batch_size": 4, "ema_decay": 0.9, "log_every": 1000, "device": "cpu", **changes}
    )
    source = ToySource()
    train(task or ToyTask(), config, train_source=source, held_out_source=None, out=out)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return {
        f"{part}/{name}": tensor
        for part in FILES
        for name, tensor in load_file(folder / f"{part}.safetensors").items()
    }


class HeldUp:
    """The writing of one step, which waits at its first file until `go` is set."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, step: int) -> None:
        self.go, self.waits = threading.Event(), threading.Event()
        self._folder = f"{TEMPORARY}{step}-"
        monkeypatch.setattr(optimizer_state, "save_file", self)

    def __call__(self, tensors: dict[str, torch.Tensor], path: Path) -> None:
        if self._folder in str(path):
            self.waits.set()
            assert self.go.wait(SECONDS)
        save_file(tensors, path)


def test_steps_are_taken_while_one_is_written_and_it_is_saved_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held, out = HeldUp(monkeypatch, 5), tmp_path / "run"

    def look(step: int) -> None:
        if step == 8:  # three updates after the one that is being written
            assert held.waits.wait(SECONDS) and steps.list_steps(out) == []
            held.go.set()

    run(out, ToyTask(on_step=look), steps=10, save_every=5)
    run(tmp_path / "short", steps=5, save_every=5)
    saved, expected = (weights(steps.step_folder(o, 5)) for o in (out, tmp_path / "short"))
    assert saved.keys() == expected.keys()
    assert all(torch.equal(saved[name], tensor) for name, tensor in expected.items())
    assert not all(
        torch.equal(saved[name], tensor)
        for name, tensor in weights(steps.step_folder(out, 10)).items()
    )


def test_a_save_waits_for_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held, waited = HeldUp(monkeypatch, 2), []

    def release() -> None:
        assert held.waits.wait(SECONDS)
        time.sleep(0.3)
        waited.append(steps.list_steps(tmp_path))
        held.go.set()

    thread = threading.Thread(target=release)
    thread.start()
    run(tmp_path, steps=4, save_every=2)
    thread.join()
    assert waited == [[]]  # training stood still at step 4
    assert [steps.step_of(path) for path in steps.list_steps(tmp_path)] == [2, 4]


def test_a_failure_ends_the_run_at_the_next_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed, last = threading.Event(), []

    def fail(*args: Any, **options: Any) -> None:
        failed.set()
        raise OSError(28, "No space left on device")

    def look(step: int) -> None:
        last.append(step)
        if step == 5:
            assert failed.wait(SECONDS)
            time.sleep(0.2)  # its thread ends

    monkeypatch.setattr(saver, "publish", fail)
    with pytest.raises(SaveError, match=r"step-00000005: No space left on device"):
        run(tmp_path, ToyTask(on_step=look), steps=100, save_every=5)
    assert last[-1] == 5  # the sixth update was the last
    assert steps.list_steps(tmp_path) == [] and not list(tmp_path.glob(".tmp-*"))


def test_an_error_of_another_kind_is_not_swallowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(saver, "publish", lambda *a, **o: {}["a mistake"])
    with pytest.raises(KeyError, match="a mistake"):
        run(tmp_path, steps=3, save_every=1)
    assert not list(tmp_path.glob(".tmp-*"))


def test_a_run_that_is_stopped_ends_when_its_save_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = HeldUp(monkeypatch, 3)

    def interrupt(step: int) -> None:
        if step == 4:
            threading.Timer(0.3, held.go.set).start()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, ToyTask(on_step=interrupt), steps=10, save_every=3)
    assert [steps.step_of(path) for path in steps.list_steps(tmp_path)] == [3]
    checkpoint.verify(steps.step_folder(tmp_path, 3), training=True)


def test_round_steps_stay(tmp_path: Path) -> None:
    run(tmp_path, steps=22, save_every=2, keep_last=1, keep_every=8)
    assert [steps.step_of(path) for path in steps.list_steps(tmp_path)] == [8, 16, 22]


def test_background_does_one_thing_at_a_time() -> None:
    background, go = Background(), threading.Event()
    background.start(lambda: go.wait(SECONDS))
    assert background.busy
    with pytest.raises(RuntimeError, match="has not ended"):
        background.start(lambda: None)
    go.set()
    background.join()
    assert not background.busy and background.error is None
    background.start(lambda: {}["gone"])
    background.join()
    assert isinstance(background.error, KeyError)
    background.start(lambda: None)
    background.join()
    assert background.error is None


def fail_on_rank(rank: int, out: str) -> int:
    """The toy, whose process `rank` cannot write its share of the optimizer's state."""

    def full(*args: Any, **options: Any) -> None:
        raise OSError(28, "No space left on device")

    if int(os.environ["RANK"]) == rank:
        optimizer_state.save_file = full  # type: ignore[attr-defined]
    return train_toy(out, {"save_every": 4}, {})


@pytest.mark.distributed
@pytest.mark.parametrize("rank", [0, 1])
def test_all_processes_are_told_of_a_disk_that_is_full_for_one(tmp_path: Path, rank: int) -> None:
    out = tmp_path / "run"
    group = Group(fail_on_rank, rank, str(out), log=tmp_path / "log", strategy="ddp")
    assert group.wait() == [SaveError.exit_status] * 2, group.said
    assert "No space left on device" in group.said
    assert f"process {rank}: cannot write" in group.said  # as the other one heard it
    assert steps.list_steps(out) == [] and not list(out.glob(".tmp-*"))


@pytest.mark.distributed
def test_two_processes_that_are_signalled_save_and_go_on(tmp_path: Path) -> None:
    out = tmp_path / "run"
    options = {"strategy": "ddp", "steps": 400, "save_every": 3, "keep_last": 1}
    group = ToyGroup(out, task={"pause": 0.01}, **options)
    group.wait_for('"step": 4,', out / "metrics.jsonl")
    os.kill(group.processes[1].pid or 0, signal.SIGUSR1)
    assert group.wait() == [Interrupted.exit_status] * 2
    (folder,) = steps.list_steps(out)
    checkpoint.verify(folder, training=True)
    assert f"going on from step {steps.step_of(folder)}" in finish_together(out, **options)
