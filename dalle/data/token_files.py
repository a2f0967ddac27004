"""Making the files of the token cache, on one process or many."""

import json
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from random import Random
from typing import Protocol

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


class Making(Protocol):
    """What is made of every picture once, and kept: an array for each of its views."""

    what: str
    """For messages."""

    @property
    def view(self) -> View: ...

    @property
    def views(self) -> int: ...

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the array of one view."""
        ...

    @property
    def dtype(self) -> np.dtype[np.generic]: ...

    def name(self) -> str:
        """Another one for another model, another transform, another number of views."""
        ...

    def make(self, pictures: np.ndarray) -> np.ndarray:
        """Arrays, n x shape, of pictures, uint8, n x height x width x 3."""
        ...


def name_of(digest: str, view_name: str, views: int) -> str:
    """The name of what a model of this digest makes of such views."""
    code = [Path(str(module.__file__)).read_bytes() for module in (transforms, picture_files)]
    said = f"{digest}/{view_name}/{views}/{PIL.__version__}".encode()
    return blake2b(b"\0".join([said, *code]), digest_size=16).hexdigest()


@dataclass(frozen=True, kw_only=True, slots=True)
class Encoding:
    """How pictures become codes."""

    what = "codes"
    tokenizer: ImageTokenizer
    digest: str
    """Of the tokenizer's weights."""
    view: View
    view_name: str
    """What the view does besides the code of `data.transforms`, which is hashed."""
    views: int
    device: torch.device

    def name(self) -> str:
        """See `Making`."""
        return name_of(self.digest, self.view_name, self.views)

    @property
    def shape(self) -> tuple[int, ...]:
        """(rows, cols)."""
        return self.tokenizer.grid

    @property
    def dtype(self) -> np.dtype[np.generic]:
        """Two bytes a code where they suffice."""
        return np.dtype(np.uint16 if self.tokenizer.vocab_size <= 1 << 16 else np.int32)

    def make(self, pictures: np.ndarray) -> np.ndarray:
        """See `Making`."""
        return encode_pictures(self.tokenizer, pictures, self.device)


def bytes_for(making: Making, samples: int) -> int:
    """What so many samples take on the disk."""
    return samples * making.views * math.prod(making.shape) * making.dtype.itemsize


def fill(
    source: Source,
    making: Making,
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
    needed = bytes_for(making, sum(_size(source, number) for number in missing))
    free = shutil.disk_usage(place).free
    say(
        f"{making.what} of {len(source)} pictures, {making.views} views each: "
        f"{bytes_for(making, len(source)) / 1e6:,.1f} MB in {place}, {needed / 1e6:,.1f} MB of it "
        f"to be made; {free / 1e6:,.0f} MB are free"
    )
    if needed > free:
        raise SaveError(
            f"the {making.what} need {needed / 1e6:,.1f} MB in {place}, where "
            f"{free / 1e6:,.1f} MB are free; make room, choose another --cache, or fewer --views"
        )
    mine = [number for number in missing if number % parts == part]
    for number in [*mine, *_left_by_others(files, missing, part, parts, progress, source)]:
        if not files[number].exists():
            _make(source, making, files[number], number)
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


def _make(source: Source, making: Making, file: Path, number: int) -> None:
    """Encode the samples of one file and give it its name when it is whole."""
    size, views = _size(source, number), making.views
    made = np.zeros((size, views, *making.shape), dtype=making.dtype)
    damaged: dict[str, str] = {}

    def read(within: int) -> np.ndarray | str:
        try:
            sample = source[number * SHARD + within]
            if not isinstance(sample, Sample):
                return f"{sample.key} is encoded already; give a source of pictures"
            return np.stack(
                [making.view(sample, Random(f"{sample.key}/{v}")) for v in range(views)]
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
                made[good] = making.make(pictures).reshape(len(good), views, *making.shape)
    beside = file.with_name(f".{file.stem}.{os.getpid()}")
    try:
        with beside.open("wb") as stream:
            np.save(stream, made, allow_pickle=False)
        file.with_suffix(".json").write_text(json.dumps(damaged), encoding="utf-8")
        beside.replace(file)
    except OSError as error:
        raise SaveError(f"{file} of the token cache cannot be written: {error.strerror}") from None
    finally:
        beside.unlink(missing_ok=True)
