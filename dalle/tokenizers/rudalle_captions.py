"""The text tokenizer of ru-DALL·E: a YouTokenToMe model, between a start and an end.

Source: ai-forever/ru-dalle, rudalle/tokenizer.py and pipelines.py.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import SupportsIndex

import numpy as np
from jaxtyping import Int

from dalle.errors import CheckpointError
from dalle.tokenizers.slots import StreamText
from dalle.tokenizers.text_file import read_file, write_file
from dalle.tokenizers.yttm import YttmModel

KIND = "rudalle_captions"
PAD, UNKNOWN, BEGIN, END = range(4)


class RudalleCaptions:
    """Text is lower-cased; the slots hold the start, tokens, the end, and 0.

    Args:
        model: the vocabulary.

    Raises:
        CheckpointError: its special entries are not ru-DALL·E's.
    """

    def __init__(self, model: YttmModel) -> None:
        special = (model.pad, model.unknown, model.begin, model.end)
        if special != (PAD, UNKNOWN, BEGIN, END):
            raise CheckpointError(
                f"pad, unknown, begin and end are {special} in this vocabulary; ru-DALL·E has them "
                "at 0, 1, 2, 3"
            )
        self._model = model

    @classmethod
    def from_model(cls, data: bytes) -> "RudalleCaptions":
        """From the contents of the published `bpe.model`.

        Raises:
            CheckpointError: it holds something else.
        """
        try:
            return cls(YttmModel(data.decode("ascii")))
        except (UnicodeDecodeError, CheckpointError) as error:
            raise CheckpointError(f"bpe.model is no model of YouTokenToMe: {error}") from None

    @property
    def vocab_size(self) -> int:
        """How many entries there are."""
        return self._model.vocab_size

    def encode(self, text: str) -> list[int]:
        """The ids of a text of any length, without start and end."""
        return self._model.encode(text.lower())

    def decode(self, ids: Iterable[SupportsIndex]) -> str:
        """The text of ids, special ones left out.

        Raises:
            InputError: an id is not in [0, vocab_size).
        """
        return self._model.decode(ids)

    def encode_stream(self, text: str, *, slots: int) -> StreamText:
        """The text in `slots` slots; where it is too long for them, without the end."""
        tokens = self.encode(text)
        framed = [BEGIN, *tokens, END][:slots]
        ids = np.full(slots, PAD, dtype=np.int64)
        ids[: len(framed)] = framed
        kept = min(len(tokens), slots - 1)
        return StreamText(ids=ids, num_tokens=kept, num_cut=len(tokens) - kept)

    def empty_stream(self, slots: int) -> Int[np.ndarray, " slots"]:
        """Start and end: no caption."""
        return self.encode_stream("", slots=slots).ids

    def save(self, path: Path) -> None:
        """Write the JSON file that `load` reads.

        Raises:
            SaveError: it cannot be written.
        """
        write_file(path, KIND, {"model": self._model.text.split("\n")})

    @classmethod
    def load(cls, path: Path) -> "RudalleCaptions":
        """Read a file written by `save`, strictly.

        Raises:
            CheckpointError: the file is missing, damaged, of another kind or of a newer format.
        """
        lines = read_file(path, KIND, ("model",))["model"]
        if not isinstance(lines, list) or not all(isinstance(line, str) for line in lines):
            raise CheckpointError(f"{str(path)!r}: expected model to be a list of lines")
        try:
            return cls(YttmModel("\n".join(lines)))
        except CheckpointError as error:
            raise CheckpointError(f"{path}: {error}") from None
