"""Two processes against one on this machine: tokens a second, and what joining them costs.

    python benchmarks/scaling.py [--batch B] [--rounds R] [--json FILE]

The toy of 6 layers of width 384 over 256 + 1024 slots through the trainer's own steps, one thread a
process, B sequences in each; all ways in turns, while the others wait. What joining costs is what a
step takes beyond that of two processes that train apart at the same time: these share the machine
as the joined ones do, and send nothing. It holds what is sent and not hidden, what the strategy
computes besides, and waiting for the slower process.

Below the table is what `simulate_scaling.py` says of the same steps, from all-reduces of few and of
many numbers between the same processes.
"""

import argparse
import os
import statistics
import tempfile
from collections.abc import Mapping
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.distributed as dist
from interleaved import ceilings, conditions, in_turns, report
from links import Cluster
from simulate_scaling import measure, simulate

from dalle.models.dalle import DalleConfig
from dalle.training.dalle_objective import DalleObjective
from dalle.training.dalle_task import DalleTask
from dalle.training.finite import FiniteCheck
from dalle.training.launch import open_world
from dalle.training.settings import TrainConfig
from dalle.training.step import Stepper
from dalle.training.update import build_updater
from tests.training.toy_group import Group
from tests.training.toy_process import CONTEXT

MODEL = DalleConfig(text_vocab=16384, image_vocab=8192, depth=6, width=384, heads=6)
TOKENS = 1280
STRATEGIES = ("ddp", "zero2", "fsdp2")
FEW, MANY = 2**8, 2**24
STEP, END = 0, -1
"""What is told to processes, beside how many numbers to add up."""


class Workers:
    """Processes, joined or one alone, that do what they are told and say when it is done."""

    def __init__(self, log: Path, strategy: str, *, size: int, batch: int) -> None:
        ends = [CONTEXT.Pipe() for _ in range(size)]
        self._ends = [mine for mine, _ in ends]
        theirs = [other for _, other in ends]
        self._group = Group(serve, theirs, batch, log=log, strategy=strategy, size=size)

    def tell(self, what: int) -> None:
        """All of them begin."""
        for end in self._ends:
            end.send(what)

    def wait(self) -> None:
        """Until all are done."""
        for end in self._ends:
            while not end.poll(1.0):
                if not all(process.is_alive() for process in self._group.processes):
                    raise SystemExit(f"a process is gone:\n{self._group.said}")
            end.recv()

    def end(self) -> None:
        """Let them go."""
        self.tell(END)
        self._group.wait()


def together(groups: list[Workers], what: int) -> None:
    """All groups at the same time."""
    for group in groups:
        group.tell(what)
    for group in groups:
        group.wait()


def serve(connections: list[Connection], batch: int) -> int:
    """One process: the trainer's steps, on the same random tokens each time."""
    connection = connections[int(os.environ["RANK"])]
    config = TrainConfig(steps=10**6, batch_size=batch, device="cpu")
    world = open_world(config)
    tokenizers: dict[str, Any] = {
        "text_tokenizer": SimpleNamespace(vocab_size=MODEL.text_vocab),
        "image_tokenizer": SimpleNamespace(
            vocab_size=MODEL.image_vocab, grid=(MODEL.rows, MODEL.cols)
        ),
    }
    task = DalleTask(MODEL, objective=DalleObjective(), **tokenizers)
    torch.manual_seed(0)
    updater = build_updater(world, task.build(), config, state=None)
    stepper = Stepper(task=task, config=config, world=world, updater=updater, finite=FiniteCheck())
    share = batch // world.size
    text = torch.randint(0, MODEL.text_vocab, (share, MODEL.text_slots))
    text[:, 0] = MODEL.text_vocab
    codes = torch.randint(0, MODEL.image_vocab, (share, MODEL.rows * MODEL.cols))
    numbers: dict[int, torch.Tensor] = {}
    step = 0
    while (what := connection.recv()) != END:
        if what == STEP:
            stepper.run([{"text": text, "codes": codes}], step=step, lr=1e-4, stop=False)
            step += 1
        else:
            dist.all_reduce(numbers.setdefault(what, torch.zeros(what)))
        connection.send(step)
    return 0


