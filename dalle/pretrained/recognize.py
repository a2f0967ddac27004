"""Which family a checkpoint is of, from what is in it."""

import importlib
from collections.abc import Callable
from typing import Any

from dalle.errors import CheckpointError
from dalle.pretrained.family import Converted, Sighting, Source

FAMILIES = (
    "dalle.pretrained.dalle_pytorch.dalle_pt",
    "dalle.pretrained.dalle_pytorch.vae_pt",
    "dalle.pretrained.dalle_pytorch.clip_pt",
    "dalle.pretrained.rudalle",
    "dalle.pretrained.mindalle",
    "dalle.pretrained.llamagen",
    "dalle.pretrained.openai_dvae",
    "dalle.pretrained.taming",
    "dalle.pretrained.llamagen_vq",
    "dalle.pretrained.not_loaded",
)
"""The files of the families, asked in this order: whatever holds a decoder before mere tokenizers,
which lie beside or in it."""


def recognise(source: Source) -> Sighting:
    """What a source is.

    Raises:
        CheckpointError: no family here has such tensors.
    """
    return _asked(source)[0]


def convert(source: Source) -> Converted:
    """The models in a source as ours.

    Raises:
        CheckpointError: no family here has such tensors, or some of them are wrong.
    """
    return _asked(source)[1](source)


def _asked(source: Source) -> tuple[Sighting, Callable[[Source], Converted]]:
    for name in FAMILIES:
        family: Any = importlib.import_module(name)
        sighting = family.recognise(source)
        if sighting is not None:
            return sighting, family.convert
    for weights in source.weights:
        if isinstance(weights.value, dict) and isinstance(weights.value.get("weights"), str):
            raise CheckpointError(
                f"{weights.path} belongs to a folder that DeepSpeed wrote, and has no weights; "
                "give its folder"
            )
    keys = [key for weights in source.weights for key in weights.state]
    said = ", ".join(repr(key[:80]) for key in keys[:3])
    raise CheckpointError(
        f"{source.path} is of no family that is known here: "
        + (f"its {len(keys)} tensors are called {said} ..." if keys else "it has no state dict")
    )
