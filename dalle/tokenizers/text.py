"""Captions to tokens and back: byte-level BPE with a start token and a pad for each slot."""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from hashlib import blake2b
from operator import index
from pathlib import Path
from random import Random
from typing import SupportsIndex

import numpy as np
from jaxtyping import Int
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from dalle.errors import CheckpointError, ConfigError, InputError
from dalle.tokenizers.bpe import merge
from dalle.tokenizers.slots import StreamText, empty_slots, fill_slots
from dalle.tokenizers.text_file import read_tokenizer, write_tokenizer

BYTES = sorted(pre_tokenizers.ByteLevel.alphabet())
"""The 256 letters that stand for bytes, in the order of their ids."""

MAX_LEARNED = 8192
"""Characters of one caption that merges are learned from: more would have no slot, and one word of
a million letters would take the time of a million captions."""

_SURROGATE = re.compile("[\ud800-\udfff]")


class TextTokenizer:
    """Byte-level BPE: every string that UTF-8 can carry comes back as it was, or lower-cased.

    Ids 0..255 are single bytes, each further id is one merge. No normalisation besides the lower
    case, and no special tokens: a caption that spells one stays text. In the stream, slot 0
    holds the start token `vocab_size`, and slot j without a token its own pad `vocab_size + j`.

    Args:
        merges: the pairs of entries to join, the earliest first, in the letters of `BYTES`.
        lowercase: whether text is lower-cased first, by `str.lower`.

    Raises:
        ConfigError: a merge joins what is not an entry.

    Source: arXiv 2102.12092, sections 2.2 and B.2.
    """

    def __init__(self, merges: Sequence[tuple[str, str]], *, lowercase: bool = True) -> None:
        vocab = {letter: i for i, letter in enumerate(BYTES)}
        self._merges: dict[tuple[int, int], tuple[int, int]] = {}
        for rank, (left, right) in enumerate(merges):
            if left not in vocab or right not in vocab:
                raise ConfigError(
                    f"merge {rank} joins {left[:40]!r} and {right[:40]!r}; expected two entries "
                    "that are single bytes or made by earlier merges"
                )
            pair = (vocab[left], vocab[right])
            if pair in self._merges:
                raise ConfigError(f"merge {rank} repeats {left[:40]!r} and {right[:40]!r}")
            self._merges[pair] = (rank, vocab.setdefault(left + right, len(vocab)))
        self._bytes = vocab
        self._pairs = tuple((left, right) for left, right in merges)
        self._lowercase = lowercase
        self._tokenizer = _tokenizer(models.BPE(vocab=vocab, merges=list(self._pairs)))

    @classmethod
    def train(
        cls, captions: Iterable[str], *, vocab_size: int = 16384, lowercase: bool = True
    ) -> "TextTokenizer":
        """Learn the merges; the same captions give the same tokenizer.

        Args:
            captions: the texts, read once.
            vocab_size: the most entries, at least 256. There are fewer when no pair that was
                never joined occurs twice.
            lowercase: whether text is lower-cased first, now and when it is encoded.
        """
        if vocab_size < len(BYTES):
            raise ConfigError(
                f"vocab_size is {vocab_size}; expected at least {len(BYTES)}, one for each byte"
            )
        learner = _tokenizer(models.BPE())
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size, min_frequency=2, initial_alphabet=BYTES, show_progress=False
        )
        texts = (_prepare(caption[:MAX_LEARNED], lowercase=lowercase)[0] for caption in captions)
        learner.train_from_iterator(texts, trainer=trainer)
        merges = json.loads(learner.to_str())["model"]["merges"]
        return cls([(left, right) for left, right in merges], lowercase=lowercase)

    @property
    def vocab_size(self) -> int:
        """How many entries there are: 256 bytes and the merges."""
        return len(self._bytes)

    @property
    def lowercase(self) -> bool:
        """Whether text is lower-cased before it is encoded."""
        return self._lowercase

    def encode(self, text: str, *, dropout: float = 0.0, random: Random | None = None) -> list[int]:
        """The ids, in [0, vocab_size), of a text of any length.

        Args:
            text: any string; lone surrogates become U+FFFD.
            dropout: probability in [0, 1] of passing over a merge; 0.1 is the published one.
            random: the draws of the dropout; needed above 0.
        """
        return self._encode(_prepare(text, lowercase=self._lowercase)[0], dropout, random)

    def _encode(self, text: str, dropout: float, random: Random | None) -> list[int]:
        if dropout == 0:
            return self._tokenizer.encode(text).ids
        if random is None or not 0 < dropout <= 1:
            raise ConfigError(
                f"BPE dropout is {dropout} with random {random}; expected a probability in [0, 1] "
                "and a random.Random"
            )
        letters, merges = self._bytes, self._merges
        ids: list[int] = []
        for word, _ in self._tokenizer.pre_tokenizer.pre_tokenize_str(text):
            symbols = [letters[letter] for letter in word]
            ids += merge(symbols, merges, dropout=dropout, random=random)
        return ids

    def decode(self, ids: Iterable[SupportsIndex]) -> str:
        """The text of plain ids; bytes that are not UTF-8 become U+FFFD.

        Raises:
            InputError: an id is not in [0, vocab_size).
        """
        numbers = [index(i) for i in ids]
        for i in numbers:
            if not 0 <= i < self.vocab_size:
                raise InputError(f"token id {i}; expected one in [0, {self.vocab_size})")
        return self._tokenizer.decode(numbers, skip_special_tokens=False)

    def encode_stream(
        self, text: str, *, slots: int, dropout: float = 0.0, random: Random | None = None
    ) -> StreamText:
        """The text in `slots` slots: start, at most slots - 1 tokens, pads.

        Args:
            text: any string; an empty one gives start and pads, which means "no caption".
            slots: how many there are, at least 1.
            dropout, random: as in `encode`.
        """
        prepared, num_replaced = _prepare(text, lowercase=self._lowercase)
        tokens = self._encode(prepared, dropout, random)
        return self.stream_of(tokens, slots=slots, num_replaced=num_replaced)

    def stream_of(
        self,
        tokens: Sequence[int] | Int[np.ndarray, " n"],
        *,
        slots: int,
        num_replaced: int = 0,
    ) -> StreamText:
        """What `encode_stream` makes of a text that `encode` turned into these ids."""
        filled = fill_slots(tokens, slots, vocab_size=self.vocab_size)
        return replace(filled, num_replaced=num_replaced)

    def empty_stream(self, slots: int) -> Int[np.ndarray, " slots"]:
        """Start and pads: no caption."""
        return empty_slots(slots, vocab_size=self.vocab_size)

    def decode_stream(self, ids: Iterable[SupportsIndex]) -> str:
        """The text of a stream: what stands between the start and the first pad.

        Raises:
            InputError: the first id is not the start token.
        """
        start, *slots = [index(i) for i in ids]
        if start != self.vocab_size:
            raise InputError(f"a stream of text begins with {start}; expected {self.vocab_size}")
        end = next((j for j, i in enumerate(slots) if i >= self.vocab_size), len(slots))
        return self.decode(slots[:end])

    def digest(self) -> str:
        """What changes when the ids of any text do."""
        said = json.dumps([self._pairs, self._lowercase]).encode()
        return blake2b(said, digest_size=16).hexdigest()

    def save(self, path: Path) -> None:
        """Write the JSON file that `load` reads.

        Raises:
            SaveError: it cannot be written.
        """
        write_tokenizer(path, self._pairs, lowercase=self._lowercase)

    @classmethod
    def load(cls, path: Path) -> "TextTokenizer":
        """Read a file written by `save`, strictly.

        Raises:
            CheckpointError: the file is missing, too large, cut off, of another kind, of a newer
                format, or its merges do not fit together.
        """
        merges, lowercase = read_tokenizer(path)
        try:
            return cls(merges, lowercase=lowercase)
        except ConfigError as error:
            raise CheckpointError(f"{path}: {error}") from None


def _tokenizer(model: models.BPE) -> Tokenizer:
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _prepare(text: str, *, lowercase: bool) -> tuple[str, int]:
    text, num_replaced = _SURROGATE.subn("\ufffd", text)
    return (text.lower() if lowercase else text), num_replaced
