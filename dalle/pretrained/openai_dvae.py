"""OpenAI's discrete VAE: its parameters under our names.

The published files are two pickled modules, encoder and decoder. Source: openai/DALL-E; facts of
each layer as in `models.dvae`.
"""

import re
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from dalle.errors import CheckpointError
from dalle.models.dvae import Dvae, DvaeConfig
from dalle.pretrained.family import (
    Converted,
    Sighting,
    Source,
    Weights,
    agreed_size,
    configured,
    fit,
)

FAMILY = "OpenAI's discrete VAE"
LICENCE = "Modified MIT; asks that pictures made with it say so"
PLACES = "https://cdn.openai.com/dall-e/encoder.pkl and https://cdn.openai.com/dall-e/decoder.pkl"
PUBLISHED_SIZE = 256
_BLOCK = re.compile(r"blocks\.group_(\d+)\.block_(\d+)\.(id_path|res_path\.conv_\d+)\.[wb]")
_SECOND = "blocks.group_1.block_1.res_path.conv_1.w"
_PARAMETERS = {"weight": "w", "bias": "b"}


def recognise(source: Source) -> Sighting | None:
    """The encoder, the decoder or both, each a file."""
    encoder, decoder = _find(source)
    found = encoder or decoder
    if found is None:
        return None
    groups, blocks = _count_blocks(found.state, found.path)
    codes = encoder.state.get("blocks.output.conv.b") if encoder else None
    missing = [name for name, part in (("encoder", encoder), ("decoder", decoder)) if part is None]
    return Sighting(
        family="OpenAI",
        version="",
        holds="image tokenizer (the discrete VAE of the paper)",
        sizes={
            "groups": groups,
            "blocks": blocks,
            **({"codes": codes.numel()} if codes is not None else {}),
        },
        licence=LICENCE,
        missing=tuple(
            f"its {name}, another file of the same folder ({PLACES})" for name in missing
        ),
    )


def convert(source: Source) -> Converted:
    """The image tokenizer, of both files.

    Raises:
        CheckpointError: the other file is not beside it, or a tensor is wrong.
    """
    encoder, decoder = _find(source)
    sighting = recognise(source)
    assert sighting is not None  # it was recognised
    if encoder is None or decoder is None:
        raise CheckpointError(f"{source.path} is half of {FAMILY}: it lacks {sighting.missing[0]}")
    module = from_states(encoder.state, decoder.state, path=source.path)
    return Converted(module=module, sighting=sighting)


def from_states(
    encoder: Mapping[str, Tensor],
    decoder: Mapping[str, Tensor],
    *,
    path: Path,
    image_size: tuple[int, int] = (PUBLISHED_SIZE, PUBLISHED_SIZE),
) -> Dvae:
    """The discrete VAE of both state dicts.

    Args:
        encoder: of OpenAI's encoder, keys such as `blocks.group_1.block_1.id_path.w`.
        decoder: of OpenAI's decoder.
        path: the file, for messages.
        image_size: (height, width) of the pictures it is used for; its weights fit any.

    Raises:
        CheckpointError: a tensor is missing, misshapen or not known.
    """
    groups, blocks = _count_blocks(encoder, path)

    def outputs(state: Mapping[str, Tensor], layer: str, after: Tensor | None) -> int:
        places = ((f"{layer}.w", 0), (f"{layer}.b", 0), ("after", 1))
        seen = state if after is None else {**state, "after": after}
        return agreed_size(seen, *places, path=path, family=FAMILY)

    config = configured(
        lambda: DvaeConfig(
            image_height=image_size[0],
            image_width=image_size[1],
            num_codes=outputs(encoder, "blocks.output.conv", decoder.get("blocks.input.w")),
            hidden=outputs(encoder, "blocks.input", encoder.get(_SECOND)),
            groups=groups,
            blocks=blocks,
            downsampling=2 ** (groups - 1),
            embed_dim=outputs(decoder, "blocks.input", decoder.get(_SECOND)),
        ),
        path=path,
        family=FAMILY,
    )
    state = {f"enc.{key}": tensor for key, tensor in encoder.items()}
    state |= {f"dec.{key}": tensor for key, tensor in decoder.items()}
    module = fit(
        Dvae, config, state, path=path, family=FAMILY, theirs=lambda ours: _theirs(ours, config)
    )
    assert isinstance(module, Dvae)
    return module


def _find(source: Source) -> tuple[Weights | None, Weights | None]:
    """A block of the encoder ends in a 1x1 convolution, one of the decoder begins with it."""
    encoder = decoder = None
    for weights in source.weights:
        blocks = [n.rpartition(".conv_")[0] for n in weights.state if _BLOCK.fullmatch(n)]
        ends = [(f"{n}.conv_1.w", f"{n}.conv_4.w") for n in blocks if n]
        sizes = [tuple(_kernel(weights.state.get(name)) for name in pair) for pair in ends]
        if sizes.count((3, 1)) > len(sizes) // 2:
            encoder = encoder or weights
        elif sizes.count((1, 3)) > len(sizes) // 2:
            decoder = decoder or weights
    return encoder, decoder


def _kernel(tensor: Tensor | None) -> int:
    return 0 if tensor is None or tensor.ndim != 4 else tensor.shape[2]


def _count_blocks(state: Mapping[str, Tensor], path: Path) -> tuple[int, int]:
    """How many groups, and blocks in each, as far as there are keys for them all."""
    places = {(m[1], m[2]) for key in state if (m := _BLOCK.fullmatch(key))}
    groups = {group for group, _ in places}
    if not groups or len(places) % len(groups):
        raise CheckpointError(
            f"{path}: the keys do not read blocks.group_1.block_1... with as many blocks in each "
            f"group: this is not the encoder of {FAMILY}"
        )
    return len(groups), len(places) // len(groups)


def _theirs(ours: str, config: DvaeConfig) -> str:
    """`encoder.5.path.2.weight` to `enc.blocks.group_2.block_1.res_path.conv_3.w`, by its place in
    our stack: first layer, then in each group its blocks and, but for the last, the change of
    resolution, then a ReLU and the last layer."""
    side, place, *inner, parameter = ours.split(".")
    start, letter = f"{side[:3]}.blocks", _PARAMETERS[parameter]
    if not inner:
        return f"{start}.input.{letter}" if place == "0" else f"{start}.output.conv.{letter}"
    group, block = divmod(int(place) - 1, config.blocks + 1)
    part = "id_path" if inner == ["skip"] else f"res_path.conv_{int(inner[1]) + 1}"
    return f"{start}.group_{group + 1}.block_{block + 1}.{part}.{letter}"
