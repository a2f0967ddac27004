"""Small stand-ins for the parts of a pipeline, and small real ones."""

import weakref
from collections.abc import Iterable
from random import Random

import numpy as np
import torch
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor, nn

from dalle.data.parts import stack
from dalle.models.clip import Clip, ClipConfig, TowerConfig
from dalle.models.dalle import Dalle, DalleConfig
from dalle.models.dvae import Dvae, DvaeConfig
from dalle.protocols import Batch, Sample, Task
from dalle.tokenizers.text import TextTokenizer

CAPTIONS = ["a red cube", "a blue circle on a table", "a green triangle above a red star"]


class FlatTokenizer:
    """An image tokenizer without weights: a code is a grey, a cell is a flat square of it."""

    def __init__(self, *, vocab_size: int, grid: tuple[int, int], cell: int = 4) -> None:
        self.vocab_size = vocab_size
        self.grid = grid
        self.cell = cell
        self.image_size = (grid[0] * cell, grid[1] * cell)
        self.alive: weakref.WeakSet[Tensor] = weakref.WeakSet()
        self.most_at_once = 0

    def encode(self, images: Float[Tensor, "b 3 height width"]) -> Int[Tensor, "b rows cols"]:
        grey = images.mean(1).unflatten(1, (-1, self.cell)).unflatten(3, (-1, self.cell))
        return (grey.mean((2, 4)) * (self.vocab_size - 1)).round().long()

    def decode(self, codes: Int[Tensor, "b rows cols"]) -> Float[Tensor, "b 3 height width"]:
        grey = codes.float() / (self.vocab_size - 1)
        cells = grey.repeat_interleave(self.cell, 1).repeat_interleave(self.cell, 2)
        self.most_at_once = max(self.most_at_once, len(codes))
        return cells.unsqueeze(1).repeat(1, 3, 1, 1)


class BrightnessReranker:
    """Prefers bright pictures, whatever the text."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def score(
        self, texts: list[str], images: Float[Tensor, "n 3 height width"]
    ) -> Float[Tensor, " n"]:
        self.texts += texts
        return images.mean((1, 2, 3))


def tiny_text_tokenizer() -> TextTokenizer:
    """Trained on three captions."""
    return TextTokenizer.train(CAPTIONS, vocab_size=270)


def tiny_dalle(
    tokenizer: TextTokenizer,
    *,
    image_vocab: int = 16,
    rows: int = 4,
    cols: int = 3,
    seed: int = 0,
    both_orders: bool = False,
) -> Dalle:
    """An untrained decoder, whose heads are filled with noise so that all logits differ."""
    torch.manual_seed(seed)
    model = Dalle(
        DalleConfig(
            text_vocab=tokenizer.vocab_size,
            image_vocab=image_vocab,
            text_slots=12,
            rows=rows,
            cols=cols,
            depth=2,
            width=32,
            heads=2,
            patterns=("row", "full"),
            both_orders=both_orders,
        )
    )
    for head in (model.text_head, model.image_head):
        torch.nn.init.normal_(head.weight, std=0.3)
    return model.eval()


def tiny_dvae(*, num_codes: int = 16, rows: int = 4, cols: int = 3, seed: int = 0) -> Dvae:
    """An untrained discrete VAE with cells of 4 x 4 pixels."""
    torch.manual_seed(seed)
    return Dvae(
        DvaeConfig(
            image_height=rows * 4,
            image_width=cols * 4,
            num_codes=num_codes,
            hidden=8,
            groups=3,
            blocks=1,
            downsampling=4,
            embed_dim=8,
        )
    ).eval()


def tiny_clip(tokenizer: TextTokenizer, *, seed: int = 0) -> Clip:
    """An untrained CLIP for pictures of 16 x 12 pixels."""
    torch.manual_seed(seed)
    tower = TowerConfig(width=16, depth=1, heads=2)
    return Clip(
        ClipConfig(
            image_height=16,
            image_width=12,
            text_vocab=tokenizer.vocab_size,
            text_slots=12,
            embed_dim=8,
            stem=(8,),
            patch=2,
            vision=tower,
            text=tower,
        )
    ).eval()


def fill_with_noise(model: nn.Module, *, std: float) -> None:
    """Let every parameter matter: heads start at zero as published."""
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=std)


def noise_sample(
    height: int, width: int, *, seed: int, captions: tuple[str, ...], key: str = "x"
) -> Sample:
    """A captioned picture of noise."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    return Sample(key=key, image=Image.fromarray(pixels), captions=captions)


def batch_of(task: Task, samples: Iterable[Sample], *, train: bool = False) -> Batch:
    """What a task reads of samples, each with the draws of its number, without those left out."""
    read = [task.read(sample, Random(i), train=train) for i, sample in enumerate(samples)]
    return task.prepare(stack([row for row in read if row is not None]))
