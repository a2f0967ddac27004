"""Real processes with real workers: every readable sample once an epoch, whoever is killed."""

import json
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from random import Random

import pytest

from tests.data.formats import archives
from tests.data.test_formats import drawn

pytestmark = [pytest.mark.distributed, pytest.mark.timeout(300)]

SCRIPT = Path(__file__).parent / "read_samples.py"
SIZE, BATCH, STEPS = 61, 12, 26  # five epochs and a bit, none of which ends with a batch
BAD = 17


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three archives of uneven lengths; one picture is damaged."""
    folder = tmp_path_factory.mktemp("data")
    pairs = [(data, (str(i), "")) for i, (data, _) in enumerate(drawn(SIZE))]
    pairs[BAD] = (b"<html>", pairs[BAD][1])
    archives(folder, pairs)
    return folder


def start(data: Path, out: Path, *, rank: int, world: int, workers: str) -> subprocess.Popen[bytes]:
    out.mkdir(exist_ok=True)
    numbers = {"rank": rank, "world": world, "steps": STEPS, "batch": BATCH}
    flags = [word for name, value in numbers.items() for word in (f"--{name}", str(value))]
    words = [
        sys.executable,
        str(SCRIPT),
        str(data),
        str(out),
        *flags,
        "--workers",
        *workers.split(),
    ]
    root = str(SCRIPT.parents[2])
    return subprocess.Popen(words, env={**os.environ, "PYTHONPATH": root}, start_new_session=True)


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines()


def steps(out: Path, *, world: int, workers: int) -> list[tuple[list[int], list[float]]]:
    """What each step read, of all processes together."""
    ranks = [
        [json.loads(line) for line in lines(out / f"{world}-{workers}-{rank}.jsonl")]
        for rank in range(world)
    ]
    return [
        ([i for row in rows for i in row["ids"]], [d for row in rows for d in row["draws"]])
        for rows in zip(*ranks, strict=True)
    ]


@pytest.fixture(scope="module")
def unbroken(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two and three processes, each with one, two and four workers."""
    out = tmp_path_factory.mktemp("unbroken")
    ranks = [(rank, world) for world in (2, 3) for rank in range(world)]
    running = [start(data, out, rank=rank, world=world, workers="1 2 4") for rank, world in ranks]
    assert [process.wait() for process in running] == [0] * 5
    return out


def test_every_readable_sample_comes_once_an_epoch(unbroken: Path) -> None:
    first = steps(unbroken, world=2, workers=1)
    for world in (2, 3):
        for workers in (1, 2, 4):
            assert steps(unbroken, world=world, workers=workers) == first
            told = [
                json.loads(line)
                for path in unbroken.glob(f"bad-{world}-{workers}-*.jsonl")
                for line in lines(path)
            ]
            assert {row["key"].rpartition("/")[2] for row in told} == {f"{BAD:06}"}
            assert all(row["substitute"] is not None for row in told)
    stream = [i for ids, _ in first for i in ids]
    for epoch in range(len(stream) // SIZE):
        counts = Counter(stream[epoch * SIZE : (epoch + 1) * SIZE])
        # All but the damaged one, and in its place another a second time.
        assert set(counts) == set(range(SIZE)) - {BAD}
        assert sorted(counts.values()) == [1] * (SIZE - 2) + [2]


def test_killed_anywhere_the_sequence_goes_on(data: Path, unbroken: Path, tmp_path: Path) -> None:
    random = Random(0)
    for rank in range(2):
        file = tmp_path / f"2-2-{rank}.jsonl"
        for at in sorted(random.sample(range(1, STEPS - 1), 2 - rank)):
            process = start(data, tmp_path, rank=rank, world=2, workers="2")
            while not file.exists() or file.read_text().count("\n") < at:
                assert process.poll() is None
                time.sleep(0.005)
            os.killpg(process.pid, 9)
            process.wait()
        assert start(data, tmp_path, rank=rank, world=2, workers="2").wait() == 0
    assert steps(tmp_path, world=2, workers=2) == steps(unbroken, world=2, workers=2)