def main() -> None:
    """Print the table, and write it as JSON where asked to."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--batch", type=int, default=1, help="sequences in each process")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path)
    flags = parser.parse_args()
    batch, first = flags.batch, ceilings()
    with tempfile.TemporaryDirectory() as folder:
        start = partial(begin, Path(folder))
        ways = {
            "one": [start("one", "single", 1, batch)],
            "one, all sequences": [start("all", "single", 1, 2 * batch)],
            "two apart": [start(f"apart-{i}", "single", 1, batch) for i in range(2)],
            **{name: [start(name, name, 2, 2 * batch)] for name in STRATEGIES},
        }
        calls = {name: partial(together, groups, STEP) for name, groups in ways.items()}
        for name, numbers in (("few", FEW), ("many", MANY)):
            calls[name] = partial(together, ways["ddp"], numbers)
        times = in_turns(calls, flags.rounds)
        for group in (group for groups in ways.values() for group in groups):
            group.end()
    seconds = {name: statistics.median(taken) for name, taken in times.items()}
    shares = {name: joining_share(times[name], times["two apart"]) for name in STRATEGIES}
    looks = {"first": first, "last": ceilings()}
    simulated = compare(seconds, batch)
    rows = table(seconds, shares, batch)
    report(rows, flags.json, simulated=simulated, **looks, **conditions())


def begin(folder: Path, name: str, strategy: str, size: int, batch: int) -> Workers:
    """Start the processes of one way."""
    return Workers(folder / name, strategy, size=size, batch=batch)


def joining_share(joined: list[float], apart: list[float]) -> float:
    """Of a step of joined processes, the median over rounds of what it takes beyond one apart."""
    return statistics.median(1 - b / a for a, b in zip(joined, apart, strict=True))


def table(
    seconds: Mapping[str, float], shares: Mapping[str, float], batch: int
) -> list[dict[str, object]]:
    """Efficiency is of two processes' time: against one with all the sequences, and with half."""
    rows: list[dict[str, object]] = []
    for name in ("one", "one, all sequences", "two apart", *STRATEGIES):
        sequences = batch if name == "one" else 2 * batch
        two = name == "two apart" or name in STRATEGIES
        rows.append(
            {
                "way": name,
                "seconds": seconds[name],
                "tokens_a_second": sequences * TOKENS / seconds[name],
                "same_batch": seconds["one, all sequences"] / seconds[name] / 2 if two else "",
                "same_each": seconds["one"] / seconds[name] if two else "",
                "joining_share": shares.get(name, ""),
            }
        )
    return rows


def compare(seconds: Mapping[str, float], batch: int) -> dict[str, dict[str, float]]:
    """What the simulation says of the joined ways, beside what was measured."""
    latency = seconds["few"] / 2
    bandwidth = 4 * MANY / (seconds["many"] - seconds["few"])
    toy = measure("toy", MODEL, sequences=batch, rank=64)
    here = Cluster(
        peak=batch * toy.flop / seconds["two apart"],
        inside=bandwidth,
        between=bandwidth,
        inside_latency=latency,
    )
    said = {"link": {"gigabytes_a_second": bandwidth / 1e9, "latency_ms": 1000 * latency}}
    for name in STRATEGIES:
        step = simulate(toy, name, 2, here, share=1.0)
        said[name] = {
            "measured_s": seconds[name],
            "hidden_s": step.seconds(hidden=True),
            "bare_s": step.seconds(hidden=False),
            "bare_over_measured": step.seconds(hidden=False) / seconds[name],
        }
    return said


if __name__ == "__main__":
    main()
