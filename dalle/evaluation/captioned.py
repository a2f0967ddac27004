"""What a trained model takes from a caption, and how well pictures survive as codes.

Each number stands beside its control: the caption of another picture of the same group, no caption
at all, and chance. Groups matter: a word that names the group would explain a difference otherwise.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from dalle.data.transforms import center_crop, to_float
from dalle.errors import DataError
from dalle.models.clip import Clip
from dalle.models.dalle import Dalle
from dalle.models.dvae import psnr
from dalle.nn.quantize import CodebookUse, code_counts, codebook_use
from dalle.protocols import ImageTokenizer, Sample, Source
from dalle.tokenizers.kinds import PromptTokenizer


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over pictures, and its standard error."""

    mean: float
    error: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Pairs:
    """Pictures with their first captions, in groups."""

    images: Float[Tensor, "n 3 height width"]
    captions: tuple[str, ...]
    groups: tuple[str, ...]


def read_pairs(
    source: Source, *, image_size: tuple[int, int], group_of: Callable[[Sample], str]
) -> Pairs:
    """All pictures of a source that have a caption, cropped to their centre."""
    height, width = image_size
    pixels, captions, groups = [], [], []
    for index in range(len(source)):
        sample = source[index]
        if not isinstance(sample, Sample):
            raise DataError(f"{sample.key} holds codes; evaluation needs pictures")
        if sample.captions:
            pixels.append(center_crop(sample.image, height=height, width=width))
            captions.append(sample.captions[0])
            groups.append(group_of(sample))
    if not pixels:
        raise DataError("no picture has a caption; evaluation needs captioned pictures")
    images = to_float(torch.from_numpy(np.stack(pixels)))
    return Pairs(images=images, captions=tuple(captions), groups=tuple(groups))


def shuffle_within(groups: Sequence[str], *, seed: int) -> list[int]:
    """For each item another one of its group (itself where it is alone), each used once."""
    members: dict[str, list[int]] = {}
    for index, group in enumerate(groups):
        members.setdefault(group, []).append(index)
    partner = list(range(len(groups)))
    for indices in members.values():
        order = indices.copy()
        Random(seed).shuffle(order)
        # Everyone takes the caption of the next one in the circle: nobody keeps their own.
        for here, there in zip(order, order[1:] + order[:1], strict=True):
            partner[here] = there
    return partner


@dataclass(frozen=True, kw_only=True, slots=True)
class CaptionUse:
    """Negative log-likelihood per image token, in nats; chance is ln(image_vocab)."""

    true: Estimate
    shuffled: Estimate
    """With the caption of another picture of the same group."""
    none: Estimate
    gain: Estimate
    """Of the true caption over the shuffled one, picture by picture."""
    uniform: float
    """ln(image_vocab): knowing nothing."""


@torch.inference_mode()
def caption_use(
    model: Dalle,
    text_tokenizer: PromptTokenizer,
    image_tokenizer: ImageTokenizer,
    pairs: Pairs,
    *,
    seed: int = 0,
    batch_size: int = 64,
) -> CaptionUse:
    """How much better a picture's codes are predicted with its own caption."""
    slots = model.config.text_slots
    encoded = [text_tokenizer.encode_stream(c, slots=slots).ids for c in pairs.captions]
    texts = torch.from_numpy(np.stack(encoded))
    codes = image_tokenizer.encode(pairs.images).flatten(1)
    other = texts[shuffle_within(pairs.groups, seed=seed)]
    nll = {
        name: torch.cat(
            [
                _nll(model, t, c)
                for t, c in zip(x.split(batch_size), codes.split(batch_size), strict=True)
            ]
        )
        for name, x in (("true", texts), ("shuffled", other), ("none", model.no_caption(texts)))
    }
    return CaptionUse(
        **{name: _estimate(values) for name, values in nll.items()},
        gain=_estimate(nll["shuffled"] - nll["true"]),
        uniform=math.log(model.image_vocab),
    )


def _nll(model: Dalle, text: Int[Tensor, "b text"], codes: Int[Tensor, "b image"]) -> Tensor:
    log_probs = torch.log_softmax(model(text, codes).image, dim=-1)
    return -log_probs.gather(2, codes.unsqueeze(2)).mean(dim=(1, 2))


@dataclass(frozen=True, kw_only=True, slots=True)
class Retrieval:
    """Finding the picture of a caption, and the reverse, among those of the same group."""

    text_to_image: Estimate
    image_to_text: Estimate
    chance: float
    """Mean over pictures of 1 / the size of their group."""


@torch.inference_mode()
def retrieval(clip: Clip, text_tokenizer: PromptTokenizer, pairs: Pairs) -> Retrieval:
    """Top-1 retrieval of a CLIP within each group."""
    slots = clip.config.text_slots
    encoded = [text_tokenizer.encode_stream(c, slots=slots).ids for c in pairs.captions]
    texts = torch.from_numpy(np.stack(encoded))
    of_texts = torch.cat([clip.encode_text(part) for part in texts.split(64)])
    of_images = torch.cat([clip.encode_image(part) for part in pairs.images.split(64)])
    similarity = of_texts @ of_images.T
    same = torch.tensor([[a == b for b in pairs.groups] for a in pairs.groups])
    similarity = similarity.masked_fill(~same, float("-inf"))
    right = torch.arange(len(texts))
    return Retrieval(
        text_to_image=_estimate((similarity.argmax(dim=1) == right).double()),
        image_to_text=_estimate((similarity.argmax(dim=0) == right).double()),
        chance=(1 / same.sum(dim=1)).mean().item(),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Reconstruction:
    """How pictures survive as codes."""

    psnr: Estimate
    """In dB."""
    mean_colour_psnr: Estimate
    """The control: every picture as one flat colour, its own mean."""
    codebook: CodebookUse


@torch.inference_mode()
def reconstruction(tokenizer: ImageTokenizer, pairs: Pairs) -> Reconstruction:
    """PSNR of reconstructions, and the use of the codebook over all pictures."""
    codes = tokenizer.encode(pairs.images)
    flat = pairs.images.mean(dim=(2, 3), keepdim=True).expand_as(pairs.images)
    return Reconstruction(
        psnr=_estimate(psnr(pairs.images, tokenizer.decode(codes))),
        mean_colour_psnr=_estimate(psnr(pairs.images, flat)),
        codebook=codebook_use(code_counts(codes, tokenizer.vocab_size)),
    )


def _estimate(values: Float[Tensor, " n"]) -> Estimate:
    spread = values.std().item() if len(values) > 1 else math.nan
    return Estimate(values.mean().item(), spread / math.sqrt(len(values)))
