"""What a checkpoint costs a run when it is written beside the training, and when it is waited for.

    python benchmarks/saving.py [--width W] [--rounds R] [--folder DIR] [--json FILE]

A network of four square matrices with averaged weights is trained three ways in turns: without a
checkpoint in the middle, with some, and with as many of which each is waited for.
"""

import argparse
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from interleaved import conditions, in_turns, report

from dalle.training import steps
from dalle.training.loop import TrainConfig, train
from dalle.training.optim import OptimConfig
from tests.toys import ToyConfig, ToySource, ToyTask

STEPS, SAVE_EVERY = 48, 12
SAVES = STEPS // SAVE_EVERY - 1
"""In the middle: the end is saved in any case."""


def main() -> None:
    """Print the table, and write it as JSON where asked to."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--width", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="on the disk to try; made if it is not there")
    parser.add_argument("--json", type=Path)
    flags = parser.parse_args()
    if flags.folder is not None:
        flags.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=flags.folder) as folder:
        ways = {
            "none": partial(run, flags.width, Path(folder), save_every=STEPS),
            "background": partial(run, flags.width, Path(folder), save_every=SAVE_EVERY),
            "waited for": partial(
                run, flags.width, Path(folder), save_every=SAVE_EVERY, saver=WaitingSaver
            ),
        }
        inside: dict[str, list[list[float]]] = {name: [] for name in ways}
        in_turns({name: keep(way, inside[name]) for name, way in ways.items()}, flags.rounds)
    parameters = sum(p.numel() for p in ToyTask(config=config(flags.width)).build().parameters())
    rows: list[dict[str, object]] = []
    plain = [sum(times) for times in inside["none"][1:]]
    for name, rounds in inside.items():
        counted = rounds[1:]
        extra = [sum(times) - base for times, base in zip(counted, plain, strict=True)]
        rows.append(
            {
                "checkpoints": name,
                "median_step_ms": 1000 * statistics.median(t for r in counted for t in r),
                "longest_step_ms": 1000 * statistics.median(max(r) for r in counted),
                "ms_for_each_save": 1000 * statistics.median(extra) / SAVES,
            }
        )
    megabytes = 16 * parameters / 1e6  # weights, their average and two moments in float32
    report(rows, flags.json, parameters=parameters, megabytes_of_a_step=megabytes, **conditions())


class WaitingSaver(steps.Saver):
    """As it would be without the background."""

    def save(self, step: int, **more: object) -> None:  # type: ignore[override]
        """Begin, and wait for the end."""
        super().save(step, **more)  # type: ignore[arg-type]
        self.finish()


def config(width: int) -> ToyConfig:
    """Of the network."""
    return ToyConfig(width=width, depth=4)


def run(
    width: int, folder: Path, *, save_every: int, saver: type[steps.Saver] = steps.Saver
) -> list[float]:
    """Train; the seconds between one update's beginning and the next one's."""
    began: list[float] = []
    usual, steps.Saver = steps.Saver, saver  # type: ignore[misc]
    try:
        with tempfile.TemporaryDirectory(dir=folder) as out:
            train(
                ToyTask(config=config(width), on_step=lambda step: began.append(time.monotonic())),
                TrainConfig(
                    steps=STEPS,
                    batch_size=64,
                    optim=OptimConfig(lr=1e-4),
                    ema_decay=0.99,
                    log_every=1000,
                    save_every=save_every,
                ),
                train_source=ToySource(),
                held_out_source=None,
                out=out,
            )
    finally:
        steps.Saver = usual  # type: ignore[misc]
    return [after - before for before, after in itertools.pairwise(began)]


def keep(call: Callable[[], list[float]], results: list[list[float]]) -> Callable[[], None]:
    """The same call, whose results are kept."""
    return lambda: results.append(call())


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
