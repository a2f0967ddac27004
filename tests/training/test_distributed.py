"""Two processes on the CPU, under torchrun: DDP, and ZeRO 2 through accelerate."""

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
from tests.toys import ToyConfig
from tests.training.toy_process import curve, finish

pytestmark = [pytest.mark.distributed, pytest.mark.timeout(300)]

SCRIPT = Path(__file__).parent / "train_toy.py"
ZERO = {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": "2"}
SHORT = {"steps": 24, "save_every": 5, "validate_every": 12}


class Launched:
    """torchrun with two processes of the toy; all of them are gone when the block ends."""

    def __init__(self, *outs: Path, environment: dict[str, str], **changes: Any) -> None:
        clean = {k: v for k, v in os.environ.items() if not k.startswith("ACCELERATE_")}
        self._log = outs[0].with_name(f"{outs[0].name}.log")
        with self._log.open("w") as log:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"),
                    *("--rdzv_backend", "c10d", "--rdzv_endpoint", "localhost:0"),
                    *(str(SCRIPT), ",".join(map(str, outs)), json.dumps(SHORT | changes)),
                ],
                env=clean | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"} | environment,
                stdout=log,
                stderr=log,
            )

    def __enter__(self) -> "Launched":
        return self

    def __exit__(self, *error: object) -> None:
        for process in (*self.workers, self.process.pid):
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
    def workers(self) -> list[int]:
        launcher = self.process.pid
        try:
            children = Path(f"/proc/{launcher}/task/{launcher}/children").read_text()
        except FileNotFoundError:
            return []
        return [int(child) for child in children.split()]


def weights(out: Path, *parts: str) -> dict[str, torch.Tensor]:
    folder = checkpoint.latest_whole(out)
    return {
        f"{part}/{name}": tensor
        for part in parts
        for name, tensor in load_file(folder / f"{part}.safetensors").items()
    }


def assert_close(left: Path, right: Path) -> None:
    """The same curve and the same weights, but for rounding."""
    for one, other in zip(curve(left), curve(right), strict=True):
        assert one.keys() == other.keys()
        for name in one:
            assert other[name] == pytest.approx(one[name], rel=1e-3, abs=1e-6)
    expected, found = weights(left, "model", "ema"), weights(right, "model", "ema")
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-3, atol=1e-4)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One process with two micro-batches: what two processes must come to."""
    out = tmp_path_factory.mktemp("alone") / "run"
    finish(out, micro_batches=2, **SHORT)
    return out


@pytest.mark.parametrize("strategy", ["ddp", "zero2"])
def test_two_processes_train_like_one_and_go_on_after_a_kill(
    tmp_path: Path, alone: Path, strategy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = ZERO if strategy == "zero2" else {"ACCELERATE_USE_CPU": "true"}
    unbroken, broken = tmp_path / "unbroken", tmp_path / "broken"
    # One launch for two runs, since starting takes longest: all of one, a part of the other.
    with Launched(unbroken, broken, environment=environment) as first:
        first.wait_until(lambda: len(steps.list_steps(broken)) >= 2)
        for worker in first.workers:
            os.kill(worker, signal.SIGKILL)
        assert first.wait() != 0
    assert f"2 x cpu, {strategy}, float32" in first.said
    assert first.said.count("finished at step 24") == 2
    assert_close(alone, unbroken)
    assert steps.read_run(checkpoint.latest_whole(unbroken))["world"] == 2
    monkeypatch.setitem(load.KINDS, "dvae", ("tests.toys", "ToyConfig", "Toy"))
    assert checkpoint.load_folder(unbroken).config == ToyConfig(width=8, dropout=0.2)

    with Launched(broken, environment=environment) as second:
        assert second.wait() == 0, second.said
    assert "going on from step" in second.said
    assert curve(broken) == curve(unbroken)
    expected, found = weights(unbroken, "model", "ema"), weights(broken, "model", "ema")
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_a_signal_to_the_launcher_saves_on_all_processes(tmp_path: Path) -> None:
    out = tmp_path / "run"
    # Without ACCELERATE_USE_CPU, as whoever has no GPU would start it.
    with Launched(out, environment={}, steps=100_000, save_every=100_000) as run:
        run.wait_until(lambda: "step 1/" in run.said)
        run.process.send_signal(signal.SIGTERM)
        assert run.wait() != 0
    (path,) = steps.list_steps(out)
    checkpoint.verify(path, training=True)
    said = f"Interrupted: saved at step {steps.step_of(path)}; run the same command to continue"
    assert run.said.count(said) == 2
