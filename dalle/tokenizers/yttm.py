"""Models of YouTokenToMe: byte-pair encoding over characters, each word with a mark before it.

The file is text. A line with two counts; for each character a line with its code point and its id;
for each merge, the earliest first, the ids of left, right and joined; last the ids of unknown, pad,
begin and end, -1 for those there are not.

Source: VKCOM/YouTokenToMe (MIT), youtokentome/cpp/utils.cpp and bpe.cpp.
"""

import re
from collections.abc import Iterable, Iterator
from itertools import groupby
from operator import index
from random import Random
from typing import SupportsIndex

from dalle.errors import CheckpointError, InputError
from dalle.tokenizers.bpe import merge

MARK = "\u2581"
"""Stands before the first letter of each word; in a text it counts as a space."""
LONGEST_ENTRY = 1000
"""Characters of one entry. Entries are given by numbers of earlier ones: without a limit a file of
a kilobyte could double one a hundred times."""
_SPACES = re.compile(f"[ \t\n\v\f\r{MARK}]+")


class YttmModel:
    """A vocabulary of characters and merges.

    Args:
        text: the contents of a model file.

    Raises:
        CheckpointError: it is cut off, or its parts do not fit together.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        numbers = _numbers(text)
        num_characters, num_merges = next(numbers), next(numbers)
        self._ids: dict[str, int] = {}
        for _ in range(num_characters):
            code, number = next(numbers), next(numbers)
            if not 0 <= code < 0x110000 or 0xD800 <= code < 0xE000:
                raise CheckpointError(f"{code} is no character's code point")
            self._ids[chr(code)] = number
        entries = {number: character for character, number in self._ids.items()}
        self._merges: dict[tuple[int, int], tuple[int, int]] = {}
        for rank in range(num_merges):
            left, right, joined = next(numbers), next(numbers), next(numbers)
            if left not in entries or right not in entries or joined in entries:
                raise CheckpointError(f"merge {rank} joins {left} and {right} to {joined}")
            entries[joined] = entries[left] + entries[right]
            if len(entries[joined]) > LONGEST_ENTRY:
                raise CheckpointError(
                    f"merge {rank} makes an entry of {len(entries[joined])} letters"
                )
            self._merges[left, right] = (rank, joined)
        self.unknown, self.pad, self.begin, self.end = (next(numbers) for _ in range(4))
        special = {self.unknown, self.pad, self.begin, self.end} - {-1}
        self._entries = entries
        self.vocab_size = len(entries) + len(special)
        """Characters, merges and special entries."""
        if MARK not in self._ids or {*entries, *special} != {*range(self.vocab_size)}:
            raise CheckpointError(
                f"the ids are not 0 to {self.vocab_size - 1}, each once, with one for the mark "
                "before a word"
            )

    def encode(self, text: str) -> list[int]:
        """The ids of a text; a run of letters that are no entries is one unknown."""
        return [i for word in _SPACES.split(text) if word for i in self._encode_word(word)]

    def _encode_word(self, word: str) -> list[int]:
        symbols = [self._ids[MARK]]
        for known, run in groupby(word, key=self._ids.__contains__):
            symbols += [self._ids[letter] for letter in run] if known else [self.unknown]
        return merge(symbols, self._merges, dropout=0.0, random=Random(0))

    def decode(self, ids: Iterable[SupportsIndex]) -> str:
        """The text of ids, special ones left out.

        Raises:
            InputError: an id is not in [0, vocab_size).
        """
        pieces = []
        for i in map(index, ids):
            if not 0 <= i < self.vocab_size:
                raise InputError(f"token id {i}; expected one in [0, {self.vocab_size})")
            pieces.append(self._entries.get(i, "").replace(MARK, " "))
        return "".join(pieces).removeprefix(" ")


def _numbers(text: str) -> Iterator[int]:
    for word in text.split():
        try:
            yield int(word)
        except ValueError:
            raise CheckpointError(f"{word[:40]!r} stands where a number should") from None
    raise CheckpointError("the file ends too early")
