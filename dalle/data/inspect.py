"""Looking through a data set before it is trained on: every picture is opened once."""

import itertools
import multiprocessing
import os
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from hashlib import blake2b

import numpy as np

from dalle.data.duplicates import exact_hash, mean_colour, near_hash, near_pairs, repeats
from dalle.data.loader import sort_of_reason
from dalle.data.mixed_stream import NumberedStream
from dalle.errors import DataError
from dalle.protocols import Source, Stream, StreamRow
from dalle.tokenizers.text import TextTokenizer

CHUNK = 32
"""Samples that a process looks at before it says what it saw."""
EXAMPLES = 20
SEED = 0

_LOOKED = np.dtype(
    [
        ("number", "<i8"),
        ("readable", "?"),
        ("width", "<i4"),
        ("height", "<i4"),
        ("tokens", "<i4"),
        ("captions", "<i4"),
        ("exact", "<u8"),
        ("near", "<u8"),
        ("stem", "<u8"),
        ("colour", "u1", (3,)),
    ]
)
"""What is kept of a sample: 52 bytes, whatever its size."""

Looked = tuple[np.ndarray, dict[str, str]]
"""Rows of some samples, and what is wrong with those that cannot be read, by key."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Findings:
    """What a look through a data set gave."""

    looked_at: int
    of: int | None
    """None of a stream, which does not say."""
    unreadable: dict[str, int]
    """How many, by what is wrong with them."""
    bad: dict[str, str]
    """Key of each that cannot be read, and why."""
    without_caption: int
    sizes: dict[str, float]
    """Shortest and longest, and the quartiles between, of the shorter side in pixels."""
    aspects: dict[str, int]
    """How many are how much wider than high."""
    tokens: dict[str, float]
    """The same as `sizes`, of the longest caption of each picture, in tokens."""
    too_long: int
    """Pictures with a caption of more tokens than there are slots."""
    same: list[tuple[str, str]]
    """Keys of a picture and of an earlier one with the same pixels."""
    near: list[tuple[str, str]]
    """Keys of pictures that nearly agree."""
    same_name: list[str]
    """Keys of pictures whose file name without extension occurs elsewhere too: the first."""
    num_same_name: int

    @property
    def num_bad(self) -> int:
        """Samples that cannot be read."""
        return len(self.bad)


ASPECTS = (0.0, 0.25, 0.5, 0.8, 1.25, 2.0, 4.0, float("inf"))
"""Borders of width / height between the groups that are counted."""


@dataclass(kw_only=True, slots=True)
class Inspection:
    """Looks at samples in a random order, so that what it found so far stands for all."""

    source: Source | Stream
    tokenizer: TextTokenizer
    room: int
    """Tokens that a model has slots for."""
    processes: int = 1
    most: int | None = None
    """Look at so many only."""
    _rows: list[np.ndarray] = field(default_factory=list, init=False)
    _bad: dict[str, str] = field(default_factory=dict, init=False)

    @property
    def total(self) -> int | None:
        """How many samples will be looked at; None where that is not known."""
        if isinstance(self.source, Stream):
            return self.most
        return min(len(self.source), self.most or len(self.source))

    def _chunks(self) -> Iterator[list[StreamRow]]:
        rows = itertools.islice(self._stream.rows(seed=SEED, epoch=0), self.most)
        while chunk := list(itertools.islice(rows, CHUNK)):
            yield chunk

    @property
    def _stream(self) -> Stream:
        source = self.source
        return source if isinstance(source, Stream) else NumberedStream(source)

    def run(self, progress: Callable[[int], object]) -> Iterator[int]:
        """Look on; gives the number of samples looked at so far, again and again.

        Raises:
            DataError: a process died over a picture.
        """
        chunks, done = self._chunks(), 0
        looked: Iterator[Looked] = map(_Look(self._stream, self.tokenizer), chunks)
        if self.processes > 1:
            looked = self._in_processes(chunks)
        for rows, bad in looked:
            self._rows.append(rows)
            self._bad |= bad
            done += len(rows)
            progress(len(rows))
            yield done

    def _in_processes(self, chunks: Iterator[list[StreamRow]]) -> Iterator[Looked]:
        # A fork shares the listing of the data, which may be large.
        methods = multiprocessing.get_all_start_methods()
        context = multiprocessing.get_context("fork" if "fork" in methods else "spawn")
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        with ProcessPoolExecutor(
            self.processes,
            mp_context=context,
            initializer=_prepare,
            initargs=(_Look(self._stream, self.tokenizer),),
        ) as pool:
            waiting: deque[Future[Looked]] = deque()
            try:
                for chunk in itertools.islice(chunks, 4 * self.processes):
                    waiting.append(pool.submit(_look, chunk))
                while waiting:
                    yield waiting.popleft().result()
                    for chunk in itertools.islice(chunks, 1):
                        waiting.append(pool.submit(_look, chunk))
            except BrokenProcessPool:
                raise DataError(
                    "a process died while it looked at pictures: memory was short, or a decoder "
                    "failed; with --processes 1 it shows where"
                ) from None

    def findings(self) -> Findings:
        """What was found so far."""
        stream = self._stream
        rows = np.concatenate([np.zeros(0, dtype=_LOOKED), *self._rows])
        good = np.flatnonzero(rows["readable"])

        def key(place: int) -> str:
            return stream.key(int(rows["number"][good[place]]))

        first = repeats(rows["exact"][good])
        again = np.flatnonzero(first != np.arange(len(good)))
        alone = np.flatnonzero(first == np.arange(len(good)))
        near = near_pairs(rows["near"][good][alone], rows["colour"][good][alone])
        _, place, counts = np.unique(rows["stem"], return_index=True, return_counts=True)
        told = place[counts > 1][:EXAMPLES]
        return Findings(
            looked_at=len(rows),
            of=None if isinstance(self.source, Stream) else len(self.source),
            unreadable=dict(Counter(map(sort_of_reason, self._bad.values())).most_common()),
            bad=dict(self._bad),
            without_caption=int((rows["captions"] == 0).sum()),
            sizes=_spread(np.minimum(rows["width"], rows["height"])[good]),
            aspects=_aspects(rows["width"][good] / np.maximum(rows["height"][good], 1)),
            tokens=_spread(rows["tokens"][rows["captions"] > 0]),
            too_long=int((rows["tokens"] > self.room).sum()),
            same=[(key(int(i)), key(int(first[i]))) for i in again],
            near=[(key(int(alone[a])), key(int(alone[b]))) for a, b in near],
            same_name=[stream.key(number) for number in rows["number"][told].tolist()],
            num_same_name=int(counts[counts > 1].sum()),
        )


class _Look:
    """Opens samples, and says of each what is kept."""

    def __init__(self, source: Stream, tokenizer: TextTokenizer) -> None:
        self._source = source
        self._tokenizer = tokenizer

    def __call__(self, chunk: list[StreamRow]) -> Looked:
        rows, bad = np.zeros(len(chunk), dtype=_LOOKED), dict[str, str]()
        for row, one in zip(rows, chunk, strict=True):
            row["number"] = one.number
            row["stem"] = _hash(os.path.splitext(one.key.rpartition("/")[2])[0])
            lengths = [len(self._tokenizer.encode(text)) for text in one.captions]
            row["captions"], row["tokens"] = len(lengths), max(lengths, default=0)
            try:
                image = self._source.sample(one).image
            except DataError as error:
                bad[one.key] = str(error)
                continue
            row["width"], row["height"] = image.size
            row["exact"], row["near"] = exact_hash(image), near_hash(image)
            row["colour"] = mean_colour(image)
            row["readable"] = True
        return rows, bad


_LOOKS: list[_Look] = []
"""What this process looks with, where it is one of several."""


def _prepare(look: _Look) -> None:
    _LOOKS.append(look)


def _look(chunk: list[StreamRow]) -> Looked:
    return _LOOKS[-1](chunk)


def _hash(text: str) -> int:
    data = text.encode("utf-8", "surrogatepass")
    return int.from_bytes(blake2b(data, digest_size=8).digest(), "little")


def _spread(values: np.ndarray) -> dict[str, float]:
    if not len(values):
        return {}
    points = np.quantile(values, (0, 0.25, 0.5, 0.75, 1))
    names = ("least", "quarter", "half", "three quarters", "most")
    return dict(zip(names, map(float, points), strict=True))


def _aspects(ratios: np.ndarray) -> dict[str, int]:
    counts, _ = np.histogram(ratios, bins=ASPECTS)
    names = (f"{low:g} to {high:g}" for low, high in itertools.pairwise(ASPECTS))
    return {name: int(n) for name, n in zip(names, counts, strict=True) if n}
