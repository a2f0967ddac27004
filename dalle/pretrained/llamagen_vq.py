"""LlamaGen's image tokenizers VQ-8 and VQ-16: VQGANs whose codes are directions.

Source: FoundationVision/LlamaGen, tokenizer/tokenizer_image.
"""

import re
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from dalle.models.vqgan import Vqgan
from dalle.pretrained.family import Converted, Sighting, Source, Weights
from dalle.pretrained.vqgan import Layout, config_of, filled

FAMILY = "LlamaGen's image tokenizer"
LICENCE = "MIT (LlamaGen's code); none is stated for the weights"
PUBLISHED_SIZE = 256
_FIRST = "encoder.conv_blocks."
_MIDDLE = {"block_1": "0", "attn_1": "1", "block_2": "2"}


def recognise(source: Source) -> Sighting | None:
    """A file with LlamaGen's encoder and codebook."""
    found = _find(source)
    return None if found is None else _sighting(found)


def convert(source: Source) -> Converted:
    """The image tokenizer.

    Raises:
        CheckpointError: a tensor is missing, misshapen or not known.
    """
    found = _find(source)
    assert found is not None  # it was recognised
    module = from_state(found.state, path=found.path)
    return Converted(module=module, sighting=_sighting(found))


def from_state(
    state: Mapping[str, Tensor],
    *,
    path: Path,
    image_size: tuple[int, int] = (PUBLISHED_SIZE, PUBLISHED_SIZE),
) -> Vqgan:
    """The image tokenizer.

    Args:
        state: LlamaGen's keys.
        path: the file, for messages.
        image_size: (height, width) of the pictures it is used for; its weights fit any.

    Raises:
        CheckpointError: a tensor is missing, misshapen or not known.
    """
    return filled(state, _layout(state), path=path, image_size=image_size)


def _sighting(found: Weights) -> Sighting:
    config = config_of(
        found.state,
        _layout(found.state),
        path=found.path,
        image_size=(PUBLISHED_SIZE, PUBLISHED_SIZE),
    )
    return Sighting(
        family="LlamaGen",
        version=f"VQ-{config.cell}",
        holds="image tokenizer",
        sizes={"cell": config.cell, "codes": config.num_codes, "code width": config.code_width},
        licence=LICENCE,
    )


def _layout(state: Mapping[str, Tensor]) -> Layout:
    levels = {m[1] for key in state if (m := re.match(r"encoder\.conv_blocks\.(\d+)\.", key))}

    def theirs(ours: str) -> str:
        return _theirs(ours, len(levels))

    return Layout(
        family=FAMILY,
        quantizer="nearest_direction",
        theirs=theirs,
        ignorable=(r"quantize\.codebook_used",),  # what training counted
    )


def _find(source: Source) -> Weights | None:
    return next((w for w in source.weights if any(k.startswith(_FIRST) for k in w.state)), None)


def _theirs(ours: str, levels: int) -> str:
    """From taming's names: blocks are `res`, and the decoder's levels begin at the smallest."""
    parts = ours.split(".")
    if parts[1:2] == ["mid"]:
        parts[2] = _MIDDLE[parts[2]]
    elif parts[1:2] in (["down"], ["up"]):
        if parts[1] == "up":
            parts[2] = str(levels - 1 - int(parts[2]))
        parts[1] = "conv_blocks"
        if parts[3] == "block":
            parts[3] = "res"
    return ".".join(parts)
