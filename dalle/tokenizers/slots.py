"""Captions in the text slots of the stream, for tokenizers of any kind: start, tokens, pads."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Int, Shaped

from dalle.errors import ConfigError, InputError

LongCaptions = Literal["cut", "leave_out", "refuse"]
"""What becomes of a caption with more tokens than there are slots."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StreamText:
    """A caption in the slots of the stream."""

    ids: Shaped[np.ndarray, "slots *width"]
    """Start, tokens, pads; int64. Where a decoder reads features, those of each slot; float32."""
    num_tokens: int
    """How many of the slots hold a token of the caption."""
    num_cut: int
    """How many tokens had no slot."""
    num_replaced: int = 0
    """How many lone surrogates became U+FFFD."""


def empty_slots(slots: int, *, vocab_size: int) -> Int[np.ndarray, " slots"]:
    """No caption: the start `vocab_size`, and in slot j the pad `vocab_size + j`.

    Raises:
        ConfigError: there is no slot for the start.
    """
    if slots < 1:
        raise ConfigError(f"{slots} text slots; expected at least 1, for the start token")
    return np.arange(vocab_size, vocab_size + slots, dtype=np.int64)


def fill_slots(
    tokens: Sequence[int] | Int[np.ndarray, " n"], slots: int, *, vocab_size: int
) -> StreamText:
    """Tokens of a caption in the slots, of which the start takes the first."""
    kept = tokens[: slots - 1]
    ids = empty_slots(slots, vocab_size=vocab_size)
    ids[1 : 1 + len(kept)] = kept
    return StreamText(ids=ids, num_tokens=len(kept), num_cut=len(tokens) - len(kept))


def apply_long_captions(stream: StreamText, policy: LongCaptions, *, key: str) -> StreamText | None:
    """The caption as it is trained on, or None where the sample is left out.

    Args:
        stream: what `encode_stream` gave.
        policy: "cut" keeps what has a slot, "leave_out" gives None, "refuse" raises.
        key: the sample, for the message.

    Raises:
        InputError: the policy is "refuse" and tokens had no slot. It is no DataError: that one
            would have the sample replaced by another.
    """
    if stream.num_cut == 0 or policy == "cut":
        return stream
    if policy == "leave_out":
        return None
    raise InputError(
        f"the caption of {key!r} has {stream.num_tokens + stream.num_cut} tokens; there is room for"
        f" {len(stream.ids) - 1}. Shorten it, or choose to cut long captions or leave them out"
    )
