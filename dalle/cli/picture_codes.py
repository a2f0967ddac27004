"""The image tokenizer of a run, and pictures as its codes."""

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from tqdm import tqdm

from dalle.checkpoint import IMAGE_TOKENIZER, IMAGE_TOKENIZERS, load_folder
from dalle.checkpoint.places import resolve
from dalle.cli.training_data import Parts, say
from dalle.config import to_json
from dalle.data.sources import numbered
from dalle.data.split import is_marked
from dalle.data.token_cache import cached_codes
from dalle.data.token_files import Encoding
from dalle.data.tokens import encode_source
from dalle.errors import ConfigError
from dalle.models.fingerprint import digest_of
from dalle.presets import DalleRun
from dalle.protocols import Source
from dalle.sampling.load import choose_device
from dalle.tokenizers.image import ModelTokenizer, tokenizer_of
from dalle.tokenizers.kinds import PromptTokenizer
from dalle.tokenizers.text import TextTokenizer
from dalle.training.image_tokens import view_of


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


@dataclass(frozen=True, kw_only=True, slots=True)
class CodeSettings:
    """What a run wants to have as codes."""

    views: int
    """Crops of each picture to train on; the held-out part has its centre only."""
    augment: bool
    device: str
    cache: str | None
    """Folder of the cache that was asked for."""
    text: TextTokenizer | None = None
    """Captions become its ids, too."""
    part: int = 0
    parts: int = 1
    """Which share of the work is this process's."""


def code_settings(run: DalleRun, *, text: PromptTokenizer | None = None) -> CodeSettings:
    """What a run of the transformer asks for, and which share of it is this process's.

    Ids of captions are kept where its text tokenizer is of our own kind; others' have no digest.
    """
    return CodeSettings(
        views=run.objective.views,
        augment=run.objective.augment,
        device=run.device,
        cache=run.data.cache,
        text=text if isinstance(text, TextTokenizer) else None,
        part=int(os.environ.get("RANK", "0")),
        parts=int(os.environ.get("WORLD_SIZE", "1")),
    )


def encode_once(parts: Parts, tokenizer: ModelTokenizer, settings: CodeSettings) -> Parts:
    """Both parts of a data set as codes: crops to train on, the centre to be judged on.

    They come from the token cache, into which goes what is missing; pictures that are drawn on the
    fly are encoded into memory.
    """

    def encoded(source: Source, *, train: bool) -> Source:
        augment = settings.augment and train
        view = partial(view_of, size=tokenizer.image_size, augment=augment)
        views, device = settings.views if train else 1, process_device(settings.device)
        with bar(len(source), "pictures to codes") as progress:
            if not is_marked(source):
                return encode_source(
                    source,
                    tokenizer,
                    view,
                    views=views,
                    device=device,
                    progress=progress.update,
                )
            encoding = Encoding(
                tokenizer=tokenizer,
                digest=digest_of(tokenizer.model, to_json(tokenizer.model.config)),
                view=view,
                view_name=f"{tokenizer.image_size} augmented={augment}",
                views=views,
                device=device,
            )
            return cached_codes(
                source,
                encoding,
                cache_folder(settings.cache),
                text=settings.text,
                part=settings.part,
                parts=settings.parts,
                say=say,
                progress=progress.update,
            )

    held_out = None if parts.held_out is None else encoded(parts.held_out, train=False)
    train = numbered(parts.train, "the data set")
    return Parts(train=encoded(train, train=True), held_out=held_out)


def cache_folder(asked: str | None) -> Path:
    """The token cache: `$XDG_CACHE_HOME/dalle/tokens`, by default in ~/.cache."""
    if asked is not None:
        return Path(asked).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "dalle" / "tokens"


def bar(total: int, what: str) -> "tqdm[Callable[[int], bool | None]]":
    """A progress bar over pictures, on a terminal, of one process."""
    quiet = not sys.stderr.isatty() or os.environ.get("RANK", "0") != "0"
    return tqdm(total=total, desc=what, unit="picture", leave=False, disable=quiet)
