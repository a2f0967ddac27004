"""The weights of a CLIP of DALLE-pytorch: a bare state dict, as its users saved it.

Source: lucidrains/DALLE-pytorch, README.md and dalle_pytorch/dalle_pytorch.py.
"""

import math
import re
from pathlib import Path

from torch import Tensor

from dalle.errors import CheckpointError
from dalle.pretrained.dalle_pytorch.clip import (
    DallePytorchClip,
    DallePytorchClipConfig,
    Tower,
)
from dalle.pretrained.dalle_pytorch.keys import FAMILY, StoredStack, read_stack
from dalle.pretrained.dalle_pytorch.text import find_tokenizer
from dalle.pretrained.family import (
    Converted,
    Sighting,
    Source,
    Weights,
    axis,
    configured,
    fit,
)

CLIP = f"the CLIP of {FAMILY}"
HEAD_WIDTH = 64
"""There was no way to choose another."""
_TOWER = re.compile(r"(text|visual)_transformer\.layers\.layers\.\d+\.[01]\..+")
_NAMES = {
    "text_embedding": "text_emb",
    "text_position": "text_pos_emb",
    "text_latent": "to_text_latent",
    "patches": "to_visual_embedding",
    "patch_position": "visual_pos_emb",
    "vision_latent": "to_visual_latent",
}


def recognise(source: Source) -> Sighting | None:
    """A file with the layers of its two towers."""
    weights = _weights(source)
    if weights is None:
        return None
    return Sighting(
        family=FAMILY,
        version="",
        holds="CLIP",
        sizes={"tensors": len(weights.state)},
        licence="not stated (of the code: MIT)",
    )


def convert(source: Source) -> Converted:
    """The model.

    Raises:
        CheckpointError: a tensor is missing, does not fit or is not known.
    """
    sighting, weights = recognise(source), _weights(source)
    assert sighting is not None and weights is not None
    state, path = weights.state, weights.path
    text = read_stack(state, prefix="text_transformer", path=path)
    vision = read_stack(state, prefix="visual_transformer", path=path)
    config = _config(state, text, vision, path)
    module = fit(
        DallePytorchClip,
        config,
        state,
        path=path,
        family=CLIP,
        theirs=lambda ours: _original(ours, text, vision),
    )
    tokenizer = find_tokenizer(source, config.text_vocab)
    return Converted(module=module, sighting=sighting, text_tokenizer=tokenizer)


def _config(
    state: dict[str, Tensor], text: StoredStack, vision: StoredStack, path: Path
) -> DallePytorchClipConfig:
    def size(name: str, number: int) -> int:
        return axis(state, name, number, path=path, family=CLIP)

    def tower(stack: StoredStack, width: int) -> Tower:
        projected = size(stack.inner(0, 0) + "to_qkv.weight", 0)
        heads = projected // (3 * HEAD_WIDTH)
        return Tower(depth=stack.depth, width=width, heads=heads, head_width=HEAD_WIDTH)

    side = _root(size("visual_pos_emb.weight", 0), "visual_pos_emb.weight", path)
    pixels = size("to_visual_embedding.weight", 1)
    config: DallePytorchClipConfig = configured(
        lambda: DallePytorchClipConfig(
            text_vocab=size("text_emb.weight", 0),
            text_tokens=size("text_pos_emb.weight", 0),
            rows=side,
            cols=side,
            patch=_root(pixels / 3, "to_visual_embedding.weight", path),
            embed_dim=size("to_text_latent.weight", 0),
            text=tower(text, size("text_emb.weight", 1)),
            vision=tower(vision, size("to_visual_embedding.weight", 0)),
        ),
        path=path,
        family=CLIP,
    )
    return config


def _root(area: float, name: str, path: Path) -> int:
    side = math.isqrt(int(area))
    if side * side != area:
        raise CheckpointError(f"{path}: {name!r} is not for square pictures of three colours")
    return side


def _original(ours: str, text: StoredStack, vision: StoredStack) -> str:
    name, _, rest = ours.partition(".")
    if name == "logit_scale":
        return "temperature"
    if name in _NAMES:
        return f"{_NAMES[name]}.{rest}"
    stack = text if name == "text_stack" else vision
    own = tuple(range(stack.depth))
    return stack.original(rest, own, own)


def _weights(source: Source) -> Weights | None:
    for weights in source.weights:
        towers = {match[1] for name in weights.state if (match := _TOWER.fullmatch(name))}
        if len(towers) == 2:
            return weights
    return None
