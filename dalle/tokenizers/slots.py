"""Tokens in the text slots of the stream, for tokenizers of any kind: start, tokens, pads."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from dalle.tokenizers.text import StreamText


def empty_slots(slots: int, *, vocab_size: int) -> Int[np.ndarray, " slots"]:
    """No caption: the start `vocab_size`, and in slot j the pad `vocab_size + j`."""
    return np.arange(vocab_size, vocab_size + slots, dtype=np.int64)


def fill_slots(tokens: Sequence[int], slots: int, *, vocab_size: int) -> StreamText:
    """Tokens of a caption in the slots, of which the start takes the first."""
    kept = tokens[: slots - 1]
    ids = empty_slots(slots, vocab_size=vocab_size)
    ids[1 : 1 + len(kept)] = kept
    return StreamText(ids=ids, num_tokens=len(kept), num_cut=len(tokens) - len(kept))
