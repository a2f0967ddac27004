"""What a run reads its batches with."""

import functools
import os
from collections.abc import Callable

from dalle.data.loader import Loader
from dalle.data.worker_count import default_workers
from dalle.protocols import Source, Stream
from dalle.training.state import Run
from dalle.training.world import World


def open_loader(
    source: Source | Stream, run: Run, world: World, *, start: int, say: Callable[[str], None]
) -> Loader:
    """The loader of this process's share of each batch, from step `start` on."""
    config, device, num_workers = run.config, world.device.type, run.config.num_workers
    if num_workers is None:
        here = int(os.environ.get("LOCAL_WORLD_SIZE", world.size))
        num_workers = default_workers(source, on_cpu=device == "cpu", processes=here)
    say(
        f"{num_workers} processes read data for each that trains"
        + (" (--num-workers sets another number)" if config.num_workers is None else "")
    )
    return Loader(
        source,
        functools.partial(run.task.read, train=True),
        batch_size=config.batch_size,
        seed=config.seed,
        rank=world.rank,
        world=world.size,
        micro_batches=config.micro_batches,
        num_workers=num_workers,
        pinned=device == "cuda",
        start_step=start,
        bad_samples=run.out / "bad_samples.jsonl",
        max_bad_fraction=config.max_bad,
    )
