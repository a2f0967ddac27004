"""How well a trained decoder predicts held-out captions and pictures, beside its controls."""

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from dalle.evaluation.captioned_set import CaptionedSet, shuffle_within
from dalle.evaluation.estimates import Estimate, estimate
from dalle.models.dalle import Dalle
from dalle.tokenizers.kinds import PromptTokenizer
from dalle.training.text_targets import text_targets

LOGITS_AT_ONCE = 1 << 25
MOST_AT_ONCE = 64


@dataclass(frozen=True, kw_only=True, slots=True)
class Likelihood:
    """Negative log-likelihoods per token, in nats: means over pictures."""

    text: Estimate
    """Of the caption's tokens and its end, the mean over each caption's tokens first."""
    text_uniform: float
    """ln(number of text tokens and the end): knowing nothing."""
    image: Estimate
    """With the picture's own caption."""
    shuffled: Estimate
    """With the caption of another picture of the same group."""
    none: Estimate
    """Without a caption."""
    gain: Estimate
    """Of the own caption over the shuffled one, picture by picture."""
    image_uniform: float
    """ln(number of codes)."""
    text_tokens: str
    """Fingerprint of the captions as tokens: numbers over other tokens cannot be compared."""
    image_codes: str
    """The same of the pictures as codes."""


@torch.inference_mode()
def likelihood(
    model: Dalle,
    text_tokenizer: PromptTokenizer,
    chosen: CaptionedSet,
    codes: Int[Tensor, "pictures rows cols"],
    *,
    seed: int = 0,
    progress: Callable[[int], None] = lambda n: None,
) -> Likelihood:
    """Over all captions of a set.

    Args:
        codes: of the set's pictures.
        seed: of the shuffling.
        progress: called with the number of captions just done.
    """
    slots = model.config.text_slots
    encoded = [text_tokenizer.encode_stream(c, slots=slots).ids for c in chosen.captions]
    texts = torch.from_numpy(np.stack(encoded))
    other = texts[shuffle_within(chosen.groups, seed=seed)]
    per_picture = codes[0].numel() * model.image_vocab
    at_once = min(MOST_AT_ONCE, max(1, LOGITS_AT_ONCE // per_picture))
    found: dict[str, list[Tensor]] = {"text": [], "image": [], "shuffled": [], "none": []}
    for start in range(0, len(texts), at_once):
        part = slice(start, start + at_once)
        own = texts[part].to(model.device)
        pictures = codes[list(chosen.picture_of[part])].flatten(1).to(model.device, torch.long)
        output = model(own, pictures)
        found["text"].append(_per_target(output.text, text_targets(own, model.text_vocab)))
        found["image"].append(_per_target(output.image, pictures))
        for name, text in (("shuffled", other[part]), ("none", model.no_caption(own))):
            logits = model(text.to(model.device), pictures, text_logits=0).image
            found[name].append(_per_target(logits, pictures))
        progress(len(own))
    nll = {name: torch.cat(parts) for name, parts in found.items()}
    return Likelihood(
        **{name: estimate(values) for name, values in nll.items()},
        gain=estimate(nll["shuffled"] - nll["image"]),
        text_uniform=math.log(model.text_vocab + 1),
        image_uniform=math.log(model.image_vocab),
        text_tokens=_fingerprint(texts, model.text_vocab),
        image_codes=_fingerprint(codes, model.image_vocab),
    )


def _fingerprint(ids: Int[Tensor, "n *rest"], vocab: int) -> str:
    digest = hashlib.sha256(f"{vocab} {tuple(ids.shape)}\n".encode())
    digest.update(ids.to(torch.int32).contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def _per_target(logits: Float[Tensor, "b t v"], targets: Int[Tensor, "b t"]) -> Float[Tensor, " b"]:
    """The mean cross entropy of each row over its targets; -1 is none."""
    losses = F.cross_entropy(logits.mT.float(), targets, ignore_index=-1, reduction="none")
    return (losses.double().sum(1) / (targets >= 0).sum(1).clamp(min=1)).cpu()
