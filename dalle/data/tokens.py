"""A data set held in memory as codes, so that its pictures are tokenized once.

At two bytes a code, a million pictures of 32 x 32 codes take 2 GB for each view.
"""

from collections.abc import Callable
from random import Random

import numpy as np
import torch
from torch import Tensor

from dalle.data.transforms import to_float
from dalle.errors import DataError
from dalle.protocols import EncodedSample, ImageTokenizer, Sample, Source

View = Callable[[Sample, Random], np.ndarray]
"""A picture as the tokenizer sees it: uint8, height x width x 3."""


class EncodedSource:
    """A source of codes and captions, in the order of the source that was encoded."""

    def __init__(
        self,
        *,
        keys: list[str],
        codes: np.ndarray,
        captions: list[tuple[str, ...]],
        damaged: dict[int, str],
    ) -> None:
        self.keys = keys
        self.codes = codes  # samples, views, rows, cols
        self.captions = captions
        self.damaged = damaged

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, index: int, /) -> EncodedSample:
        if index in self.damaged:
            raise DataError(self.damaged[index])
        return EncodedSample(
            key=self.keys[index], codes=self.codes[index], captions=self.captions[index]
        )


def encode_source(
    source: Source,
    tokenizer: ImageTokenizer,
    view: View,
    *,
    views: int = 1,
    batch_size: int = 64,
    device: torch.device | str = "cpu",
    progress: Callable[[int], None] | None = None,
) -> EncodedSource:
    """Tokenize every picture of a source.

    Args:
        view: crops or augments a picture; its random numbers depend on the sample's key and on
            the number of the view alone, so that encoding again gives the same codes.
        views: how many crops of each picture to keep.
        progress: called with the number of samples just encoded.

    Returns:
        A source of the same length; samples that could not be read stay unreadable.
    """
    small = np.uint16 if tokenizer.vocab_size <= 1 << 16 else np.int32
    codes = np.zeros((len(source), views, *tokenizer.grid), dtype=small)
    keys, captions, damaged = [], [], {}
    pictures: list[np.ndarray] = []
    places: list[tuple[int, int]] = []

    def flush() -> None:
        if pictures:
            encoded = encode_pictures(tokenizer, np.stack(pictures), device)
            for (index, number), one in zip(places, encoded, strict=True):
                codes[index, number] = one
            pictures.clear()
            places.clear()

    for index in range(len(source)):
        try:
            sample = source[index]
            if not isinstance(sample, Sample):
                raise DataError(f"{sample.key} is encoded already; give a source of pictures")
            for number in range(views):
                pictures.append(view(sample, Random(f"{sample.key}/{number}")))
                places.append((index, number))
            keys.append(sample.key)
            captions.append(sample.captions)
        except DataError as error:
            damaged[index] = str(error)
            keys.append(str(index))
            captions.append(())
        if len(pictures) >= batch_size:
            flush()
        if progress:
            progress(1)
    flush()
    return EncodedSource(keys=keys, codes=codes, captions=captions, damaged=damaged)


@torch.inference_mode()
def encode_pictures(
    tokenizer: ImageTokenizer, pictures: np.ndarray, device: torch.device | str
) -> np.ndarray:
    """The codes, n x rows x cols, of pictures, uint8, n x height x width x 3."""
    images: Tensor = to_float(torch.from_numpy(pictures).to(device))
    return tokenizer.encode(images).cpu().numpy()
