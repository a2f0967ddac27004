"""Making the files of the token cache, on one process or many."""

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from random import Random

import numpy as np
import PIL
import torch

from dalle import picture_files
from dalle.data import transforms
from dalle.data.tokens import View, encode_pictures
from dalle.errors import DataError, SaveError
from dalle.protocols import ImageTokenizer, Sample, Source

SHARD = 1024
"""Samples in one file."""
READERS = 8
"""Threads that decode pictures, at most; Pillow lets others run meanwhile."""
GIVE_UP_SECONDS = 60.0
"""After so long without news from another process, what it was to do is done here."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Encoding:
    """How pictures become codes."""

    tokenizer: ImageTokenizer
    digest: str
    """Of the tokenizer's weights."""
    view: View
    view_name: str
    """What the view does besides the code of `data.transforms`, which is hashed."""
    views: int
    device: torch.device

    def name(self) -> str:
        """Another one for another tokenizer, another transform, another number of views."""
        code = [Path(str(module.__file__)).read_bytes() for module in (transforms, picture_files)]
        said = f"{self.digest}/{self.view_name}/{self.views}/{PIL.__version__}".encode()
        return blake2b(b"\0".join([said, *code]), digest_size=16).hexdigest()

    def bytes_for(self, samples: int) -> int:
        """What so many samples take on the disk."""
        rows, cols = self.tokenizer.grid
        return samples * self.views * rows * cols * self.dtype.itemsize

    @property
    def dtype(self) -> np.dtype[np.generic]:
        """Two bytes a code where they suffice."""
        return np.dtype(np.uint16 if self.tokenizer.vocab_size <= 1 << 16 else np.int32)


def fill(
    source: Source,
    encoding: Encoding,
    files: Sequence[Path],
    part: int,
    parts: int,
    say: Callable[[str], None],
    progress: Callable[[int], object],
) -> None:
    """Make the files that are missing; see `token_cache.cached_codes`."""
    missing = [number for number, file in enumerate(files) if not file.exists()]
    progress(len(source) - sum(_size(source, number) for number in missing))
    if not missing:
        return
    place = files[0].parent
    place.mkdir(parents=True, exist_ok=True)
    needed = encoding.bytes_for(sum(_size(source, number) for number in missing))
    free = shutil.disk_usage(place).free
    say(
        f"codes of {len(source)} pictures, {encoding.views} views each: "
        f"{encoding.bytes_for(len(source)) / 1e6:,.1f} MB in {place}, {needed / 1e6:,.1f} MB of it "
        f"to be made; {free / 1e6:,.0f} MB are free"
    )
    if needed > free:
        raise SaveError(
            f"the codes need {needed / 1e6:,.1f} MB in {place}, where {free / 1e6:,.1f} MB are "
            "free; make room, choose another --cache, or fewer --views"
        )
    mine = [number for number in missing if number % parts == part]
    for number in [*mine, *_left_by_others(files, missing, part, parts, progress, source)]:
        if not files[number].exists():
            _make(source, encoding, files[number], number)
        progress(_size(source, number))


def _left_by_others(
    files: Sequence[Path],
    missing: Sequence[int],
    part: int,
    parts: int,
    progress: Callable[[int], object],
    source: Source,
) -> Iterator[int]:
    """Waits for what the other processes make, and gives what none of them does."""
    waiting = [number for number in missing if number % parts != part]
    news = time.monotonic()
    while waiting:
        done = [number for number in waiting if files[number].exists()]
        for number in done:
            waiting.remove(number)
            progress(_size(source, number))
            news = time.monotonic()
        if waiting and time.monotonic() - news > GIVE_UP_SECONDS:
            yield waiting.pop()
        elif waiting:
            time.sleep(0.2)


def _size(source: Source, number: int) -> int:
    return min(SHARD, len(source) - number * SHARD)


def _make(source: Source, encoding: Encoding, file: Path, number: int) -> None:
    """Encode the samples of one file and give it its name when it is whole."""
    size, views = _size(source, number), encoding.views
    rows, cols = encoding.tokenizer.grid
    codes = np.zeros((size, views, rows, cols), dtype=encoding.dtype)
    damaged: dict[str, str] = {}

    def read(within: int) -> np.ndarray | str:
        try:
            sample = source[number * SHARD + within]
            if not isinstance(sample, Sample):
                return f"{sample.key} is encoded already; give a source of pictures"
            return np.stack(
                [encoding.view(sample, Random(f"{sample.key}/{v}")) for v in range(views)]
            )
        except DataError as error:
            return str(error)

    step = max(1, 64 // views)
    with ThreadPoolExecutor(min(READERS, os.cpu_count() or 1)) as pool:
        for start in range(0, size, step):
            within = range(start, min(start + step, size))
            found = list(pool.map(read, within))
            damaged |= {str(i): f for i, f in zip(within, found, strict=True) if isinstance(f, str)}
            good = [i for i, f in zip(within, found, strict=True) if not isinstance(f, str)]
            if good:
                pictures = np.concatenate([f for f in found if not isinstance(f, str)])
                made = encode_pictures(encoding.tokenizer, pictures, encoding.device)
                codes[good] = made.reshape(len(good), views, rows, cols)
    beside = file.with_name(f".{file.stem}.{os.getpid()}")
    try:
        with beside.open("wb") as stream:
            np.save(stream, codes, allow_pickle=False)
        file.with_suffix(".json").write_text(json.dumps(damaged), encoding="utf-8")
        beside.replace(file)
    except OSError as error:
        raise SaveError(f"{file} of the token cache cannot be written: {error.strerror}") from None
    finally:
        beside.unlink(missing_ok=True)
