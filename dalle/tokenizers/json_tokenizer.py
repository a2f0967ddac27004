"""A tokenizer of the `tokenizers` library, as its `tokenizer.json` describes it.

DALLE-pytorch took such files with `--hug --bpe_path`, and BERT's Chinese vocabulary with
`--chinese`; nothing is put around a text.

Source: lucidrains/DALLE-pytorch, dalle_pytorch/tokenizer.py.
"""

import json
import re
from collections.abc import Iterable
from operator import index
from pathlib import Path
from typing import SupportsIndex

import numpy as np
from jaxtyping import Int
from tokenizers import Tokenizer

from dalle.errors import CheckpointError, InputError
from dalle.tokenizers.slots import StreamText, empty_slots, fill_slots
from dalle.tokenizers.text_file import read_file, write_file

KIND = "tokenizers_json"
_SURROGATE = re.compile("[\ud800-\udfff]")


class JsonTokenizer:
    """Any tokenizer of the library, without what it would put before and after a text.

    Args:
        description: the contents of a `tokenizer.json`.

    Raises:
        CheckpointError: it describes no tokenizer.
    """

    def __init__(self, description: str) -> None:
        try:
            self._tokenizer = Tokenizer.from_str(description)
        except Exception as error:  # the library raises a bare Exception
            raise CheckpointError(f"this describes no tokenizer: {error}") from None
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()

    @property
    def vocab_size(self) -> int:
        """How many entries there are, those that were added with them."""
        return int(self._tokenizer.get_vocab_size())

    def encode(self, text: str) -> list[int]:
        """The ids of a text of any length; lone surrogates become U+FFFD."""
        prepared = _SURROGATE.sub("\ufffd", text)
        return list(self._tokenizer.encode(prepared, add_special_tokens=False).ids)

    def decode(self, ids: Iterable[SupportsIndex]) -> str:
        """The text of ids.

        Raises:
            InputError: an id is not in [0, vocab_size).
        """
        numbers = [index(i) for i in ids]
        for i in numbers:
            if not 0 <= i < self.vocab_size:
                raise InputError(f"token id {i}; expected one in [0, {self.vocab_size})")
        return str(self._tokenizer.decode(numbers, skip_special_tokens=True))

    def encode_stream(self, text: str, *, slots: int) -> StreamText:
        """The text in `slots` slots: start, at most slots - 1 tokens, pads."""
        return fill_slots(self.encode(text), slots, vocab_size=self.vocab_size)

    def empty_stream(self, slots: int) -> Int[np.ndarray, " slots"]:
        """Start and pads: no caption."""
        return empty_slots(slots, vocab_size=self.vocab_size)

    def save(self, path: Path) -> None:
        """Write the JSON file that `load` reads.

        Raises:
            SaveError: it cannot be written.
        """
        write_file(path, KIND, {"tokenizer": json.loads(self._tokenizer.to_str())})

    @classmethod
    def load(cls, path: Path) -> "JsonTokenizer":
        """Read a file written by `save`, strictly.

        Raises:
            CheckpointError: the file is missing, damaged, of another kind or of a newer format.
        """
        description = json.dumps(read_file(path, KIND, ("tokenizer",))["tokenizer"])
        try:
            return cls(description)
        except CheckpointError as error:
            raise CheckpointError(f"{path}: {error}") from None
