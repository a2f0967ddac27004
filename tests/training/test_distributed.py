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

from dalle import checkpoint
from dalle.checkpoint import load, steps
from dalle.training.signals import INTERRUPTED
from tests.toys import ToyConfig
from tests.training.compare import assert_close, assert_same
from tests.training.toy_group import finish_together, kill_after

pytestmark = [pytest.mark.distributed, pytest.mark.timeout(300)]

SCRIPT = Path(__file__).parent / "train_toy.py"
SHORT = {"steps": 14, "save_every": 5, "validate_every": 6, "preview_every": 6}


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One process with four micro-batches: what two processes with two must come to."""
    out = tmp_path_factory.mktemp("alone") / "run"
    finish_together(out, strategy="single", size=1, micro_batches=4, **SHORT)
    return out


@pytest.mark.parametrize("strategy", ["ddp", "zero1", "zero2", "zero3", "fsdp2"])
def test_two_processes_train_like_one_and_go_on_after_a_kill(
    tmp_path: Path, alone: Path, strategy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    unbroken, broken = tmp_path / "unbroken", tmp_path / "broken"
    options = {**SHORT, "strategy": strategy, "micro_batches": 2}
    assert f"2 x cpu, {strategy}, float32" in finish_together(unbroken, **options)
    assert_close(unbroken, alone)
    assert (unbroken / "previews" / "step-00000012" / "toy.png").is_file()
    folder = checkpoint.latest_whole(unbroken)
    assert steps.read_run(folder)["strategy"] == strategy
    # Nothing in it is a pickle, and the model is whole, whatever divided it.
    suffixes = {path.suffix for path in folder.rglob("*") if path.is_file()}
    assert suffixes == {".json", ".safetensors"}
    monkeypatch.setitem(load.KINDS, "dvae", ("tests.toys", "ToyConfig", "Toy"))
    assert checkpoint.load_folder(unbroken).config == ToyConfig(width=8, depth=1, dropout=0.2)

    kill_after(8, broken, **options)
    assert [path.name for path in steps.list_steps(broken)] == ["step-00000005"]
    assert "going on from step 5" in finish_together(broken, **options)
    assert_same(broken, unbroken)


LEGS = [("zero3", 2), ("fsdp2-offload", 3), ("single", 1), ("zero3-offload", 3), ("zero1", 2)]


def test_a_run_goes_on_under_another_strategy_with_another_number(tmp_path: Path) -> None:
    out, expected = tmp_path / "run", tmp_path / "expected"
    options = {"batch_size": 12, "steps": 22, "save_every": 4, "validate_every": 0}
    finish_together(expected, strategy="single", size=1, micro_batches=6, **options)
    for number, (strategy, size) in enumerate(LEGS):
        leg = {**options, "strategy": strategy, "size": size, "micro_batches": 6 // size}
        if number < len(LEGS) - 1:
            kill_after(4 * number + 6, out, **leg)
        else:
            finish_together(out, **leg)
        said = steps.read_run(steps.list_steps(out)[-1])
        assert (said["strategy"], said["world"]) == (strategy.removesuffix("-offload"), size)
        assert said["offload"] == strategy.endswith("-offload")
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


@pytest.mark.parametrize(
    ("number", "to"),
    [
        (signal.SIGTERM, "torchrun"),
        pytest.param(signal.SIGUSR1, "processes", marks=pytest.mark.proof),
    ],
)
def test_a_signal_under_torchrun_saves_on_all_processes(
    tmp_path: Path, number: signal.Signals, to: str
) -> None:
    out = tmp_path / "run"
    # Without ACCELERATE_USE_CPU, as whoever has no GPU would start it.
    with Launched(out, steps=100_000, save_every=100_000) as run:
        run.wait_until(lambda: "step 1/" in run.said)
        for process in [run.process.pid] if to == "torchrun" else run.workers:
            os.kill(process, number)
        assert run.wait() == 1  # whatever the processes end with
    (path,) = steps.list_steps(out)
    assert (out / INTERRUPTED).read_text().startswith(f"saved at step {steps.step_of(path)};")
    checkpoint.verify(path, training=True)
    said = f"Interrupted: saved at step {steps.step_of(path)}; run the same command to continue"
    assert run.said.count(said) == 2
