"""How fast pictures come from files and codes from the cache, beside what decoder and disk can do.

    python benchmarks/data.py FOLDER [--workers N] [--pictures N] [--rounds R] [--webdataset PLACE]
                              [--json FILE]

FOLDER is a folder of pictures with captions. In turns, on the same pictures: the files read and
nothing else, first put out of the page cache; decoded by Pillow and cropped in one loop per worker
(the decoder's own limit); through our loader; through `datasets` and torch's DataLoader with the
same crop; through webdataset's pipeline, where it can be imported (PLACE is put before the path),
from archives of the same files; codes from the token cache through our loader. Each is timed once
its processes run and its queues are full, so that starting them and what is read ahead does not
count. Last, steps of the `small` model on codes from the cache: the share of the time that it
waits for data. Run it on a machine that does nothing else.
"""

import argparse
import importlib
import importlib.util
import itertools
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from interleaved import conditions, median_ratio, report
from PIL import Image
from torch.utils.data import DataLoader, RandomSampler

from dalle.data.loader import Loader
from dalle.data.pictures import Pictures
from dalle.data.sources import open_source
from dalle.data.token_cache import cached_codes
from dalle.data.token_files import Encoding
from dalle.data.transforms import dalle_augment
from dalle.device_memory import keep_freed_memory
from dalle.presets.dalle import DALLE_PRESETS
from dalle.protocols import EncodedSample, ImageTokenizer, Sample, Source
from dalle.tokenizers.text import TextTokenizer
from dalle.training.dalle_task import DalleTask
from dalle.training.image_tokens import view_of
from tests.data.formats import tar

SIDE, BATCH, GRID = 256, 64, 32
AT_LEAST = int(1.5 * SIDE)
"""Pixels of the shorter side that the crops want; larger JPEGs are decoded at a fraction."""
STEP_BATCH, STEPS = 2, 3


class NoTokenizer:
    """Codes that cost nothing: what is measured is reading them."""

    vocab_size, image_size, grid = 8192, (SIDE, SIDE), (GRID, GRID)

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """Zeros."""
        return torch.zeros(len(images), GRID, GRID, dtype=torch.long)

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        """Nothing asks for it."""
        raise NotImplementedError


