"""A YouTokenToMe model as a text tokenizer, as DALLE-pytorch took it with `--bpe_path X.model`.

Source: lucidrains/DALLE-pytorch, dalle_pytorch/tokenizer.py.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import SupportsIndex

import numpy as np
from jaxtyping import Int

from dalle.errors import CheckpointError
from dalle.tokenizers.slots import StreamText, empty_slots, fill_slots
from dalle.tokenizers.text_file import read_file, write_file
from dalle.tokenizers.yttm import YttmModel

KIND = "yttm_captions"


class YttmCaptions:
    """Text as it is, upper case and all, in the slots of this project's stream.

    Args:
        model: the contents of the model's file.

    Raises:
        CheckpointError: it holds something else.
    """

    def __init__(self, model: str) -> None:
        self._model = YttmModel(model)

    @property
    def vocab_size(self) -> int:
        """How many entries there are."""
        return self._model.vocab_size

    def encode(self, text: str) -> list[int]:
        """The ids of a text of any length."""
        return self._model.encode(text)

    def decode(self, ids: Iterable[SupportsIndex]) -> str:
        """The text of ids, special ones left out.

        Raises:
            InputError: an id is not in [0, vocab_size).
        """
        return self._model.decode(ids)

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
        write_file(path, KIND, {"model": self._model.text.split("\n")})

    @classmethod
    def load(cls, path: Path) -> "YttmCaptions":
        """Read a file written by `save`, strictly.

        Raises:
            CheckpointError: the file is missing, damaged, of another kind or of a newer format.
        """
        lines = read_file(path, KIND, ("model",))["model"]
        if not isinstance(lines, list) or not all(isinstance(line, str) for line in lines):
            raise CheckpointError(f"{str(path)!r}: expected model to be a list of lines")
        try:
            return cls("\n".join(lines))
        except CheckpointError as error:
            raise CheckpointError(f"{path}: {error}") from None
