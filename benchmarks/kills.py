"""Kills training again and again, inside saves above all, and looks whether anything was lost.

    python benchmarks/kills.py [--kills N] [--processes P] [--seed S] [--folder DIR] [--json FILE]

A DALL·E of the preset `tiny` is trained with a checkpoint after every update, once without a
break, then killed by SIGKILL and started again until it ends, over and over. After each kill every
checkpoint there must be whole, the newest no older than what was there before, and its weights,
averages and moments those of the unbroken run at that step, byte for byte; each run that comes to
its end must have the unbroken one's curve. With two processes, under DDP, every other kill takes
one of them only.
"""

import argparse
import json
import multiprocessing
import os
import random
import socket
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import torch
from interleaved import conditions, report

import dalle.training.torch_update  # noqa: F401  what a command imports late, once for all lives
from dalle.checkpoint import steps
from dalle.checkpoint.manifest import TEMPORARY, verify
from dalle.cli import main as dalle_command
from dalle.cli import train  # noqa: F401
from dalle.errors import CheckpointError
from dalle.training import tracking

UPDATES = 40
KEEP_LAST = 2
SAVES_OF_A_LIFE = 5
"""At most so many saves are seen before the one that is aimed at."""
ANYWHERE = 0.2
"""The share of kills that are aimed at no save."""
SECONDS = 600.0
GRACE_SECONDS = 10.0

# The first optimizer of a process imports torch's compiler.
torch.optim.AdamW([torch.zeros(1, requires_grad=True)])
CONTEXT = multiprocessing.get_context("forkserver")


def main() -> None:
    """Print the table, and write it as JSON where asked to; status 1 when anything was lost."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=400)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="on the disk to try; made if it is not there")
    parser.add_argument("--json", type=Path)
    flags = parser.parse_args()
    if flags.folder is not None:
        flags.folder.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(dir=flags.folder) as folder:
        trial = Trial(Path(folder), processes=flags.processes, seed=flags.seed)
        trial.run(flags.kills)
    report(
        trial.rows(),
        flags.json,
        runs=trial.runs,
        faults=trial.faults,
        processes=flags.processes,
        milliseconds_of_a_save=1000 * trial.save_seconds,
        minutes=(time.monotonic() - began) / 60,
        **conditions(),
    )
    sys.exit(1 if trial.faults else 0)


class Trial:
    """The unbroken run, and those that are killed."""

    def __init__(self, folder: Path, *, processes: int, seed: int) -> None:
        self.folder, self.processes, self.random = folder, processes, random.Random(seed)
        self.where: Counter[str] = Counter()
        self.faults: list[str] = []
        self.runs = 0
        vae = Life(["train", "vae", "--preset", "tiny", "--out", str(folder / "vae")], folder, 1)
        vae.expect_end()
        began = time.monotonic()
        life = self._start(folder / "unbroken", keep_every=1)
        self.save_seconds = statistics.median(_saves(life, folder / "unbroken"))
        life.expect_end()
        self.life_seconds = time.monotonic() - began
        self.curve = _curve(folder / "unbroken")
        self.digests = {
            steps.step_of(step): _digests(step) for step in steps.list_steps(folder / "unbroken")
        }
        assert len(self.digests) == UPDATES

    def run(self, kills: int) -> None:
        """Kill so often; a run that ends is compared, and the next one begins."""
        while sum(self.where.values()) < kills:
            self.runs += 1
            out = self.folder / f"run-{self.runs}"
            while sum(self.where.values()) < kills and self._live(out):
                print(f"{sum(self.where.values())} of {kills} kills", file=sys.stderr, end="\r")
            self._start(out).expect_end()
            if _curve(out) != self.curve:
                self.faults.append(f"run {self.runs}: another curve than the unbroken run's")
            self._check(out, newest=UPDATES)

    def rows(self) -> list[dict[str, object]]:
        """How many kills fell where."""
        total = sum(self.where.values())
        counted = [*sorted(self.where.items()), ("all", total)]
        return [
            {"kills": number, "share": number / total, "in": place} for place, number in counted
        ]

    def _start(self, out: Path, *, keep_every: int = 0) -> "Life":
        flags = {
            "--preset": "tiny",
            "--vae": self.folder / "vae",
            "--out": out,
            "--steps": UPDATES,
            "--ema-decay": 0.9,
            "--save-every": 1,
            "--keep-last": KEEP_LAST,
            "--keep-every": keep_every,
            "--validate-every": 10,
            "--preview-every": 0,
            "--log-every": 1,
        }
        words = [str(word) for item in flags.items() for word in item]
        return Life(["train", "dalle", *words], self.folder, self.processes)

    def _live(self, out: Path) -> bool:
        """One life, and its death; whether it was killed before it came to the run's end."""
        lines = _lines(out)
        life = self._start(out)
        if self.random.random() < ANYWHERE:
            life.sleep(self.random.uniform(0.0, self.life_seconds / 2))
        else:
            wanted = self.random.randint(1, SAVES_OF_A_LIFE)
            for number, _ in enumerate(_begun(life, out), start=1):
                if number == wanted:
                    life.sleep(self.random.uniform(0.0, self.save_seconds))
                    break
        before = [steps.step_of(step) or 0 for step in steps.list_steps(out)]
        one = self.processes > 1 and self.random.random() < 0.5
        if not life.kill(self.random.randrange(self.processes) if one else None):
            return False
        self.where[self._place(out, started=_lines(out) > lines)] += 1
        self._check(out, newest=max(before, default=0))
        return True

    def _place(self, out: Path, *, started: bool) -> str:
        temporary = [path.name for path in out.glob(f"{TEMPORARY}*")] if out.is_dir() else []
        if any(not name.startswith(f"{TEMPORARY}gone-") for name in temporary):
            return "a save: writing"
        if temporary or len(steps.list_steps(out)) > KEEP_LAST + 1:
            return "a save: deleting what is old"
        return "training" if started else "starting"

    def _check(self, out: Path, *, newest: int) -> None:
        """Everything that is there is whole, and what the unbroken run had."""
        found = 0
        for step in steps.list_steps(out):
            number = steps.step_of(step) or 0
            found = max(found, number)
            try:
                verify(step, training=True)
            except CheckpointError as error:
                self.faults.append(f"run {self.runs}, step {number}: {error}")
                continue
            if _digests(step) != self.digests[number]:
                self.faults.append(f"run {self.runs}, step {number}: not the unbroken run's bytes")
        if found < newest:
            self.faults.append(f"run {self.runs}: step {newest} was there, {found} is the newest")


