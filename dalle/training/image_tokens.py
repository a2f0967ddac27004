"""What the tasks of all our decoders have in common: pictures as codes, read, predicted, drawn."""

from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from jaxtyping import Float, Int, Shaped
from torch import Tensor
from torch.nn import functional as F

from dalle.data.transforms import center_crop, dalle_augment, to_float
from dalle.errors import ConfigError
from dalle.layout import StreamLayout
from dalle.pictures import grid
from dalle.protocols import EncodedSample, ImageTokenizer, Sample
from dalle.sampling.decode import sample_codes
from dalle.sampling.filters import Sampling

PREVIEWS = 4
"""Samples of each condition in a preview."""


def check_sizes(layout: StreamLayout, image_vocab: int, tokenizer: ImageTokenizer) -> None:
    """Refuse a decoder that was made for other codes than the tokenizer's.

    Raises:
        ConfigError: grids or numbers of codes differ.
    """
    if tokenizer.grid != layout.grid:
        raise ConfigError(
            f"the image tokenizer has a grid of {tokenizer.grid}, the model one of "
            f"{layout.grid}; set rows and cols to the tokenizer's"
        )
    if tokenizer.vocab_size != image_vocab:
        raise ConfigError(
            f"image_vocab is {image_vocab}, the tokenizer has {tokenizer.vocab_size}; set "
            "it to that"
        )


def view_of(sample: Sample, random: Random, *, size: tuple[int, int], augment: bool) -> np.ndarray:
    """The paper's crop of a picture, or its centre: uint8, height x width x 3."""
    crop = dalle_augment if augment else lambda image, _, **target: center_crop(image, **target)
    return crop(sample.image, random, height=size[0], width=size[1])


def codes_of(arrays: dict[str, Tensor], tokenizer: ImageTokenizer) -> Int[Tensor, "b image"]:
    """The codes that were read, or those of the pictures that were, in raster order."""
    codes = arrays.get("codes")
    if codes is None:
        codes = tokenizer.encode(to_float(arrays["image"]))
    return codes.flatten(1)


def drawn_view(sample: EncodedSample, random: Random, *, train: bool) -> int:
    """The number of a view of an encoded sample: training draws one, else it is the first."""
    return random.randrange(len(sample.codes)) if train else 0


def summed_nll(logits: Float[Tensor, "b t v"], targets: Int[Tensor, "b t"]) -> Float[Tensor, ""]:
    """The sum of the cross entropies in nats; targets of -1 are none."""
    return F.cross_entropy(
        logits.flatten(0, 1), targets.flatten(), ignore_index=-1, reduction="sum"
    )


def draw_samples(
    decoder: Any,
    conditions: Shaped[Tensor, "p *slots"],
    tokenizer: ImageTokenizer,
    *,
    sampling: Sampling,
    path: Path,
) -> Path:
    """Four samples of each condition by a `Decoder`, one condition a row, as one picture file."""
    count = len(conditions)
    sampled = sample_codes(
        decoder,
        conditions.to(decoder.device),
        prompt_of=[i for i in range(count) for _ in range(PREVIEWS)],
        seeds=[i for _ in range(count) for i in range(PREVIEWS)],
        sampling=sampling,
    )
    grid(tokenizer.decode(sampled.codes.to(decoder.device)), columns=PREVIEWS).save(path)
    return path
