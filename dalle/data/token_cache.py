"""Codes of pictures on the disk: each picture is tokenized once, for all runs that want the same.

    CACHE/<tokenizer and transform>/<samples>.npy     codes, samples x views x rows x cols
                                    <samples>.json    samples that could not be read, and why

Both names are hashes of content, so that nothing is ever stale: another tokenizer or transform
leads to another folder, and samples that were added or changed to other files.
"""

import json
from collections.abc import Callable, Sequence
from hashlib import blake2b
from pathlib import Path

import numpy as np

from dalle.data import token_files
from dalle.data.split import Subset, captions_at, key_at, mark_at
from dalle.data.token_files import Making, fill
from dalle.errors import DataError
from dalle.protocols import EncodedSample, Source


class CachedCodes:
    """A source of codes that lie on the disk, mapped into memory, with the captions of another."""

    def __init__(self, source: Source, files: Sequence[Path]) -> None:
        self.source = source
        self._files = tuple(files)
        self._open: dict[int, tuple[np.ndarray, dict[str, str]]] = {}

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int, /) -> EncodedSample:
        if not 0 <= index < len(self):
            raise IndexError(index)
        number, within = divmod(index, token_files.SHARD)
        if number not in self._open:
            file = self._files[number]
            try:
                codes = np.load(file, mmap_mode="r", allow_pickle=False)
                damaged = json.loads(file.with_suffix(".json").read_text("utf-8"))
            except (OSError, ValueError) as error:
                raise DataError(f"{file} of the token cache cannot be read: {error}") from None
            self._open[number] = (codes, damaged)
        codes, damaged = self._open[number]
        if str(within) in damaged:
            raise DataError(damaged[str(within)])
        return EncodedSample(
            key=self.key(index), codes=np.asarray(codes[within]), captions=self.captions(index)
        )

    def key(self, index: int) -> str:
        """The name of a sample."""
        return key_at(self.source, index)

    def captions(self, index: int) -> tuple[str, ...]:
        """The captions of a sample."""
        return captions_at(self.source, index)


def cached_codes(
    source: Source,
    encoding: Making,
    folder: Path,
    *,
    part: int = 0,
    parts: int = 1,
    say: Callable[[str], None] = lambda _: None,
    progress: Callable[[int], object] = lambda _: None,
) -> Source:
    """The source as codes, of which those that are not in the cache yet are made.

    Several processes may do this at once: each makes its share of the files, and what a process
    that is gone leaves is made by the others. A file is there whole or not at all.

    Args:
        source: one that `is_marked`.
        folder: the cache.
        part, parts: which share is this process's.
        say: told how much room the codes take, where some are missing.
        progress: called with the number of samples that are done.

    Raises:
        SaveError: there is too little room.
    """
    place = None
    if isinstance(source, Subset):  # in which samples may repeat
        distinct, place = np.unique(source.indices, return_inverse=True)
        source = Subset(source.source, distinct)
    files = _files(source, encoding, folder)
    fill(source, encoding, files, part, parts, say, progress)
    codes = CachedCodes(source, files)
    return codes if place is None else Subset(codes, place)


def _files(source: Source, encoding: Making, folder: Path) -> list[Path]:
    """The files that the source's samples are in, one for each `token_files.SHARD` of them."""
    place = folder / encoding.name()
    files = []
    for start in range(0, len(source), token_files.SHARD):
        digest = blake2b(digest_size=16)
        for index in range(start, min(start + token_files.SHARD, len(source))):
            try:
                mark = mark_at(source, index)
            except DataError:
                mark = "gone"
            digest.update(json.dumps([key_at(source, index), mark]).encode())
        files.append(place / f"{digest.hexdigest()}.npy")
    return files
