"""Captions as token ids on the disk, made once for each text tokenizer.

    FOLDER/<tokenizer>/<captions>.npy         ids of the captions of some samples
                       <captions>.ends.npy    where those of each sample end

Both names are hashes of content. Between two captions of a sample stands an id that no text has.
"""

import json
from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path

import numpy as np

from dalle.data import token_files
from dalle.data.split import captions_at
from dalle.data.token_store import load_array, write_array
from dalle.protocols import Source
from dalle.tokenizers.text import TextTokenizer


class CachedTexts:
    """The ids of the captions of each sample, mapped into memory."""

    def __init__(self, files: Sequence[Path], *, between: int) -> None:
        self._files = tuple(files)
        self._between = between
        self._open: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def __getitem__(self, index: int) -> tuple[np.ndarray, ...]:
        number, within = divmod(index, token_files.SHARD)
        if number not in self._open:
            file = self._files[number]
            self._open[number] = (load_array(file), load_array(_ends(file)))
        ids, ends = self._open[number]
        start = int(ends[within - 1]) if within else 0
        found = np.asarray(ids[start : int(ends[within])]).astype(np.int64)
        if not len(found):
            return ()
        cuts = np.flatnonzero(found == self._between)
        return tuple(part[part != self._between] for part in np.split(found, cuts))


def cached_texts(
    source: Source, tokenizer: TextTokenizer, folder: Path, *, first: float = 0.0
) -> CachedTexts:
    """The captions of a source as ids, of which those that are not there yet are made.

    Args:
        folder: of the texts in the cache.
        first: where to begin, in [0, 1), so that processes that do this at once share the work.

    Raises:
        SaveError: they cannot be written.
    """
    place = folder / tokenizer.digest()
    spans = [
        range(start, min(start + token_files.SHARD, len(source)))
        for start in range(0, len(source), token_files.SHARD)
    ]
    files = [place / f"{_name(source, span)}.npy" for span in spans]
    for turn in range(len(files)):
        number = (turn + int(first * len(files))) % len(files)
        if not _ends(files[number]).exists():
            _make(source, spans[number], tokenizer, files[number])
    return CachedTexts(files, between=tokenizer.vocab_size)


def _name(source: Source, span: range) -> str:
    digest = blake2b(digest_size=16)
    for index in span:
        digest.update(json.dumps(captions_at(source, index)).encode())
    return digest.hexdigest()


def _make(source: Source, span: range, tokenizer: TextTokenizer, file: Path) -> None:
    between = tokenizer.vocab_size
    ids: list[int] = []
    ends: list[int] = []
    for index in span:
        for number, caption in enumerate(captions_at(source, index)):
            ids += [between] * (number > 0)
            ids += tokenizer.encode(caption)
        ends.append(len(ids))
    write_array(file, np.array(ids, dtype=np.uint16 if between < 1 << 16 else np.int32))
    write_array(_ends(file), np.array(ends, dtype=np.int64))


def _ends(file: Path) -> Path:
    return file.with_suffix(".ends.npy")
