"""Two processes on the CPU: every strategy trains as one process does, and goes on after a kill."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from dalle import checkpoint
from dalle.checkpoint import load, steps
from dalle.training import tracking
from tests.toys import ToyConfig
from tests.training.toy_group import ASKED_FOR, ToyGroup, finish_together
from tests.training.toy_process import curve

pytestmark = [pytest.mark.distributed, pytest.mark.timeout(300)]

SCRIPT = Path(__file__).parent / "train_toy.py"
SHORT = {"steps": 14, "save_every": 5, "validate_every": 6, "preview_every": 6}
TOGETHER = [strategy for strategy in ASKED_FOR if strategy != "single"]


def weights(out: Path) -> dict[str, torch.Tensor]:
    """The last checkpoint's weights, averages and moments, however many files they are in."""
    folder = checkpoint.latest_whole(out)
    paths = [*folder.glob("*.safetensors"), *folder.glob("training/*.safetensors")]
    found: dict[str, torch.Tensor] = {}
    for path in paths:
        prefix = path.stem if path.parent == folder else "training"
        found |= {f"{prefix}/{name}": tensor for name, tensor in load_file(path).items()}
    return found


def assert_same(out: Path, expected: Path) -> None:
    """The same curve and the same state, bit for bit."""
    assert curve(out) == curve(expected)
    found, wanted = weights(out), weights(expected)
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in wanted.items())


def assert_close(out: Path, expected: Path) -> None:
    """The same curve and the same state, but for rounding."""
    for one, other in zip(curve(out), curve(expected), strict=True):
        assert one.keys() == other.keys()
        for name in one:
            assert one[name] == pytest.approx(other[name], rel=1e-4, abs=1e-6)
    found, wanted = weights(out), weights(expected)
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-3, atol=1e-5)


def kill_at(step: int, out: Path, **options: Any) -> None:
    """Start and, when `step` is done and something saved, kill all processes at once."""
    group = ToyGroup(out, task={"slow_at": step}, **{**SHORT, **options})
    group.wait_for(f'"step": {step},', out / tracking.METRICS)
    assert set(group.kill()) == {-signal.SIGKILL}


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One process with two micro-batches: what two processes must come to."""
    out = tmp_path_factory.mktemp("alone") / "run"
    finish_together(out, strategy="single", size=1, micro_batches=2, **SHORT)
    return out


@pytest.mark.parametrize("strategy", TOGETHER)
def test_two_processes_train_like_one_and_go_on_after_a_kill(
    tmp_path: Path, alone: Path, strategy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    unbroken, broken = tmp_path / "unbroken", tmp_path / "broken"
    said = finish_together(unbroken, strategy=strategy, **SHORT)
    assert f"2 x cpu, {strategy}, float32" in said
    assert_close(unbroken, alone)
    assert (unbroken / "previews" / "step-00000012" / "toy.png").is_file()
    folder = checkpoint.latest_whole(unbroken)
    assert steps.read_run(folder)["strategy"] == strategy
    assert {path.suffix for path in folder.rglob("*.*") if path.is_file()} == {
        ".json",
        ".safetensors",
    }
    monkeypatch.setitem(load.KINDS, "dvae", ("tests.toys", "ToyConfig", "Toy"))
    assert checkpoint.load_folder(unbroken).config == ToyConfig(width=8, depth=1, dropout=0.2)

    kill_at(8, broken, strategy=strategy)
    assert [path.name for path in steps.list_steps(broken)] == ["step-00000005"]
    assert "going on from step 5" in finish_together(broken, strategy=strategy, **SHORT)
    assert_same(broken, unbroken)


def test_a_run_goes_on_under_another_strategy_with_another_number(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    legs = [("zero3", 2, False), ("fsdp2", 3, False), ("single", 1, False), ("zero2", 3, True)]
    out, expected = tmp_path / "run", tmp_path / "expected"
    options = {"batch_size": 12, "steps": 18, "save_every": 4, "validate_every": 6}
    finish_together(expected, strategy="single", size=1, micro_batches=6, **options)
    for number, (strategy, size, offload) in enumerate(legs):
        leg = {"strategy": strategy, "size": size, "micro_batches": 6 // size, "offload": offload}
        if number < len(legs) - 1:
            kill_at(4 * number + 6, out, **options, **leg)
        else:
            finish_together(out, **options, **leg)
        assert steps.read_run(steps.list_steps(out)[-1])["world"] == size
    assert_close(out, expected)


class Launched:
    """torchrun with two processes of the toy; all of them are gone when the block ends."""

    def __init__(self, out: Path, **changes: Any) -> None:
        clean = {k: v for k, v in os.environ.items() if not k.startswith("ACCELERATE_")}
        self._log = out.with_name(f"{out.name}.log")
        with self._log.open("w") as log:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"),
                    *("--rdzv_backend", "c10d", "--rdzv_endpoint", "localhost:0"),
                    *(str(SCRIPT), str(out), json.dumps(SHORT | changes)),
                ],
                env=clean | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"},
                stdout=log,
                stderr=log,
            )

    def __enter__(self) -> "Launched":
        return self

    def __exit__(self, *error: object) -> None:
        for process in (*self._workers, self.process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        self.process.wait()

    @property
    def said(self) -> str:
        return self._log.read_text()

    def wait(self) -> int:
        return self.process.wait(timeout=250)

    def wait_until(self, happened: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 250
        while not happened():
            assert self.process.poll() is None and time.monotonic() < deadline, self.said
            time.sleep(0.005)

    @property
    def _workers(self) -> list[int]:
        launcher = self.process.pid
        try:
            children = Path(f"/proc/{launcher}/task/{launcher}/children").read_text()
        except FileNotFoundError:
            return []
        return [int(child) for child in children.split()]


def test_a_signal_to_the_launcher_saves_on_all_processes(tmp_path: Path) -> None:
    out = tmp_path / "run"
    # Without ACCELERATE_USE_CPU, as whoever has no GPU would start it.
    with Launched(out, steps=100_000, save_every=100_000) as run:
        run.wait_until(lambda: "step 1/" in run.said)
        run.process.send_signal(signal.SIGTERM)
        assert run.wait() != 0
    (path,) = steps.list_steps(out)
    checkpoint.verify(path, training=True)
    said = f"Interrupted: saved at step {steps.step_of(path)}; run the same command to continue"
    assert run.said.count(said) == 2
