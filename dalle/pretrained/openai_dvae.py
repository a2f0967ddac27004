"""OpenAI's discrete VAE: its parameters under our names.

The published files are two pickled modules, encoder and decoder; what is converted here are their
state dicts. Source: openai/DALL-E; facts of each layer as in `models.dvae`.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from dalle.errors import CheckpointError, ConfigError
from dalle.models.dvae import Dvae, DvaeConfig

_BLOCK = re.compile(r"blocks\.group_(\d+)\.block_(\d+)\.(id_path|res_path\.conv_(\d+))\.([wb])")
_ENDS = {"blocks.input": 0, "blocks.output.conv": -1}
_PARAMETERS = {"w": "weight", "b": "bias"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Converted:
    """A discrete VAE of another project, ready to be built and filled."""

    config: DvaeConfig
    state: dict[str, Tensor]
    """For `Dvae.load_state_dict`, strictly."""


def convert(
    encoder: Mapping[str, Tensor], decoder: Mapping[str, Tensor], *, image_size: int = 256
) -> Converted:
    """Read sizes from the shapes, and rename every parameter.

    Args:
        encoder: state dict of OpenAI's encoder, keys such as `blocks.group_1.block_1.id_path.w`.
        decoder: state dict of OpenAI's decoder.
        image_size: side in pixels of the pictures it is used for; its weights fit any.

    Raises:
        CheckpointError: keys or shapes are not those of OpenAI's model.
    """
    groups, blocks = _count_blocks(encoder)
    try:
        config = DvaeConfig(
            image_height=image_size,
            image_width=image_size,
            num_codes=_outputs(encoder, "blocks.output.conv.w"),
            hidden=_outputs(encoder, "blocks.input.w"),
            groups=groups,
            blocks=blocks,
            downsampling=2 ** (groups - 1),
            embed_dim=_outputs(decoder, "blocks.input.w"),
        )
    except ConfigError as error:
        raise CheckpointError(f"this is not OpenAI's discrete VAE: {error}") from None
    state = {}
    for side, source in (("encoder", encoder), ("decoder", decoder)):
        for key, tensor in source.items():
            state[f"{side}.{_rename(key, config)}"] = tensor
    _check(state, config)
    return Converted(config=config, state=state)


def _outputs(state: Mapping[str, Tensor], key: str) -> int:
    if key not in state or state[key].ndim != 4:
        raise CheckpointError(
            f"{key} is missing or no convolution: this is not the state dict of OpenAI's discrete "
            "VAE"
        )
    return state[key].shape[0]


def _count_blocks(encoder: Mapping[str, Tensor]) -> tuple[int, int]:
    """How many groups, and blocks in each, as far as there are keys for them all."""
    places = {(m[1], m[2]) for key in encoder if (m := _BLOCK.fullmatch(key))}
    groups = {group for group, _ in places}
    if not groups or len(places) % len(groups):
        raise CheckpointError(
            "the keys do not read blocks.group_1.block_1... with as many blocks in each group: "
            "this is not the encoder of OpenAI's discrete VAE"
        )
    return len(groups), len(places) // len(groups)


def _rename(key: str, config: DvaeConfig) -> str:
    """`blocks.group_2.block_1.res_path.conv_3.w` to `5.path.2.weight`, by its place in our stack:
    first layer, then in each group its blocks and, but for the last, the change of resolution."""
    last = 1 + config.groups * config.blocks + config.poolings + 1  # after the ReLU
    for name, place in _ENDS.items():
        if key in (f"{name}.w", f"{name}.b"):
            return f"{place if place == 0 else last}.{_PARAMETERS[key[-1]]}"
    match = _BLOCK.fullmatch(key)
    if match is None:
        raise CheckpointError(f"{key} is no parameter of OpenAI's discrete VAE")
    group, block, part, conv, letter = match.groups()
    place = 1 + (int(group) - 1) * (config.blocks + 1) + int(block) - 1
    inner = "skip" if part == "id_path" else f"path.{int(conv) - 1}"
    return f"{place}.{inner}.{_PARAMETERS[letter]}"


def _check(state: Mapping[str, Tensor], config: DvaeConfig) -> None:
    with torch.device("meta"):
        expected = {name: t.shape for name, t in Dvae(config).state_dict().items()}
    for name in [*expected, *(n for n in state if n not in expected)]:
        wanted, came = expected.get(name), state[name].shape if name in state else None
        if wanted != came:
            raise CheckpointError(
                f"{name} has the shape {came and tuple(came)}; OpenAI's discrete VAE of this size "
                f"has {wanted and tuple(wanted)}"
            )
