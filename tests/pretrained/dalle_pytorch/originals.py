"""Files as DALLE-pytorch wrote them, made from lists of names and shapes.

tests/golden/dalle_pytorch_*.json and .safetensors hold what the original code (version 1.6.6, MIT)
answered in tiny configurations, with weights filled by the rule below.
"""

import json
import math
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from dalle.pretrained.family import Source, Weights

GOLDEN = Path(__file__).parents[2] / "golden"
PATH = Path("dalle.pt")


def fill(key: str, shape: list[int]) -> Tensor:
    generator = torch.Generator().manual_seed(zlib.crc32(key.encode()) % 2**31)
    values = torch.randn(shape, generator=generator)
    if len(shape) >= 2:
        return values / math.sqrt(math.prod(shape) / shape[0])
    return 1 + 0.1 * values if key.endswith(("weight", ".g", "scale")) else 0.1 * values


def described(name: str) -> dict[str, Any]:
    """The configuration, and the shapes of the tensors, of one of the original models."""
    fields: dict[str, Any] = json.loads((GOLDEN / f"dalle_pytorch_{name}.json").read_text())
    return fields


def answers(name: str) -> dict[str, Tensor]:
    """Inputs and outputs of one of the original models."""
    return load_file(GOLDEN / f"dalle_pytorch_{name}.safetensors")


def filled(shapes: Mapping[str, list[int]]) -> dict[str, Tensor]:
    return {key: fill(key, shape) for key, shape in shapes.items()}


def dalle_pt(name: str, **changes: Any) -> dict[str, Any]:
    """A `dalle.pt` with one of the original decoders and the original VAE in it."""
    config = described(name)["config"]
    vae = {f"vae.{k}": t for k, t in filled(described("vae")["state_dict"]).items()}
    return {
        "hparams": config["dalle"],
        "vae_params": config["vae"],
        "version": "1.6.6",
        "vae_class_name": "DiscreteVAE",
        "weights": {**vae, **filled(described(name)["state_dict"])},
        **changes,
    }


def source(value: dict[str, Any]) -> Source:
    """A file of such a dictionary, as it is read."""
    state = value.get("weights", value)
    return Source(path=PATH, weights=(Weights(path=PATH, value=value, state=dict(state)),))


def to_our_ids(text: Tensor, vocab: int) -> Tensor:
    """Their texts, 0 where there is no token, as ids of our stream."""
    slots = torch.arange(1, text.shape[1] + 1)
    ours = torch.where(text == 0, vocab + slots, text)
    return torch.cat([torch.full((len(text), 1), vocab), ours], dim=1)
