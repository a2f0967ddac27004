"""The cluster examples: SLURM's script runs here, on two make-believe nodes, and goes on."""

import contextlib
import os
import random
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from torch.distributed.run import get_args_parser

from dalle.checkpoint.steps import list_steps, step_of
from dalle.cli import main
from dalle.cli.commands import chosen
from dalle.cli.flags import parse
from dalle.training import tracking
from dalle.training.signals import INTERRUPTED
from tests.test_floors import PACKAGE

EXAMPLES = PACKAGE.parent / "examples"
SBATCH = EXAMPLES / "slurm" / "train_dalle.sbatch"
FIRST_PORT, PORTS = 20_000, 10_000

SHIMS = {
    "torchrun": f'#!/bin/bash\nexec {sys.executable} -m torch.distributed.run "$@"\n',
    "scontrol": """#!/bin/bash
case "$1 $2" in
    "show hostnames") printf 'localhost\\nlocalhost\\n' ;;
    "requeue $SLURM_JOB_ID") echo "$2" >> requeued ;;
    *) exit 1 ;;
esac
""",
    "srun": f"""#!{sys.executable}
import os, subprocess, sys, time
words = sys.argv[1:]
assert words.pop(0) == "--kill-on-bad-exit=1"
tasks = [
    subprocess.Popen(words, env=os.environ | {{"SLURM_PROCID": str(rank)}})
    for rank in range(int(os.environ["SLURM_JOB_NUM_NODES"]))
]
while None in (ended := [task.poll() for task in tasks]):
    if any(ended):
        for task in tasks:
            task.terminate()
    time.sleep(0.05)
sys.exit(max(abs(status) for status in ended))
""",
}


class Job:
    """The script on two nodes, which are two processes here; all are gone when the block ends."""

    def __init__(self, folder: Path, *words: str) -> None:
        self._folder, self._words = folder, words
        self._shims = folder / "bin"
        self._shims.mkdir()
        for name, text in SHIMS.items():
            (self._shims / name).write_text(text)
            (self._shims / name).chmod(0o755)
        self.id = free_port() - FIRST_PORT

    def __enter__(self) -> "Job":
        return self

    def __exit__(self, *error: object) -> None:
        for process in [*self.step_processes(), self.process.pid]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        self.process.wait()

    def start(self) -> None:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("ACCELERATE_", "SLURM_"))}
        slurm = {"JOB_ID": str(self.id), "JOB_NODELIST": "node[1-2]", "JOB_NUM_NODES": "2"}
        with (self._folder / "log").open("a") as log:
            self.process = subprocess.Popen(
                ["bash", SBATCH, *self._words],
                env={
                    **kept,
                    **{f"SLURM_{name}": value for name, value in slurm.items()},
                    "PATH": f"{self._shims}:{os.environ['PATH']}",
                    "PYTHONPATH": str(PACKAGE.parent),
                    "ACCELERATE_USE_CPU": "true",
                    "GLOO_SOCKET_IFNAME": "lo",
                },
                cwd=self._folder,
                stdout=log,
                stderr=log,
            )

    @property
    def said(self) -> str:
        return (self._folder / "log").read_text()

    @property
    def requeued(self) -> list[str]:
        path = self._folder / "requeued"
        return path.read_text().split() if path.exists() else []

    def step_processes(self) -> list[int]:
        """All processes of the job's steps on all nodes, as SLURM's process tracking has them."""
        (srun,) = children(self.process.pid) or [0]
        return [process for task in children(srun) for process in [task, *descendants(task)]]

    def warn(self) -> None:
        """Do what SLURM does when the time that the script asks for comes."""
        found = re.search(r"^#SBATCH --signal=(B:)?(\w+)@\d+$", SBATCH.read_text(), re.MULTILINE)
        assert found is not None
        for process in [self.process.pid] if found[1] else self.step_processes():
            os.kill(process, signal.Signals[f"SIG{found[2]}"])

    def wait(self) -> int:
        return self.process.wait(timeout=100)

    def wait_for(self, text: str, file: Path) -> None:
        deadline = time.monotonic() + 100
        while not (file.exists() and text in file.read_text()):
            assert self.process.poll() is None and time.monotonic() < deadline, self.said
            time.sleep(0.01)


def children(process: int) -> list[int]:
    try:
        return [
            int(c) for c in Path(f"/proc/{process}/task/{process}/children").read_text().split()
        ]
    except FileNotFoundError:
        return []


def descendants(process: int) -> list[int]:
    return [p for child in children(process) for p in [child, *descendants(child)]]


def free_port() -> int:
    """One that the script may come to."""
    while True:
        port = FIRST_PORT + random.randrange(PORTS)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


@pytest.fixture(scope="module")
def vae(tmp_path_factory: pytest.TempPathFactory) -> str:
    out = str(tmp_path_factory.mktemp("vae") / "run")
    assert main(["train", "vae", "--preset", "tiny", "--device", "cpu", "--out", out]) == 0
    return out


