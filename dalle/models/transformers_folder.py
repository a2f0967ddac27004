"""Model folders of `transformers`: read from safetensors and tables, and nothing in them is run."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from dalle.errors import InputError
from dalle.json_files import read_json

WEIGHTS = ".safetensors"
MAX_BYTES = 64 * 2**20
"""Of each file but the weights: the largest vocabulary, SigLIP 2's, has half of it."""
LOCAL = {"local_files_only": True, "trust_remote_code": False}


@dataclass(frozen=True, kw_only=True, slots=True)
class Parts:
    """What is in a folder."""

    config: Any
    model: Any
    """In evaluation mode, on the device."""
    tokenizer: Any
    processor: Any
    """Of pictures, the one over Pillow."""


def load_parts(
    where: str | Path,
    *,
    loader: str,
    model_types: Sequence[str],
    what: str,
    purpose: str,
    attention: Literal["sdpa", "eager"],
    device: str | torch.device,
) -> Parts:
    """Read a model with its tokenizer and its image processor.

    Args:
        where: the folder. Its weights are read from safetensors, no code from it is run, and
            nothing is fetched that it names.
        loader: the class of `transformers` that chooses the model's class.
        model_types: which are taken.
        what: it is to be, for messages: "a CLIP".
        purpose: what it is for, for messages: "reranking".
        attention: which of the library's own executions runs; some models have but the plain one.
        device: where the model goes.

    Raises:
        InputError: there is no such model, a part of it is missing, or it is of another type.
    """
    import transformers
    from transformers import AutoConfig, AutoImageProcessor, AutoTokenizer

    name = str(where)
    try:
        _check_files(Path(where))
        config: Any = AutoConfig.from_pretrained(name, **LOCAL)
        if config.model_type not in model_types:
            raise InputError(
                f"{name} is a model of type {config.model_type!r}; for {purpose} it takes one of "
                f"{', '.join(model_types)}"
            )
        if getattr(config, "quantization_config", None):
            raise ValueError("it is quantized")
        # Its own choice, in it or in one of its parts, may be a kernel on the hub: code.
        config._attn_implementation = attention
        model, found = getattr(transformers, loader).from_pretrained(
            name, config=config, use_safetensors=True, output_loading_info=True, **LOCAL
        )
        if found["missing_keys"]:
            raise ValueError(f"its weights lack {sorted(found['missing_keys'])[0]!r}")
        tokenizer: Any = AutoTokenizer.from_pretrained(name, **LOCAL)
        processor: Any = AutoImageProcessor.from_pretrained(name, backend="pil", **LOCAL)
    except (InputError, MemoryError):
        raise
    except Exception as error:  # whatever the library meets a strange folder with
        raise InputError(
            f"{name} cannot be used as {what} of transformers: {_first_line(error)}"
        ) from error
    return Parts(
        config=config, model=model.to(device).eval(), tokenizer=tokenizer, processor=processor
    )


def _check_files(folder: Path) -> None:
    """Look at what the library would trust: sizes, and which files are said to hold weights."""
    if not folder.is_dir():
        raise ValueError("there is no such folder")
    for path in folder.iterdir():
        if path.suffix != WEIGHTS and path.is_file() and path.stat().st_size > MAX_BYTES:
            raise ValueError(f"{path.name} has {path.stat().st_size} bytes; at most {MAX_BYTES}")
    for path in folder.glob("*.index.json"):
        for name in map(str, read_json(path)["weight_map"].values()):
            if not name.endswith(WEIGHTS) or "/" in name or "\\" in name:
                raise ValueError(f"{path.name} names {name!r}, not weights beside it")


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
