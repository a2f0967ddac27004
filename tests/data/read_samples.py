"""One process of a run that only reads: the samples of each of its steps, a line each.

python read_samples.py DATA OUT --rank R --world W --workers N... --steps S
"""

import argparse
import json
from pathlib import Path
from random import Random

import numpy as np

from dalle.data.loader import Loader
from dalle.data.sources import open_source
from dalle.protocols import Sample


def read(sample: Sample, random: Random) -> dict[str, np.ndarray]:
    """The number that is the sample's caption, and its first draw."""
    return {"id": np.array(int(sample.captions[0])), "draw": np.array(random.random())}


def main() -> None:
    """Go on after the last whole line of each file."""
    parser = argparse.ArgumentParser()
    parser.add_argument("data")
    parser.add_argument("out", type=Path)
    for name in ("rank", "world", "steps", "batch"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--workers", type=int, nargs="+", required=True)
    flags = parser.parse_args()
    source = open_source(flags.data)
    for workers in flags.workers:
        path = flags.out / f"{flags.world}-{workers}-{flags.rank}.jsonl"
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        whole = [line for line in lines if line.endswith("\n")]
        path.write_text("".join(whole))
        loader = Loader(
            source,
            read,
            batch_size=flags.batch,
            seed=3,
            rank=flags.rank,
            world=flags.world,
            micro_batches=2,
            num_workers=workers,
            start_step=len(whole),
            bad_samples=flags.out / f"bad-{flags.world}-{workers}-{flags.rank}.jsonl",
            max_bad_fraction=1.0,
        )
        with path.open("a") as file:
            for _, parts in zip(range(len(whole), flags.steps), loader, strict=False):
                ids = [i for part in parts for i in part["id"].tolist()]
                draws = [d for part in parts for d in part["draw"].tolist()]
                file.write(json.dumps({"ids": ids, "draws": draws}) + "\n")
                file.flush()


if __name__ == "__main__":
    main()
