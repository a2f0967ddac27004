"""The image tokenizer of a run, and pictures as its codes."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from random import Random

import numpy as np
import torch
from tqdm import tqdm

from dalle.checkpoint import IMAGE_TOKENIZER, IMAGE_TOKENIZERS, load_folder
from dalle.checkpoint.load import resolve
from dalle.cli.training_data import Parts
from dalle.data.tokens import encode_source
from dalle.errors import ConfigError
from dalle.protocols import Sample, Source
from dalle.sampling.load import choose_device
from dalle.tokenizers.image import ModelTokenizer, tokenizer_of
from dalle.training.dalle_task import DalleTask


def image_tokenizer_folder(vae: str | None, *, begun: Path | None) -> Path:
    """The discrete VAE that the run began with, or the one that was asked for."""
    if begun is not None:
        return begun / IMAGE_TOKENIZER
    if vae is None:
        raise ConfigError(
            "--vae is missing: give the folder of a trained discrete VAE (`dalle train vae`)"
        )
    return resolve(vae)


def load_image_tokenizer(folder: Path, *, device: str) -> ModelTokenizer:
    """The tokenizer, where this process of the run computes."""
    loaded = load_folder(folder, kind=IMAGE_TOKENIZERS, device=process_device(device))
    return tokenizer_of(loaded.module.float())


def process_device(name: str) -> torch.device:
    """The device that the training loop will choose for this process."""
    if os.environ.get("ACCELERATE_USE_CPU", "false").lower() in ("1", "true", "yes"):
        return torch.device("cpu")
    device = choose_device(name)
    if device.type == "cuda":
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return device


def encode_once(parts: Parts, task: DalleTask, *, views: int, device: str) -> Parts:
    """Both parts of a data set as codes: `views` crops to train on, the centre to be judged on."""

    def encoded(source: Source, *, train: bool) -> Source:
        def view(sample: Sample, random: Random) -> np.ndarray:
            return task.view(sample, random, train=train)

        with _bar(len(source)) as progress:
            return encode_source(
                source,
                task.image_tokenizer,
                view,
                views=views if train else 1,
                device=process_device(device),
                progress=progress.update,
            )

    held_out = None if parts.held_out is None else encoded(parts.held_out, train=False)
    return Parts(train=encoded(parts.train, train=True), held_out=held_out)


def _bar(total: int) -> "tqdm[Callable[[int], bool | None]]":
    quiet = not sys.stderr.isatty() or os.environ.get("RANK", "0") != "0"
    return tqdm(total=total, desc="pictures to codes", unit="picture", leave=False, disable=quiet)
