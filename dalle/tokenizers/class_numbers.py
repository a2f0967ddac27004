"""Prompts for decoders that draw classes: the number of a class, written out."""

from collections.abc import Iterable
from operator import index
from pathlib import Path
from typing import SupportsIndex

import numpy as np
from jaxtyping import Int

from dalle.errors import CheckpointError, InputError
from dalle.tokenizers.slots import StreamText
from dalle.tokenizers.text_file import read_file, write_file

KIND = "class_numbers"


class ClassNumbers:
    """One slot, with a number from 0 to vocab_size - 1, or vocab_size for no class.

    Args:
        vocab_size: how many classes there are: 1000 for ImageNet's.

    Raises:
        CheckpointError: there is none.
    """

    def __init__(self, vocab_size: int) -> None:
        if vocab_size < 1:
            raise CheckpointError(f"{vocab_size} classes; expected at least 1")
        self.vocab_size = vocab_size

    def encode(self, text: str) -> list[int]:
        """The class of a prompt such as "207".

        Raises:
            InputError: it is no number of a class.
        """
        word = text.strip()
        plain = word.isascii() and word.isdigit() and len(word) < 10
        if not plain or int(word) >= self.vocab_size:
            raise InputError(
                f"the prompt is {text[:40]!r}; this model draws classes, of which it takes the "
                f"number: 0 to {self.vocab_size - 1}"
            )
        return [int(word)]

    def decode(self, ids: Iterable[SupportsIndex]) -> str:
        """Numbers as text."""
        return " ".join(str(index(i)) for i in ids)

    def encode_stream(self, text: str, *, slots: int) -> StreamText:
        """The class in the one slot.

        Raises:
            InputError: it is no number of a class.
        """
        return StreamText(ids=np.array(self.encode(text)), num_tokens=1, num_cut=0)

    def empty_stream(self, slots: int) -> Int[np.ndarray, " slots"]:
        """No class."""
        return np.array([self.vocab_size])

    def save(self, path: Path) -> None:
        """Write the JSON file that `load` reads.

        Raises:
            SaveError: it cannot be written.
        """
        write_file(path, KIND, {"classes": self.vocab_size})

    @classmethod
    def load(cls, path: Path) -> "ClassNumbers":
        """Read a file written by `save`, strictly.

        Raises:
            CheckpointError: the file is missing, damaged, of another kind or of a newer format.
        """
        count = read_file(path, KIND, ("classes",))["classes"]
        if type(count) is not int:
            raise CheckpointError(f"{str(path)!r}: expected classes to be a number")
        return cls(count)
