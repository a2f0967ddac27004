"""Pictures and their captions by one pipeline: captions written, and captions weighed."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int
from PIL import Image
from torch import Tensor

from dalle.models.captioning import CaptionDecoder
from dalle.protocols import Decoder, ImageTokenizer
from dalle.sampling.filters import Sampling
from dalle.sampling.image_prompt import image_prompt
from dalle.sampling.likelihood import LogLikelihood, code_log_probs
from dalle.sampling.prompts import without_surrogates
from dalle.sampling.streams import prompt_stream
from dalle.sampling.texts import write_captions
from dalle.tokenizers.kinds import PromptTokenizer

GivenImage = Image.Image | str | Path


@torch.no_grad()
def encode_images(
    images: Sequence[GivenImage], tokenizer: ImageTokenizer, device: torch.device
) -> Int[Tensor, "n image"]:
    """Pictures as codes in raster order, each cropped around its centre."""
    codes = [
        tokenizer.encode(image_prompt(image, image_size=tokenizer.image_size).to(device))
        for image in images
    ]
    return torch.cat(codes).flatten(1)


def caption_images(
    model: CaptionDecoder,
    codes: Int[Tensor, "n image"],
    text_tokenizer: PromptTokenizer,
    *,
    num_samples: int,
    seed: int,
    sampling: Sampling,
) -> list[list[str]]:
    """`num_samples` captions of each picture; caption i of each has the seed `seed + i`."""
    tokens = write_captions(
        model,
        codes,
        picture_of=[i for i in range(len(codes)) for _ in range(num_samples)],
        seeds=[seed + i for _ in codes for i in range(num_samples)],
        sampling=sampling,
    )
    texts = [text_tokenizer.decode(ids) for ids in tokens]
    return [texts[i : i + num_samples] for i in range(0, len(texts), num_samples)]


def weigh_captions(
    model: Decoder,
    codes: Int[Tensor, "1 image"],
    captions: Sequence[str],
    text_tokenizer: PromptTokenizer,
) -> list[LogLikelihood]:
    """ln p(picture | caption) of one picture for each caption, and without any."""
    cleaned = [without_surrogates(caption) for caption in ("", *captions)]
    slots = model.layout.image_start
    streams = [prompt_stream(text, text_tokenizer, slots=slots).ids for text in cleaned]
    texts = torch.from_numpy(np.stack(streams)).to(model.device)
    log_probs = code_log_probs(model, texts, codes.expand(len(texts), -1))
    none, *each = log_probs.double().sum(dim=1).tolist()
    return [
        LogLikelihood(caption=caption, log_prob=value, no_caption=none)
        for caption, value in zip(captions, each, strict=True)
    ]