@pytest.mark.distributed
@pytest.mark.timeout(300)
def test_a_warned_job_saves_is_queued_again_and_finishes(tmp_path: Path, vae: str) -> None:
    out = tmp_path / "run"
    cadence = ("--log-every", "1", "--validate-every", "0", "--preview-every", "0")
    words = ("--preset", "tiny", "--vae", vae, "--steps", "200", *cadence)
    with Job(tmp_path, str(out), *words) as job:
        job.start()
        job.wait_for('"step": 2,', out / tracking.METRICS)
        job.warn()
        assert job.wait() == 0, job.said
        assert job.requeued == [str(job.id)], job.said
        (saved,) = list_steps(out)
        said = f"saved at step {step_of(saved)}; run the same command to continue"
        # Each process left by itself, and no launcher died before its processes.
        assert job.said.count(f"dalle: {said}") == 2
        assert "User defined signal" not in job.said

        job.start()
        assert job.wait() == 0, job.said
        assert f"going on from step {step_of(saved)} of 200" in job.said
        assert job.requeued == [str(job.id)]
    assert step_of(list_steps(out)[-1]) == 200
    assert not (out / INTERRUPTED).exists()


@pytest.mark.distributed
@pytest.mark.timeout(300)
def test_a_job_with_bad_input_is_not_queued_again(tmp_path: Path) -> None:
    out = tmp_path / "run"
    out.mkdir()
    (out / INTERRUPTED).write_text("by an earlier start\n")
    with Job(tmp_path, str(out), "--preset", "tiny", "--vae", str(tmp_path / "none")) as job:
        job.start()
        assert job.wait() != 0
        assert str(tmp_path / "none") in job.said
        assert job.requeued == []


def scripts() -> dict[str, str]:
    """What each example runs, by a name."""
    service, kubernetes = yaml.safe_load_all((EXAMPLES / "kubernetes.yaml").read_text("utf-8"))
    (container,) = kubernetes["spec"]["template"]["spec"]["containers"]
    assert container["command"] == ["bash", "-c"]
    assert service["metadata"]["name"] == kubernetes["spec"]["template"]["spec"]["subdomain"]
    sky = yaml.safe_load((EXAMPLES / "skypilot.yaml").read_text("utf-8"))
    return {
        "slurm": SBATCH.read_text("utf-8"),
        "kubernetes": container["args"][0],
        "skypilot": sky["run"],
    }


@pytest.mark.parametrize("name", ["slurm", "kubernetes", "skypilot"])
def test_the_commands_are_ones_that_torchrun_and_ours_take(name: str) -> None:
    script = scripts()[name]
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)
    (line,) = re.findall(r"^.*?(torchrun +--.*)$", script.replace("\\\n", " "), re.MULTILINE)
    words = shlex.split(re.split(r" (?:&|\|\| .*)$", line.strip())[0])[1:]
    launch: Any = get_args_parser().parse_args(words)
    assert (launch.module, launch.training_script) == (True, "dalle")
    assert launch.rdzv_backend == "c10d"
    command, rest = chosen([word for word in launch.training_script_args if word != "$@"])
    assert parse(command, rest).out == "$run"  # type: ignore[attr-defined]


def test_what_was_saved_at_a_signal_is_no_failure() -> None:
    _, job = yaml.safe_load_all((EXAMPLES / "kubernetes.yaml").read_text("utf-8"))
    codes = [
        r["onExitCodes"] for r in job["spec"]["podFailurePolicy"]["rules"] if "onExitCodes" in r
    ]
    assert [code["values"] for code in codes] == [[75]]
    sky = yaml.safe_load((EXAMPLES / "skypilot.yaml").read_text("utf-8"))
    assert sky["resources"]["job_recovery"]["recover_on_exit_codes"] == [75]
    for name in ("kubernetes", "skypilot"):
        assert re.search(r'if \[ -e "\$run/interrupted" \]; then exit 75; fi', scripts()[name])


SAVES = """#!/bin/bash
trap 'sleep 0.2; echo saved > "{run}/interrupted"; exit 1' TERM
touch "{run}/began"
while true; do sleep 0.05; done
"""


def start_script(name: str, folder: Path, torchrun: str) -> subprocess.Popen[bytes]:
    """An example's script as the first of its machines runs it, with a `torchrun` of the test's."""
    (folder / INTERRUPTED).write_text("by an earlier start\n")
    shim = folder / "torchrun"
    shim.write_text(torchrun.format(run=folder))
    shim.chmod(0o755)
    first = {"JOB_COMPLETION_INDEX": "0", "SKYPILOT_NODE_RANK": "0", "SKYPILOT_NODE_IPS": "a\nb"}
    sizes = {"SKYPILOT_NUM_NODES": "2", "SKYPILOT_NUM_GPUS_PER_NODE": "8"}
    return subprocess.Popen(
        ["bash", "-c", scripts()[name].replace("/runs/photos", str(folder))],
        env=os.environ | first | sizes | {"PATH": f"{folder}:{os.environ['PATH']}"},
    )


def test_a_pod_that_is_to_go_waits_until_all_is_saved(tmp_path: Path) -> None:
    with start_script("kubernetes", tmp_path, SAVES) as pod:
        while not (tmp_path / "began").exists():
            time.sleep(0.01)
        pod.terminate()
        assert pod.wait(timeout=20) == 75


@pytest.mark.parametrize("name", ["kubernetes", "skypilot"])
def test_other_ends_keep_their_status(tmp_path: Path, name: str) -> None:
    for status in (0, 1):
        with start_script(name, tmp_path, f"#!/bin/bash\nexit {status}\n") as machine:
            assert machine.wait(timeout=20) == status
