"""How fast pictures come from files and codes from the cache, beside what decoder and disk can do.

    python benchmarks/data.py FOLDER [--workers N] [--pictures N] [--rounds R] [--json FILE]

FOLDER is a folder of pictures with captions. In turns, on the same pictures: the files read and
nothing else; decoded and cropped in one loop per worker (the decoder's own limit); through our
loader; through `datasets` and torch's DataLoader with the same crop; through webdataset, where it
is installed, from an archive of the same files; and codes from the token cache by our loader.
Run it on a machine that does nothing else; the files are in the page cache after the first round.
"""

import argparse
import itertools
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from interleaved import conditions, in_turns, report

from dalle.data.loader import Loader
from dalle.data.pictures import Pictures
from dalle.data.sources import open_source
from dalle.data.token_cache import cached_codes
from dalle.data.token_files import Encoding
from dalle.data.transforms import dalle_augment
from dalle.picture_files import open_image
from dalle.protocols import EncodedSample, ImageTokenizer, Sample, Source
from dalle.training.image_tokens import view_of
from tests.data.formats import tar

SIDE, BATCH, GRID = 256, 64, 32


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
    parser.add_argument("--json", type=Path)
    flags = parser.parse_args()
    source = open_source(flags.folder, keep_empty=True, at_least=int(1.5 * SIDE))
    if not isinstance(source, Pictures):
        raise SystemExit("give a folder of pictures")
    files = [path for i in range(len(source)) if isinstance(path := file_of(source, i), Path)]
    files = list(itertools.islice(itertools.cycle(files), flags.pictures))
    with tempfile.TemporaryDirectory() as place:
        ways: dict[str, Callable[[], object]] = {
            "files read": partial(read_files, files),
            "decoder's limit": partial(decode_files, files, flags.workers),
            "our loader": partial(through_loader, source, flags.workers, flags.pictures),
            "datasets + DataLoader": partial(through_datasets, files, flags.workers),
        }
        if (archive := webdataset_of(files, Path(place))) is not None:
            ways["webdataset"] = partial(through_webdataset, archive, flags.workers)
        cached = encoded(source, Path(place))
        ways["token cache"] = partial(through_loader, cached, 0, flags.pictures)
        times = in_turns(ways, flags.rounds)
    rows: list[dict[str, object]] = []
    for name, seconds in times.items():
        rate = flags.pictures / statistics.median(seconds)
        limit = flags.pictures / statistics.median(times["decoder's limit"])
        rows.append(
            {
                "way": name,
                "pictures_s": rate,
                "tokens_s": rate * GRID * GRID,
                "of_decoder": rate / limit,
            }
        )
    where = {**conditions(), "workers": flags.workers, "pictures": flags.pictures}
    report(rows, flags.json, **where)


def file_of(source: Pictures, index: int) -> Path | bytes:
    """The file of a picture."""
    return source._load(index, source.key(index))


def crop(path: Path) -> np.ndarray:
    """One picture as training wants it."""
    image = open_image(path, at_least=int(1.5 * SIDE))
    return dalle_augment(image, Random(0), height=SIDE, width=SIDE)


def read_files(files: list[Path]) -> int:
    """Their bytes and nothing else."""
    return sum(len(path.read_bytes()) for path in files)


def decode_some(files: list[Path]) -> int:
    """In one process; the pixels go nowhere."""
    return sum(crop(path).size for path in files)


def decode_files(files: list[Path], workers: int) -> None:
    """A share for each process, from which nothing comes back."""
    context = multiprocessing.get_context("fork")
    shares = [files[number::workers] for number in range(workers)]
    running = [context.Process(target=decode_some, args=(share,)) for share in shares]
    for process in running:
        process.start()
    for process in running:
        process.join()


def read_sample(sample: Sample | EncodedSample, random: Random) -> dict[str, np.ndarray]:
    """Pixels or codes."""
    if isinstance(sample, EncodedSample):
        return {"codes": sample.codes[0].astype(np.int64)}
    return {"image": dalle_augment(sample.image, random, height=SIDE, width=SIDE)}


def through_loader(source: Source, workers: int, pictures: int) -> None:
    """As training reads."""
    loader = Loader(source, read_sample, batch_size=BATCH, seed=0, num_workers=workers)
    for _ in itertools.islice(loader, pictures // BATCH):
        pass


def through_datasets(files: list[Path], workers: int) -> None:
    """A plain pipeline of the `datasets` package and torch."""
    import datasets
    from torch.utils.data import DataLoader

    names = {"image": [str(path) for path in files]}
    table = datasets.Dataset.from_dict(names).cast_column("image", datasets.Image())

    def pixels(rows: dict[str, list[Any]]) -> dict[str, list[np.ndarray]]:
        images = (image.convert("RGB") for image in rows["image"])
        random = Random(0)
        return {"image": [dalle_augment(i, random, height=SIDE, width=SIDE) for i in images]}

    batches: DataLoader[Any] = DataLoader(
        table.with_transform(pixels),  # type: ignore[arg-type]
        batch_size=BATCH,
        shuffle=True,
        num_workers=workers,
    )
    for _ in batches:
        pass


def webdataset_of(files: list[Path], place: Path) -> Path | None:
    """The same files in an archive, where the package is installed."""
    try:
        import webdataset  # noqa: F401
    except ImportError:
        return None
    names = (f"{i:06}{path.suffix.lower()}" for i, path in enumerate(files))
    path = place / "pictures.tar"
    tar(path, [(n, file.read_bytes()) for n, file in zip(names, files, strict=True)])
    return path


def through_webdataset(archive: Path, workers: int) -> None:
    """The usual pipeline of that package."""
    import webdataset
    from torch.utils.data import DataLoader

    def pixels(image: Any) -> np.ndarray:
        return dalle_augment(image, Random(0), height=SIDE, width=SIDE)

    samples = webdataset.WebDataset(str(archive), shardshuffle=False).shuffle(1000)
    samples = samples.decode("pilrgb").to_tuple("jpg;jpeg;png;webp;gif").map_tuple(pixels)
    # One archive cannot be divided among several workers.
    for _ in DataLoader(samples.batched(BATCH), batch_size=None, num_workers=min(workers, 1)):
        pass


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