@dataclass(slots=True, init=False)
class Life:
    """The processes of a run from a start to their end."""

    log: Path
    processes: list[ForkServerProcess]

    def __init__(self, words: list[str], folder: Path, size: int) -> None:
        self.log = folder / "log.txt"
        self.log.unlink(missing_ok=True)
        port = str(_free_port())
        self.processes = [
            CONTEXT.Process(
                target=_work, args=(words, str(self.log), rank, size, port), daemon=True
            )
            for rank in range(size)
        ]
        for process in self.processes:
            process.start()

    @property
    def running(self) -> bool:
        """Whether all its processes live."""
        return all(process.is_alive() for process in self.processes)

    def sleep(self, seconds: float) -> None:
        """Wait so long, or until it ends."""
        until = time.monotonic() + seconds
        while self.running and (left := until - time.monotonic()) > 0:
            time.sleep(min(left, 0.01))

    def kill(self, rank: int | None) -> bool:
        """SIGKILL all processes, or one, and the others' launcher ends them as torchrun does.

        Returns:
            Whether the run was cut off; False if it had come to its end before.
        """
        for process in self.processes if rank is None else [self.processes[rank]]:
            process.kill()
        if rank is not None:
            self.processes[rank].join()
            for process in self.processes:
                process.terminate()
            for process in self.processes:
                process.join(GRACE_SECONDS)
                process.kill()
        return any(status != 0 for status in self._wait())

    def expect_end(self) -> None:
        """Wait for its end, which must be a good one."""
        statuses = self._wait()
        if any(statuses):
            raise RuntimeError(f"ended with {statuses}:\n{self.log.read_text()}")

    def _wait(self) -> list[int]:
        for process in self.processes:
            process.join(SECONDS)
            if process.exitcode is None:
                raise RuntimeError(f"it hangs:\n{self.log.read_text()}")
        return [process.exitcode or 0 for process in self.processes]


def _work(words: list[str], log: str, rank: int, size: int, port: str) -> None:
    torch.set_num_threads(1)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    if size > 1:
        os.environ |= {
            "ACCELERATE_USE_CPU": "true",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": port,
            "WORLD_SIZE": str(size),
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
        }
    sys.exit(dalle_command(words))


def _begun(life: Life, out: Path) -> Iterator[Path]:
    """Each save that is seen to begin, until the life ends."""
    seen: set[str] = set()
    while life.running:
        for path in out.glob(f"{TEMPORARY}[0-9]*") if out.is_dir() else ():
            if path.name not in seen:
                seen.add(path.name)
                yield path
        time.sleep(0.0002)


def _saves(life: Life, out: Path) -> Iterator[float]:
    """Seconds of each save that is seen."""
    for path in _begun(life, out):
        began = time.monotonic()
        while path.exists():
            time.sleep(0.0002)
        yield time.monotonic() - began


def _digests(step: Path) -> dict[str, str]:
    """SHA-256 of each file of tensors, as the manifest says."""
    files = json.loads((step / "MANIFEST.json").read_text("utf-8"))["files"]
    return {n: str(f["sha256"]) for n, f in files.items() if n.endswith(".safetensors")}


def _lines(out: Path) -> int:
    path = out / tracking.METRICS
    return len(path.read_text("utf-8").splitlines()) if path.exists() else 0


def _curve(out: Path) -> list[dict[str, float]]:
    lines = map(json.loads, (out / tracking.METRICS).read_text("utf-8").splitlines())
    return [{k: v for k, v in line.items() if k not in tracking.TIME_FIELDS} for line in lines]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    main()
