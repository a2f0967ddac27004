"""Filling the token cache, on one process or many."""

import math
import shutil
import time
from collections.abc import Callable, Container, Iterator, Sequence
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
from dalle.data.cores import usable_cores
from dalle.data.pictures import Pictures
from dalle.data.split import origin_of
from dalle.data.token_store import Seen, Store, content_of
from dalle.data.tokens import View, encode_pictures
from dalle.errors import DataError, SaveError
from dalle.protocols import ImageTokenizer, Source

SHARD = 1024
"""Samples that are remembered together, and the most pictures in one file."""
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


@dataclass(frozen=True, kw_only=True, slots=True)
class Span:
    """Samples that are remembered together."""

    name: str
    """Another one where any of their names or marks is another."""
    start: int
    size: int


def fill(
    source: Source,
    making: Making,
    store: Store,
    spans: Sequence[Span],
    part: int,
    parts: int,
    say: Callable[[str], None],
    progress: Callable[[int], object],
) -> None:
    """Put into the store what is missing; see `token_cache.cached_codes`."""
    missing = [number for number, span in enumerate(spans) if not store.is_whole(span.name)]
    needed = bytes_for(making, sum(spans[number].size for number in missing))
    progress(len(source) - sum(spans[number].size for number in missing))
    if not missing:
        return
    _check_room(store.folder, making, len(source), needed, say)
    mine = [number for number in missing if number % parts == part]
    for number in [*mine, *_left_by_others(store, spans, missing, part, parts, progress)]:
        _make(source, making, store, spans[number])
        progress(spans[number].size)


def _check_room(
    place: Path, making: Making, samples: int, needed: int, say: Callable[[str], None]
) -> None:
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SaveError(f"the token cache cannot be made in {place}: {error.strerror}") from None
    free = shutil.disk_usage(place).free
    say(
        f"{making.what} of {samples} pictures, {making.views} views each: "
        f"{bytes_for(making, samples) / 1e6:,.1f} MB in {place}, at most {needed / 1e6:,.1f} MB "
        f"of it to be made; {free / 1e6:,.0f} MB are free"
    )
    if needed > free:
        raise SaveError(
            f"the {making.what} need {needed / 1e6:,.1f} MB in {place}, where "
            f"{free / 1e6:,.1f} MB are free; make room, choose another --cache, or fewer --views"
        )


def _left_by_others(
    store: Store,
    spans: Sequence[Span],
    missing: Sequence[int],
    part: int,
    parts: int,
    progress: Callable[[int], object],
) -> Iterator[int]:
    """Waits for what the other processes make, and gives what none of them does."""
    waiting = [number for number in missing if number % parts != part]
    news = time.monotonic()
    while waiting:
        store.look()
        done = [number for number in waiting if store.is_whole(spans[number].name)]
        for number in done:
            waiting.remove(number)
            progress(spans[number].size)
            news = time.monotonic()
        if waiting and time.monotonic() - news > GIVE_UP_SECONDS:
            yield waiting.pop()
        elif waiting:
            time.sleep(0.2)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Read:
    """One sample, as far as it had to be read."""

    content: str = ""
    views: np.ndarray | None = None
    """Where its array is not in the store: uint8, views x height x width x 3."""
    damaged: str | None = None
    unread: str | None = None


def _make(source: Source, making: Making, store: Store, span: Span) -> None:
    """Read some samples, make arrays of the new pictures, and remember which is which."""
    seen = Seen(contents=[])
    fresh: dict[str, np.ndarray] = {}
    step = max(1, 64 // making.views)

    def read(within: int) -> _Read:
        return _read(source, span.start + within, making, store, fresh)

    with ThreadPoolExecutor(min(READERS, usable_cores())) as pool:
        for start in range(0, span.size, step):
            within = range(start, min(start + step, span.size))
            rows = list(pool.map(read, within))
            for number, row in zip(within, rows, strict=True):
                seen.contents.append(row.content)
                if row.damaged is not None:
                    seen.damaged[str(number)] = row.damaged
                if row.unread is not None:
                    seen.unread[str(number)] = row.unread
            new = {row.content: row.views for row in rows if row.views is not None}
            if new:
                made = making.make(np.concatenate(list(new.values())))
                made = made.reshape(len(new), making.views, *making.shape)
                fresh.update(zip(new, made.astype(making.dtype), strict=True))
    if fresh:
        store.add(list(fresh), np.stack(list(fresh.values())))
    store.remember(span.name, seen)


def _read(source: Source, index: int, making: Making, store: Store, fresh: Container[str]) -> _Read:
    pictures, number = origin_of(source, index)
    assert isinstance(pictures, Pictures)
    try:
        data = pictures.data(number)
    except DataError as error:
        return _Read(unread=str(error))
    content = content_of(data)
    if content in fresh or (store.find([content]) >= 0).all():
        return _Read(content=content)
    try:
        sample = pictures.decoded(number, data)
        views = [making.view(sample, Random(f"{content}/{view}")) for view in range(making.views)]
    except DataError as error:
        return _Read(damaged=str(error))
    return _Read(content=content, views=np.stack(views))