def main() -> None:
    """Print the table, and write it as JSON where asked to."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--pictures", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--webdataset", default=None)
    parser.add_argument("--json", type=Path)
    flags = parser.parse_args()
    keep_freed_memory()  # as training does
    if flags.webdataset:
        sys.path.insert(0, flags.webdataset)
    source = open_source(flags.folder, keep_empty=True, at_least=AT_LEAST)
    if not isinstance(source, Pictures):
        raise SystemExit("give a folder of pictures")
    files = [path for i in range(len(source)) if isinstance(path := file_of(source, i), Path)]
    files = list(itertools.islice(itertools.cycle(files), flags.pictures))
    with tempfile.TemporaryDirectory() as place:
        cached = encoded(source, Path(place))
        steps = flags.pictures // BATCH
        ways: dict[str, Callable[[], float]] = {
            "disk": partial(read_files, files),
            "decoder's limit": partial(decode_files, files, flags.workers),
            "our loader": lambda: steady(ours(source, flags.workers), flags.workers, steps),
            "datasets": lambda: steady(plain(files, flags.workers), flags.workers, steps),
            "token cache": lambda: steady(ours(cached, 0), 0, steps),
        }
        if (archives := webdataset_of(files, Path(place), flags.workers)) is not None:
            ways["webdataset"] = lambda: steady(
                theirs(archives, flags.workers), flags.workers, steps
            )
        times: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(flags.rounds):
            for name, way in ways.items():
                times[name].append(way())
        waiting = waits_for_codes(cached)
    rows: list[dict[str, object]] = []
    for name, seconds in times.items():
        rate = flags.pictures / statistics.median(seconds)
        rows.append(
            {
                "way": name,
                "pictures_s": rate,
                "tokens_s": rate * GRID * GRID,
                "of_decoder": median_ratio(times["decoder's limit"], seconds),
            }
        )
    where = {**conditions(), "workers": flags.workers, "pictures": flags.pictures}
    report(rows, flags.json, small=waiting, **where)


def steady(batches: Iterator[object], workers: int, count: int) -> float:
    """Seconds of so many batches, after as many as are read ahead and a few."""
    for _ in range(2 * workers + 2):
        next(batches)
    began = time.perf_counter()
    for _ in range(count):
        next(batches)
    return time.perf_counter() - began


def file_of(source: Pictures, index: int) -> Path | bytes:
    """The file of a picture."""
    return source._load(index, source.key(index))


def crop(path: Path) -> np.ndarray:
    """One picture as training wants it, by Pillow alone up to the crop."""
    with Image.open(path) as image:
        image.draft(None, (AT_LEAST, AT_LEAST))
        return dalle_augment(image.convert("RGB"), Random(str(path)), height=SIDE, width=SIDE)


def read_files(files: list[Path]) -> float:
    """Seconds to read their bytes, from the disk where the system lets go of what it holds."""
    if hasattr(os, "posix_fadvise"):
        for path in files:
            with path.open("rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    began = time.perf_counter()
    for path in files:
        path.read_bytes()
    return time.perf_counter() - began


def decode_some(files: list[Path], together: Any) -> None:
    """In one process; the pixels go nowhere."""
    together.wait()
    for path in files:
        crop(path)
    together.wait()


def decode_files(files: list[Path], workers: int) -> float:
    """Seconds of a share for each process, from which nothing comes back, once all are running."""
    context = multiprocessing.get_context("fork")
    together = context.Barrier(workers + 1)
    shares = [files[number::workers] for number in range(workers)]
    running = [context.Process(target=decode_some, args=(share, together)) for share in shares]
    for process in running:
        process.start()
    together.wait()
    began = time.perf_counter()
    together.wait()
    seconds = time.perf_counter() - began
    for process in running:
        process.join()
    return seconds


def read_sample(sample: Sample | EncodedSample, random: Random) -> dict[str, np.ndarray]:
    """Pixels or codes."""
    if isinstance(sample, EncodedSample):
        return {"codes": sample.codes[0].astype(np.int64)}
    return {"image": dalle_augment(sample.image, random, height=SIDE, width=SIDE)}


def ours(source: Source, workers: int) -> Iterator[object]:
    """As training reads."""
    return iter(Loader(source, read_sample, batch_size=BATCH, seed=0, num_workers=workers))


def plain(files: list[Path], workers: int) -> Iterator[object]:
    """A plain pipeline of the `datasets` package and torch, without end."""
    import datasets

    names = {"image": [str(path) for path in files]}
    table = datasets.Dataset.from_dict(names).cast_column("image", datasets.Image())

    def pixels(rows: dict[str, list[Any]]) -> dict[str, list[np.ndarray]]:
        images = (image.convert("RGB") for image in rows["image"])
        random = Random(0)
        return {"image": [dalle_augment(i, random, height=SIDE, width=SIDE) for i in images]}

    rows = table.with_transform(pixels)
    endless = RandomSampler(rows, num_samples=100 * len(files))  # type: ignore[arg-type]
    return iter(DataLoader(rows, batch_size=BATCH, sampler=endless, num_workers=workers))  # type: ignore[arg-type]


def webdataset_of(files: list[Path], place: Path, workers: int) -> str | None:
    """The same files in an archive for each worker, where the package can be imported."""
    if importlib.util.find_spec("webdataset") is None:
        return None
    for worker in range(workers):
        members = [(f"{i:06}{path.suffix.lower()}", path) for i, path in enumerate(files)]
        share = [(name, path.read_bytes()) for name, path in members[worker::workers]]
        tar(place / f"{worker:03}.tar", share)
    return str(place / f"{{000..{workers - 1:03}}}.tar")


def theirs(archives: str, workers: int) -> Iterator[object]:
    """The usual pipeline of webdataset, without end."""
    webdataset = importlib.import_module("webdataset")

    def pixels(image: Any) -> np.ndarray:
        return dalle_augment(image, Random(0), height=SIDE, width=SIDE)

    samples = webdataset.WebDataset(archives, shardshuffle=False).repeat().shuffle(1000)
    samples = samples.decode("pilrgb").to_tuple("jpg;jpeg;png;webp;gif").map_tuple(pixels)
    batches: DataLoader[Any] = DataLoader(
        samples.batched(BATCH), batch_size=None, num_workers=workers
    )
    return iter(batches)


def waits_for_codes(cached: Source) -> dict[str, float]:
    """Forward and backward passes of the `small` model, and the share of them that reading is.

    The optimizer's part, which would make the share smaller, is left out.
    """
    run, text = DALLE_PRESETS["small"], TextTokenizer.train(["a"], vocab_size=256)
    tokenizer: ImageTokenizer = NoTokenizer()
    config = run.model_config(text_vocab=256, codes=tokenizer.vocab_size, grid=tokenizer.grid)
    task = DalleTask(
        config, text_tokenizer=text, image_tokenizer=tokenizer, objective=run.objective_config()
    )
    model, read = task.build(), partial(task.read, train=True)
    batches = iter(Loader(cached, read, batch_size=STEP_BATCH, seed=0))
    reading = 0.0
    for step in range(1 + STEPS):
        if step == 1:  # the first one is slower
            began, reading = time.perf_counter(), 0.0
        asked = time.perf_counter()
        [arrays] = next(batches)
        reading += time.perf_counter() - asked
        batch = task.prepare(arrays)
        task.loss(model, batch, step=step, counts=batch.counts).total.backward()
    seconds = time.perf_counter() - began
    rate = STEPS * STEP_BATCH / seconds
    return {
        "share_waiting": reading / seconds,
        "pictures_s": rate,
        "tokens_s": rate * config.layout.length,
        "read_ms_a_picture": 1000 * reading / (STEPS * STEP_BATCH),
    }


def encoded(source: Source, place: Path) -> Source:
    """The pictures in a token cache."""
    tokenizer: ImageTokenizer = NoTokenizer()
    encoding = Encoding(
        tokenizer=tokenizer,
        digest="none",
        view=partial(view_of, size=(SIDE, SIDE), augment=True),
        view_name="crop",
        views=1,
        device=torch.device("cpu"),
    )
    began = time.perf_counter()
    cached = cached_codes(source, encoding, place / "cache")
    print(f"token cache made in {time.perf_counter() - began:.1f} s")
    return cached


if __name__ == "__main__":
    main()
