"""A data set as codes (or vectors) and token ids on the disk, made once for all runs."""

import json
from collections.abc import Callable, Sequence
from hashlib import blake2b
from pathlib import Path

import numpy as np

from dalle.data import token_files
from dalle.data.split import Subset, captions_at, key_at, mark_at
from dalle.data.token_files import Making, Span, fill
from dalle.data.token_store import Store
from dalle.data.token_texts import CachedTexts, cached_texts
from dalle.errors import DataError
from dalle.protocols import EncodedSample, Source
from dalle.tokenizers.text import TextTokenizer


class CachedCodes:
    """A source of codes that lie on the disk, mapped into memory, with the captions of another.

    Args:
        source: whose pictures and captions they are.
        store: has the codes, or what else is in their place.
        places: number of the file and of the row of each sample, n x 2; -1 where there is none.
        damaged: what is wrong with those.
        texts: the captions as ids; None where they were not asked for.
    """

    def __init__(
        self,
        source: Source,
        store: Store,
        *,
        places: np.ndarray,
        damaged: dict[int, str],
        texts: CachedTexts | None,
    ) -> None:
        self.source = source
        self._store = store
        self._places = places
        self._damaged = damaged
        self._texts = texts
        self._open: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int, /) -> EncodedSample:
        if not 0 <= index < len(self):
            raise IndexError(index)
        if index in self._damaged:
            raise DataError(self._damaged[index])
        number, row = map(int, self._places[index])
        if number not in self._open:
            self._open[number] = self._store.made(number)
        return EncodedSample(
            key=self.key(index),
            codes=np.asarray(self._open[number][row]),
            captions=self.captions(index),
            token_ids=None if self._texts is None else self._texts[index],
        )

    def key(self, index: int) -> str:
        """The name of a sample."""
        return key_at(self.source, index)

    def captions(self, index: int) -> tuple[str, ...]:
        """The captions of a sample."""
        return captions_at(self.source, index)


def cached_codes(
    source: Source,
    making: Making,
    folder: Path,
    *,
    text: TextTokenizer | None = None,
    part: int = 0,
    parts: int = 1,
    say: Callable[[str], None] = lambda _: None,
    progress: Callable[[int], object] = lambda _: None,
) -> Source:
    """The source as codes, of which those that are not in the cache yet are made.

    Several processes may do this at once: each makes its share of the files, and what a process
    that is gone leaves is made by the others. A picture whose name, size and dates are those of
    an earlier time is not opened; any other one is read, and encoded if its bytes are new.

    Args:
        source: one that `is_marked`.
        folder: the cache.
        text: the captions become its ids, too.
        part, parts: which share is this process's.
        say: told how much room the codes take, where some are missing.
        progress: called with the number of samples that are done.

    Raises:
        SaveError: there is too little room.
    """
    again = None
    if isinstance(source, Subset):  # in which samples may repeat
        distinct, again = np.unique(source.indices, return_inverse=True)
        source = Subset(source.source, distinct)
    store = Store(folder / making.name())
    spans = _spans(source)
    fill(source, making, store, spans, part, parts, say, progress)
    codes = _in_store(source, store, spans, text, folder, first=part / parts)
    return codes if again is None else Subset(codes, again)


def _in_store(
    source: Source,
    store: Store,
    spans: Sequence[Span],
    text: TextTokenizer | None,
    folder: Path,
    *,
    first: float,
) -> CachedCodes:
    store.look()
    contents: list[str] = []
    damaged: dict[int, str] = {}
    for span in spans:
        seen = store.seen(span.name)
        if seen is None:
            raise DataError(f"the token cache in {store.folder} was emptied meanwhile")
        contents += seen.contents
        for within, reason in (seen.damaged | seen.unread).items():
            damaged[span.start + int(within)] = reason
    places = store.find(contents)
    lost = [index for index in np.flatnonzero(places[:, 0] < 0).tolist() if index not in damaged]
    if lost:
        raise DataError(f"the token cache in {store.folder} lost {len(lost)} pictures meanwhile")
    texts = None if text is None else cached_texts(source, text, folder / "text", first=first)
    return CachedCodes(source, store, places=places, damaged=damaged, texts=texts)


def _spans(source: Source) -> list[Span]:
    """The samples in groups that are remembered together, named for their names and marks."""
    spans = []
    for start in range(0, len(source), token_files.SHARD):
        digest = blake2b(digest_size=16)
        size = min(token_files.SHARD, len(source) - start)
        for index in range(start, start + size):
            try:
                mark = mark_at(source, index)
            except DataError:
                mark = "gone"
            digest.update(json.dumps([key_at(source, index), mark]).encode())
        spans.append(Span(name=digest.hexdigest(), start=start, size=size))
    return spans
