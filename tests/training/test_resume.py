"""A run that is killed and started again ends as one that was left alone, bit for bit."""

import random
import signal
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from dalle import checkpoint
from dalle.checkpoint import steps
from dalle.training import tracking
from tests.training.toy_process import ToyProcess, curve, finish

STEPS = 30


def weights(out: Path) -> dict[str, torch.Tensor]:
    folder = checkpoint.latest_whole(out)
    return {
        f"{part}/{name}": tensor
        for part in ("model", "ema", "training/optimizer")
        for name, tensor in load_file(folder / f"{part}.safetensors").items()
    }


def assert_as_unbroken(out: Path, unbroken: Path) -> None:
    assert curve(out) == curve(unbroken)
    assert steps.list_steps(out)[-1].name == f"step-{STEPS:08d}"
    expected, found = weights(unbroken), weights(out)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    assert not list(out.glob(".tmp-*"))


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("unbroken") / "run"
    finish(out)
    return out


def test_killed_at_arbitrary_moments(tmp_path: Path, unbroken: Path) -> None:
    out, moments = tmp_path / "run", random.Random(5)
    for _ in range(5):  # at most 5 steps each: it cannot end before it is killed
        done = steps.step_of(steps.list_steps(out)[-1]) if steps.list_steps(out) else 0
        process = ToyProcess(out)
        process.wait_for(f'"step": {done + moments.randint(1, 5)},', out / tracking.METRICS)
        time.sleep(moments.uniform(0.0, 0.01))
        assert process.kill() == -signal.SIGKILL
        for path in steps.list_steps(out):  # whatever the moment: what is there is whole
            checkpoint.verify(path, training=True)
    finish(out)
    assert_as_unbroken(out, unbroken)


@pytest.mark.parametrize("call", (2, 8, 14, 17, 23, 31))
def test_killed_while_saving(tmp_path: Path, unbroken: Path, call: int) -> None:
    out = tmp_path / "run"
    assert ToyProcess(out, die_at=call).wait() == -signal.SIGKILL
    for path in steps.list_steps(out):
        checkpoint.verify(path, training=True)
    finish(out)
    assert_as_unbroken(out, unbroken)


def test_a_damaged_newest_checkpoint_costs_only_its_steps(tmp_path: Path, unbroken: Path) -> None:
    out = tmp_path / "run"
    finish(out)
    path = checkpoint.latest_whole(out) / "training" / "optimizer.safetensors"
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)
    said = finish(out)
    assert "step-00000030 is not whole" in said and "going on from step 25" in said
    assert_as_unbroken(out, unbroken)


def test_a_run_killed_before_its_first_checkpoint_starts_anew(
    tmp_path: Path, unbroken: Path
) -> None:
    out = tmp_path / "run"
    process = ToyProcess(out, save_every=1000)
    process.wait_for("step 1/30")
    process.kill()
    finish(out)
    assert_as_unbroken(out, unbroken)
