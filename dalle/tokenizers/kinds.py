"""Text tokenizers by the kind that their file names."""

import importlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol, SupportsIndex

import numpy as np
from jaxtyping import Shaped

from dalle.errors import CheckpointError
from dalle.tokenizers.slots import StreamText
from dalle.tokenizers.text_file import parse

TEXT_TOKENIZERS = {
    "text_tokenizer": ("dalle.tokenizers.text", "TextTokenizer"),
    "clip_bpe": ("dalle.tokenizers.clip_bpe", "ClipBpe"),
    "tokenizers_json": ("dalle.tokenizers.json_tokenizer", "JsonTokenizer"),
    "yttm_captions": ("dalle.tokenizers.yttm_captions", "YttmCaptions"),
    "rudalle_captions": ("dalle.tokenizers.rudalle_captions", "RudalleCaptions"),
    "char_bpe": ("dalle.tokenizers.char_bpe", "CharBpe"),
    "t5_features": ("dalle.tokenizers.t5_features", "T5Features"),
    "class_numbers": ("dalle.tokenizers.class_numbers", "ClassNumbers"),
}
"""Field `kind` of the file -> module and class."""


class PromptTokenizer(Protocol):
    """What generating needs of a text tokenizer; see `tokenizers.text` for each call."""

    @property
    def vocab_size(self) -> int:
        """How many ids there are; of a tokenizer that gives features, the numbers of a slot."""
        ...

    def encode(self, text: str) -> list[int]: ...

    def decode(self, ids: Iterable[SupportsIndex]) -> str: ...

    def encode_stream(self, text: str, *, slots: int) -> StreamText: ...

    def empty_stream(self, slots: int) -> Shaped[np.ndarray, "slots *width"]: ...

    def save(self, path: Path) -> None: ...


def load_text_tokenizer(path: Path) -> PromptTokenizer:
    """The tokenizer of any kind that a file holds.

    Raises:
        CheckpointError: it is missing, damaged or of an unknown kind.
    """
    kind = parse(path).get("kind")
    if not isinstance(kind, str) or kind not in TEXT_TOKENIZERS:
        known = ", ".join(map(repr, TEXT_TOKENIZERS))
        raise CheckpointError(
            f"{str(path)!r} is no text tokenizer of this project: its kind is "
            f"{json.dumps(kind)[:80]}; this version knows {known}"
        )
    module, name = TEXT_TOKENIZERS[kind]
    tokenizer: Any = getattr(importlib.import_module(module), name)
    loaded: PromptTokenizer = tokenizer.load(path)
    return loaded
