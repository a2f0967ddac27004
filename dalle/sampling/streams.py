"""From prompts to what a decoder reads of them: ids of its text slots, or features."""

import warnings
from dataclasses import dataclass

import numpy as np
from jaxtyping import Shaped

from dalle.errors import InputError
from dalle.sampling.joint_prompts import JointPrompts, VectorPrompt
from dalle.sampling.prompts import printable
from dalle.tokenizers.kinds import PromptTokenizer


class PromptCutWarning(UserWarning):
    """A prompt has more tokens than the model has room for."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PromptStream:
    """A prompt as the decoder reads it."""

    prompt: str
    ids: Shaped[np.ndarray, "slots *width"]
    """Of its text slots; or the features of its prefix slots."""
    num_cut: int
    """Tokens at its end that had no slot."""
    vector: tuple[float, ...] | None = None
    """What was given in place of a prompt."""


def is_blank(prompt: str) -> bool:
    """Whether a prompt asks for pictures without a condition."""
    return not prompt.strip()


def prompt_stream(
    prompt: str | VectorPrompt, tokenizer: PromptTokenizer, *, slots: int
) -> PromptStream:
    """Start, tokens, pads; with a `PromptCutWarning` where there are more tokens than slots.

    Raises:
        InputError: a vector came to a model that reads texts, or has another size than its own.
    """
    if isinstance(prompt, VectorPrompt):
        size = tokenizer.vocab_size if isinstance(tokenizer, JointPrompts) else 0
        if len(prompt.vector) != size:
            raise InputError(
                f"a vector of {len(prompt.vector)} numbers came to a model that reads "
                f"{f'vectors of {size}' if size else 'texts'}; take the one it was made for, "
                "trained with --condition clip"
            )
        ids = np.array(prompt.vector, dtype=np.float32)
        return PromptStream(prompt=prompt.said, ids=ids, num_cut=0, vector=prompt.vector)
    if is_blank(prompt):
        return PromptStream(prompt=prompt, ids=tokenizer.empty_stream(slots), num_cut=0)
    stream = tokenizer.encode_stream(prompt, slots=slots)
    if stream.num_cut:
        warnings.warn(
            f"the model reads {stream.num_tokens} tokens of a prompt; {stream.num_cut} at the end "
            f"were left out of {printable(prompt)!r}",
            PromptCutWarning,
            stacklevel=2,
        )
    return PromptStream(prompt=prompt, ids=stream.ids, num_cut=stream.num_cut)
