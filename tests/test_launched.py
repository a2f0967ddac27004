"""What a launcher's variables mean, and what is refused."""

import gc
import signal
import weakref
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from dalle import launched
from dalle.errors import ConfigError
from dalle.launched import joined, own_device
from dalle.processes import ALONE


def test_without_a_launcher_a_process_is_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    with joined() as processes:
        assert processes is ALONE
    monkeypatch.setenv("WORLD_SIZE", "1")
    with joined() as processes:
        assert processes is ALONE


def test_variables_without_their_launcher_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    with pytest.raises(ConfigError, match="WORLD_SIZE is 2, but no launcher started"), joined():
        pass
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(ConfigError, match="RANK expected"), joined():
        pass


def test_sigterm_unwinds_and_does_not_interrupt_what_is_being_finished() -> None:
    finished, before = False, signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as left, launched._unwinding():
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            signal.raise_signal(signal.SIGTERM)
            finished = True
    assert finished and left.value.code == 143
    assert signal.getsignal(signal.SIGTERM) == before


def test_each_process_has_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert own_device("auto") == own_device("cuda") == "cuda:1"
    assert taken == [1, 1]
    assert own_device("cpu") == "cpu"
    with pytest.raises(ConfigError, match="the same GPU for all processes"):
        own_device("cuda:0")
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(ConfigError, match="2 GPUs for 4 processes"):
        own_device("auto")


def test_no_thread_of_a_group_is_left_when_python_ends() -> None:
    def threads() -> int:
        return len(list(Path("/proc/self/task").iterdir()))

    before = threads()
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    dist.all_reduce(torch.zeros(1))
    assert threads() > before
    cycle = [dist.group.WORLD]
    cycle.append(cycle)
    group = weakref.ref(cycle[0])
    gc.disable()
    try:
        launched.end_group(group)
        assert group() is not None and threads() > before  # it is still in use
        del cycle
        launched.end_group(group)
        assert group() is None and threads() == before
        launched.end_group(group)
    finally:
        gc.enable()
