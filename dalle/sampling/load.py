"""From a model folder to a pipeline."""

import hashlib
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from dalle.checkpoint import (
    DECODERS,
    IMAGE_TOKENIZER,
    IMAGE_TOKENIZERS,
    MANIFEST,
    RERANKER,
    TEXT_TOKENIZER,
    LoadedFolder,
    load_folder,
)
from dalle.checkpoint.load import resolve_decoder
from dalle.config import from_json
from dalle.errors import CheckpointError, ConfigError, InputError
from dalle.launched import own_device
from dalle.models.clip_gen import ClipGen
from dalle.processes import ALONE, Processes
from dalle.sampling.filters import Sampling
from dalle.sampling.joint_prompts import load_joint_prompts
from dalle.sampling.picture import Origin
from dalle.sampling.pipeline import Pipeline
from dalle.sampling.rerank import load_reranker
from dalle.tokenizers.image import tokenizer_of
from dalle.tokenizers.kinds import PromptTokenizer, load_text_tokenizer

DEVICES = ("cpu", "cuda", "mps")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def load(
    where: str | Path,
    *,
    device: str = "auto",
    dtype: str = "auto",
    clip: str | Path | None = None,
    weights: Literal["auto", "ema", "model"] = "auto",
    text_tokenizer: str | Path | None = None,
    processes: Processes = ALONE,
) -> Pipeline:
    """Load a DALL·E with its tokenizers and, where there is one, its reranker.

    Args:
        where: a model folder, a run (its newest whole checkpoint is taken), or a model's name on
            the hub.
        device: "auto" takes a GPU where there is one; or "cpu", "cuda", "cuda:1", "mps".
        dtype: of the decoder: "auto" is bfloat16 on a CUDA device that has it and float32
            elsewhere. The image tokenizer stays float32.
        clip: what ranks pictures in place of the folder's own reranker: a folder with a CLIP of
            ours, or the folder or hub name of a CLIP or SigLIP of `transformers`.
        weights: "auto" takes the averaged weights where there are any.
        text_tokenizer: its file, for another project's checkpoint without one beside it.
        processes: who shares the work; called by all of them, each of which takes a GPU of its own.

    Raises:
        CheckpointError: a folder is damaged, of another kind or of a newer format, or not the same
            on all processes; or another project's checkpoint lacks a tokenizer.
        InputError: there is no such folder, device or dtype.
    """
    pipeline = processes.together(
        lambda: _read(
            where,
            None if text_tokenizer is None else Path(text_tokenizer).expanduser(),
            device=device,
            dtype=dtype,
            clip=clip,
            weights=weights,
            processes=processes,
        )
    )
    _check_same(pipeline, where)
    return pipeline


def _read(
    where: str | Path,
    text_tokenizer: Path | None,
    *,
    device: str,
    dtype: str,
    clip: str | Path | None,
    weights: Literal["auto", "ema", "model"],
    processes: Processes,
) -> Pipeline:
    place = choose_device(device if processes.size == 1 else own_device(device))
    kind = _choose_dtype(dtype, place)
    folder = resolve_decoder(where, text_tokenizer=text_tokenizer)
    loaded = load_folder(folder, kind=DECODERS, weights=weights, device=place)
    codec = load_folder(loaded.path / IMAGE_TOKENIZER, kind=IMAGE_TOKENIZERS, device=place)
    own = loaded.path / RERANKER
    reranker = clip if clip is not None else own if own.is_dir() else None
    manifest = loaded.path / MANIFEST
    decoder: Any = loaded.module.to(kind)  # a `Decoder`, as its kind was checked
    return Pipeline(
        decoder,
        text_tokenizer=_prompts(loaded, place),
        image_tokenizer=tokenizer_of(codec.module.float()),
        reranker=None if reranker is None else load_reranker(reranker, place),
        sampling=own_sampling(loaded.extra, loaded.path),
        origin=Origin(
            model=str(where),
            model_hash=_hash(manifest) if manifest.is_file() else "",
            weights=loaded.weights,
            reranker="" if reranker is None else RERANKER if clip is None else str(clip),
            source=loaded.extra.get("source"),
            reranker_folder=Path(reranker) if reranker and Path(reranker).is_dir() else None,
        ),
        processes=processes,
    )


def _prompts(loaded: LoadedFolder, device: torch.device) -> PromptTokenizer:
    """What turns prompts into what the decoder reads."""
    if isinstance(loaded.module, ClipGen):
        return load_joint_prompts(loaded.path, device)
    return load_text_tokenizer(loaded.path / TEXT_TOKENIZER)


def _check_same(pipeline: Pipeline, where: str | Path) -> None:
    """That all processes have read the same: a run may have saved another step in between."""
    origin, decoder = pipeline.origin, pipeline.model
    assert isinstance(decoder, nn.Module)
    dtype = str(next(decoder.parameters()).dtype)
    mine = [origin.model_hash, origin.weights, dtype]
    first = pipeline.processes.on_main(lambda: mine)
    differs = CheckpointError(
        f"{where} holds another model than on the main process, or its dtype is another one; give "
        "the folder of one step, and a dtype"
    )
    pipeline.processes.agree(None if mine == first else differs)


def choose_device(name: str) -> torch.device:
    """The device that a flag means.

    Raises:
        InputError: there is no such device here.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
        if name == "cpu" and torch.backends.mps.is_available():
            name = "mps"
    try:
        device = torch.device(name)
        if device.type not in DEVICES:
            raise RuntimeError(f"models run on {', '.join(DEVICES)}")
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"device {name!r} cannot be used here ({reason}); take auto, cpu, cuda or mps"
        ) from None
    return device


def _choose_dtype(name: str, device: torch.device) -> torch.dtype:
    if name == "auto":
        has_bfloat16 = device.type == "cuda" and torch.cuda.is_bf16_supported()
        return torch.bfloat16 if has_bfloat16 else torch.float32
    if name not in DTYPES:
        raise InputError(f"dtype is {name!r}; expected auto, {', '.join(DTYPES)}")
    return DTYPES[name]


def own_sampling(fields: dict[str, Any], folder: Path) -> Sampling:
    """What the model's config.json says under `sampling`; the published settings without it."""
    try:
        return from_json(Sampling, fields.get("sampling", {}), path="sampling")
    except (ConfigError, InputError) as error:
        raise CheckpointError(f"{folder / 'config.json'}: {error}") from None


def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
