"""The text tokenizer of minDALL-E: byte-pair encoding over characters, with an end for each word.

It is the `CharBPETokenizer` of the `tokenizers` library, not a byte-level one: letters it does not
know become [UNK].

Source: kakaobrain/minDALL-E, dalle/models/tokenizer.py.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from operator import index
from pathlib import Path
from typing import Any, SupportsIndex

import numpy as np
from jaxtyping import Int
from tokenizers import CharBPETokenizer

from dalle.errors import CheckpointError, InputError
from dalle.tokenizers.slots import StreamText
from dalle.tokenizers.text_file import read_file, read_pair, write_file

KIND = "char_bpe"
UNKNOWN, PAD = "[UNK]", "[PAD]"


class CharBpe:
    """Text is lower-cased; the slots hold tokens, and one and the same pad after them.

    Args:
        vocab: the id of each entry, those from 0 on, each once.
        merges: the pairs to join, the earliest first.

    Raises:
        CheckpointError: they do not fit together, or have no entry for a pad.
    """

    def __init__(self, vocab: Mapping[str, int], merges: Sequence[tuple[str, str]]) -> None:
        if sorted(vocab.values()) != [*range(len(vocab))]:
            raise CheckpointError(f"the ids of {len(vocab)} entries are not 0 to {len(vocab) - 1}")
        lacking = next((entry for entry in (UNKNOWN, PAD) if entry not in vocab), None)
        if lacking is not None:
            raise CheckpointError(f"the vocabulary has no entry {lacking}")
        self._vocab, self._merges = dict(vocab), tuple(merges)
        try:
            self._tokenizer: Any = CharBPETokenizer(
                self._vocab, list(self._merges), unk_token=UNKNOWN, lowercase=True
            )
        except Exception as error:  # the library raises a bare Exception
            raise CheckpointError(f"vocabulary and merges do not fit: {error}") from None
        self._tokenizer.add_special_tokens([PAD])
        self.pad: int = vocab[PAD]
        """The id in slots without a token."""

    @classmethod
    def from_files(cls, vocab: bytes, merges: bytes) -> "CharBpe":
        """From the contents of the published `bpe-16k-vocab.json` and `bpe-16k-merges.txt`.

        Raises:
            CheckpointError: they hold something else.
        """
        try:
            entries = json.loads(vocab)
            lines = merges.decode("utf-8").splitlines()
        except (ValueError, RecursionError) as error:
            raise CheckpointError(f"these are no vocabulary and merges: {error}") from None
        pairs = [tuple(line.split(" ")) for line in lines if not line.startswith("#version")]
        return cls(_checked_vocab(entries), [_checked_pair(pair) for pair in pairs])

    @property
    def vocab_size(self) -> int:
        """How many entries there are."""
        return len(self._vocab)

    def encode(self, text: str) -> list[int]:
        """The ids of a text of any length."""
        return list(self._tokenizer.encode(text).ids)

    def decode(self, ids: Iterable[SupportsIndex]) -> str:
        """The text of ids, pads and unknown ones left out.

        Raises:
            InputError: an id is not in [0, vocab_size).
        """
        numbers = [index(i) for i in ids]
        for i in numbers:
            if not 0 <= i < self.vocab_size:
                raise InputError(f"token id {i}; expected one in [0, {self.vocab_size})")
        return str(self._tokenizer.decode(numbers))

    def encode_stream(self, text: str, *, slots: int) -> StreamText:
        """The text in `slots` slots: at most so many tokens, then pads."""
        tokens = self.encode(text)
        kept = tokens[:slots]
        ids = self.empty_stream(slots)
        ids[: len(kept)] = kept
        return StreamText(ids=ids, num_tokens=len(kept), num_cut=len(tokens) - len(kept))

    def empty_stream(self, slots: int) -> Int[np.ndarray, " slots"]:
        """Nothing but pads: no caption."""
        return np.full(slots, self.pad, dtype=np.int64)

    def save(self, path: Path) -> None:
        """Write the JSON file that `load` reads.

        Raises:
            SaveError: it cannot be written.
        """
        merges = [f"{left} {right}" for left, right in self._merges]
        write_file(path, KIND, {"vocab": self._vocab, "merges": merges})

    @classmethod
    def load(cls, path: Path) -> "CharBpe":
        """Read a file written by `save`, strictly.

        Raises:
            CheckpointError: the file is missing, damaged, of another kind or of a newer format.
        """
        data = read_file(path, KIND, ("vocab", "merges"))
        if not isinstance(data["merges"], list):
            raise CheckpointError(f"{str(path)!r}: expected merges to be a list")
        pairs = [read_pair(merge, path) for merge in data["merges"]]
        try:
            return cls(_checked_vocab(data["vocab"]), pairs)
        except CheckpointError as error:
            raise CheckpointError(f"{path}: {error}") from None


def _checked_vocab(entries: Any) -> dict[str, int]:
    if not isinstance(entries, dict) or not all(type(i) is int for i in entries.values()):
        raise CheckpointError("the vocabulary is no table of entries and their ids")
    return entries


def _checked_pair(pair: tuple[str, ...]) -> tuple[str, str]:
    if len(pair) != 2:
        raise CheckpointError(f"a merge is {pair}; expected two entries with a space between")
    return pair[0], pair[1]
