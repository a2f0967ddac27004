"""A save that is cut off or refused at any of its calls: what was whole stays, and goes on."""

import contextlib
import errno
import os
import shutil
import signal
from pathlib import Path

import pytest

from dalle import checkpoint
from dalle.checkpoint import steps
from dalle.errors import SaveError
from tests.training.compare import assert_same
from tests.training.failpoints import EVENTS, Failpoints
from tests.training.test_damage import go_on
from tests.training.toy_group import Group, finish_together
from tests.training.train_toy import train_toy

ERRORS = (errno.ENOSPC, errno.EROFS, errno.EIO, errno.EDQUOT)
KEEP_ONE = {"keep_last": 1, "ema_decay": 0.5}
"""So that every save but the first deletes a step; the average is worst in the beginning."""


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("unbroken") / "run"
    go_on(out, **KEEP_ONE)
    return out


@pytest.mark.parametrize("every", [13, pytest.param(1, marks=pytest.mark.proof)])
def test_a_crash_before_any_call_loses_nothing(tmp_path: Path, unbroken: Path, every: int) -> None:
    """A copy of the folder at that moment is what a killed process would have left."""
    out, seen = tmp_path / "run", {}

    def look(number: int, name: str, path: Path) -> None:
        if steps.list_steps(out) and not (out / "step-00000006").exists():  # step 4, and most of 6
            seen[number] = name
            if len(seen) % every == 0:
                shutil.copytree(out, tmp_path / f"crash-{number}")

    with Failpoints(out, look):
        go_on(out, **KEEP_ONE)
    assert set(seen.values()) == {*EVENTS, "tensors", "fsync"}
    left = sorted(tmp_path.glob("crash-*"))
    assert len(left) == len(seen) // every > 10 / every
    for crashed in left:
        for step in steps.list_steps(crashed):
            checkpoint.verify(step, training=True)
        assert steps.step_of(checkpoint.latest_whole(crashed)) in (2, 4)
        go_on(crashed, **KEEP_ONE)
        assert_same(crashed, unbroken)
        shutil.rmtree(crashed)


@pytest.mark.parametrize("every", [21, pytest.param(1, marks=pytest.mark.proof)])
def test_an_error_at_any_call_keeps_what_was_whole(
    tmp_path: Path, unbroken: Path, every: int
) -> None:
    calls: list[tuple[str, bool]] = []
    all_of_them = tmp_path / "all"

    def look(number: int, name: str, path: Path) -> None:
        calls.append((name, bool(steps.list_steps(all_of_them))))

    with Failpoints(all_of_them, look):
        go_on(all_of_them, **KEEP_ONE)
    for bad in range(1, len(calls) + 1, every):
        (kind, had_step), code = calls[bad - 1], ERRORS[bad % len(ERRORS)]
        out = tmp_path / f"run-{bad}"

        def fail(number: int, name: str, path: Path, bad: int = bad, code: int = code) -> None:
            if number == bad:
                raise OSError(code, os.strerror(code), str(path))

        with Failpoints(out, fail), contextlib.suppress(SaveError):
            go_on(out, **KEEP_ONE)
            assert kind in ("os.link", "shutil.rmtree")  # it is copied instead; it may stay
        for step in steps.list_steps(out):
            checkpoint.verify(step, training=True)
        assert bool(steps.list_steps(out)) == had_step
        go_on(out, **KEEP_ONE)
        assert_same(out, unbroken)
        assert not list(out.glob(".tmp-*"))
        shutil.rmtree(out)


def test_an_error_is_told_with_the_path_and_what_is_free(tmp_path: Path) -> None:
    for code in ERRORS:
        out = tmp_path / f"run-{code}"

        def fail(number: int, name: str, path: Path, code: int = code) -> None:
            if name == "fsync":
                raise OSError(code, os.strerror(code))

        with Failpoints(out, fail), pytest.raises(SaveError) as caught:
            go_on(out)
        said = str(caught.value)
        assert f"cannot write {out}/step-00000002: {os.strerror(code)}; it needs about" in said
        assert "MB are free there. What was saved before is untouched: make room" in said
        assert steps.list_steps(out) == [] and not list(out.glob(".tmp-*"))


def die_at(call: int, rank: int, out: str) -> int:
    """The toy, whose process `rank` is gone before a call that writes."""

    def die(number: int, name: str, path: Path) -> None:
        if number == call:
            os.kill(os.getpid(), signal.SIGKILL)

    if int(os.environ["RANK"]) != rank:
        return train_toy(out, {}, {})
    with Failpoints(Path(out), die):
        return train_toy(out, {}, {})


@pytest.mark.distributed
@pytest.mark.parametrize(
    ("strategy", "rank", "call"),
    [
        ("ddp", 1, 3),
        ("fsdp2", 0, 40),
        *(
            pytest.param(strategy, rank, call, marks=pytest.mark.proof)
            for strategy in ("ddp", "zero2", "fsdp2")
            for rank, most in ((0, 90), (1, 6))
            for call in range(1, most, 1 if rank else 4)
        ),
    ],
)
def test_a_process_of_two_that_dies_in_a_save_loses_nothing(
    tmp_path: Path, strategy: str, rank: int, call: int
) -> None:
    out, whole = tmp_path / "run", tmp_path / "whole"
    options = {"strategy": strategy}
    finish_together(whole, **options)
    group = Group(die_at, call, rank, str(out), log=tmp_path / "log", strategy=strategy)
    group.processes[rank].join(60)
    assert group.processes[rank].exitcode == -signal.SIGKILL, group.said
    group.kill()
    left = steps.list_steps(out)
    for step in left:
        checkpoint.verify(step, training=True)
    said = finish_together(out, **options)
    assert (f"going on from step {steps.step_of(left[-1])}" in said) if left else True
    assert_same(out, whole)
    assert not list(out.glob(".tmp-*"))
