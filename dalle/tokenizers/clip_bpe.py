"""The byte-pair tokenizer of CLIP, which most DALLE-pytorch models were trained with.

Text is tidied and lower-cased, split into words, and each word's bytes are joined by 48,894
published merges. They are not part of this project: `from_merges` takes them from the file
`bpe_simple_vocab_16e6.txt` of openai/CLIP or `merges.txt` of a CLIP on the hub, which say the same.

Source: openai/CLIP, clip/simple_tokenizer.py; lucidrains/DALLE-pytorch, dalle_pytorch/tokenizer.py.
"""

import html
import re
import unicodedata
from collections.abc import Iterable, Sequence
from operator import index
from pathlib import Path
from typing import SupportsIndex

import numpy as np
from jaxtyping import Int
from tokenizers import Regex, Tokenizer, models, pre_tokenizers

from dalle.errors import CheckpointError, InputError
from dalle.tokenizers.slots import StreamText, empty_slots, fill_slots
from dalle.tokenizers.text_file import read_file, read_pair, write_file

KIND = "clip_bpe"
NUM_MERGES = 48894
VOCAB_SIZE = 49408
END = "</w>"
"""After the last letter of a word."""
SPECIAL = ("<|startoftext|>", "<|endoftext|>")
"""The last two entries; a caption that spells one stays text."""

_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+"
_SURROGATE = re.compile("[\ud800-\udfff]")
_PLAIN = {
    **dict.fromkeys(map(ord, "\u02bc\u2018\u2019\u201a\u201b"), "'"),
    **dict.fromkeys(map(ord, "\u201c\u201d\u201e\u201f"), '"'),
    **{c: unicodedata.normalize("NFKC", chr(c)) for c in (*range(0xFB00, 0xFB07), 0x3000)},
    **{c: unicodedata.normalize("NFKC", chr(c)) for c in range(0xFF01, 0xFFEF)},
}
"""Curly quotes, ligatures, and letters of another width, as plain ones."""


class ClipBpe:
    """CLIP's tokenizer: 49,408 entries, of which DALLE-pytorch takes entry 0 ("!") for no token.

    Texts that were decoded from a wrong encoding are not repaired, as the `ftfy` package would.

    Args:
        merges: the pairs to join, the earliest first.

    Raises:
        CheckpointError: they are not as many as CLIP's, or do not fit together.
    """

    def __init__(self, merges: Sequence[tuple[str, str]]) -> None:
        if len(merges) != NUM_MERGES:
            raise CheckpointError(f"{len(merges)} merges came; those of CLIP are {NUM_MERGES}")
        letters = _letters()
        entries = [*letters.values(), *(letter + END for letter in letters.values())]
        entries += [left + right for left, right in merges]
        entries += SPECIAL
        vocab = {entry: number for number, entry in enumerate(entries)}
        unknown = next((pair for pair in merges if not {*pair} <= vocab.keys()), None)
        if unknown is not None or len(vocab) != VOCAB_SIZE:
            raise CheckpointError(
                f"the merges join {unknown or 'the same pair twice'}: they are not those of CLIP"
            )
        self._merges = tuple(merges)
        self._entries = entries
        self._bytes = {letter: byte for byte, letter in letters.items()}
        self._tokenizer = Tokenizer(
            models.BPE(vocab=vocab, merges=list(merges), end_of_word_suffix=END)
        )
        self._tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(_WORDS), behavior="removed", invert=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )

    @classmethod
    def from_merges(cls, text: str) -> "ClipBpe":
        """From the contents of `bpe_simple_vocab_16e6.txt` or `merges.txt`.

        Raises:
            CheckpointError: it holds something else.
        """
        lines = text.splitlines()
        if not lines or "#version" not in lines[0]:
            raise CheckpointError("a file of merges begins with a line that says #version")
        pairs = [line.split(" ") for line in lines[1 : 1 + NUM_MERGES]]
        odd = next((pair for pair in pairs if len(pair) != 2), None)
        if odd is not None:
            raise CheckpointError(f"a merge is {odd}; expected two entries with a space between")
        return cls([(left, right) for left, right in pairs])

    @property
    def vocab_size(self) -> int:
        """How many entries there are."""
        return VOCAB_SIZE

    def encode(self, text: str) -> list[int]:
        """The ids of a text of any length; lone surrogates become U+FFFD."""
        return list(self._tokenizer.encode(tidied(text)).ids)

    def decode(self, ids: Iterable[SupportsIndex]) -> str:
        """The text of ids, start and end left out; bytes that are not UTF-8 become U+FFFD.

        Raises:
            InputError: an id is not in [0, 49408).
        """
        data = bytearray()
        for i in map(index, ids):
            if not 0 <= i < VOCAB_SIZE:
                raise InputError(f"token id {i}; expected one in [0, {VOCAB_SIZE})")
            entry = self._entries[i]
            if entry not in SPECIAL:
                ends = len(entry) > len(END) and entry.endswith(END)
                letters = entry.removesuffix(END) if ends else entry
                data += bytes(self._bytes[letter] for letter in letters) + b" " * ends
        return data.decode("utf-8", errors="replace").strip()

    def encode_stream(self, text: str, *, slots: int) -> StreamText:
        """The text in `slots` slots: start, at most slots - 1 tokens, pads."""
        return fill_slots(self.encode(text), slots, vocab_size=VOCAB_SIZE)

    def empty_stream(self, slots: int) -> Int[np.ndarray, " slots"]:
        """Start and pads: no caption."""
        return empty_slots(slots, vocab_size=VOCAB_SIZE)

    def save(self, path: Path) -> None:
        """Write the JSON file that `load` reads.

        Raises:
            SaveError: it cannot be written.
        """
        write_file(path, KIND, {"merges": [f"{left} {right}" for left, right in self._merges]})

    @classmethod
    def load(cls, path: Path) -> "ClipBpe":
        """Read a file written by `save`, strictly.

        Raises:
            CheckpointError: the file is missing, damaged, of another kind or of a newer format.
        """
        merges = read_file(path, KIND, ("merges",))["merges"]
        if not isinstance(merges, list):
            raise CheckpointError(f"{str(path)!r}: expected merges to be a list")
        pairs = [read_pair(merge, path) for merge in merges]
        try:
            return cls(pairs)
        except CheckpointError as error:
            raise CheckpointError(f"{path}: {error}") from None


def tidied(text: str) -> str:
    """Lower-cased, HTML resolved, plain quotes and widths, one space between words."""
    text = html.unescape(html.unescape(_SURROGATE.sub("\ufffd", text)))
    text = unicodedata.normalize("NFC", text.translate(_PLAIN))
    kept = (c for c in text if c.isspace() or unicodedata.category(c) != "Cc")
    return " ".join("".join(kept).split()).lower()


def _letters() -> dict[int, str]:
    """The letter that stands for each byte, in the order of the entries: printable ones stand for
    themselves and come first."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    letters = {byte: chr(byte) for byte in printable}
    return {**letters, **{byte: chr(256 + n) for n, byte in enumerate(others)}}
