"""What the text slots of a decoder are trained to predict, family by family.

In all of them the image's slots predict the next code. What differs is what follows a text: whether
its pads are targets, and whether its first token is one.
"""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from dalle.errors import ConfigError
from dalle.pretrained.dalle_pytorch.config import DallePytorchConfig
from dalle.pretrained.dalle_pytorch.ids import their_ids
from dalle.pretrained.mindalle_model import MindalleConfig
from dalle.pretrained.rudalle_model import PAD, RudalleConfig

TextTargets = Callable[[Int[Tensor, "b text"], Any], Int[Tensor, "b targets"]]


def text_targets(text: Int[Tensor, "b text"], vocab: int) -> Int[Tensor, "b targets"]:
    """What slots 0 ... text - 2 of our own decoder predict: the next token, the end once, and then
    nothing (-1).

    A text without tokens (no caption) has no targets.
    """
    following = text[:, 1:]
    is_pad = following > vocab
    first_pad = is_pad & (is_pad.cumsum(1) == 1)
    targets = torch.where(is_pad, -1, following).masked_fill(first_pad, vocab)
    return targets.masked_fill(is_pad[:, :1], -1)


def without_slots_past_all(targets: Int[Tensor, "b targets"]) -> Int[Tensor, "b longest"]:
    """The targets up to the last slot in which any row has one, so that nobody computes logits of
    the slots behind it; one slot at least."""
    upto = (targets >= 0).any(0).nonzero()
    return targets[:, : int(upto[-1]) + 1 if len(upto) else 1]


def _dalle_pytorch(
    text: Int[Tensor, "b text"], config: DallePytorchConfig
) -> Int[Tensor, "b targets"]:
    """All tokens, and the pad of every slot that is left."""
    return their_ids(text, vocab=config.text_vocab)[:, 1:]


def _rudalle(text: Int[Tensor, "b text"], config: RudalleConfig) -> Int[Tensor, "b targets"]:
    """All slots with their pads; v2, which has one more start before the text, the first one too.

    The code of image slot 0 is predicted by the image's logits, which sampling reads; the training
    of v3 as published gave its number to the text's.
    """
    pads = torch.arange(text.shape[1], device=text.device) + config.text_vocab
    theirs = torch.where(text == PAD, pads, text)
    return theirs if config.version == "v2" else theirs[:, 1:]


def _mindalle(text: Int[Tensor, "b text"], config: MindalleConfig) -> Int[Tensor, "b targets"]:
    """All slots but the first: a pad is a token like any other."""
    return text[:, 1:]


FAMILIES: dict[str, TextTargets] = {
    "dalle": lambda text, config: text_targets(text, config.text_vocab),
    "dalle_pytorch": _dalle_pytorch,
    "rudalle": _rudalle,
    "mindalle": _mindalle,
}
"""By the kind of the model: the targets of ids in its text slots, -1 for none."""


def family_targets(kind: str) -> TextTargets:
    """The targets of a kind of decoder.

    Raises:
        ConfigError: models of this kind are not trained here.
    """
    if kind not in FAMILIES:
        raise ConfigError(
            f"models of kind {kind!r} draw here and are not trained: what they read is no text but "
            "a class, or what another model makes of it; those that train on are "
            f"{', '.join(map(repr, FAMILIES))}"
        )
    return FAMILIES[kind]
