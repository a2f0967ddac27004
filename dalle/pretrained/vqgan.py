"""VQGANs from the names and shapes of their tensors, which say all but the size of pictures."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from dalle.models.vqgan import Quantizer, Vqgan, VqganConfig
from dalle.pretrained.family import agreed_size, configured, fit

MAX_COUNT = 64
"""Of levels, and of blocks in a level."""
_CODEBOOK = "quantize.embedding.weight"
_GUMBEL_CODEBOOK = "quantize.embed.weight"
_TRAINING = (r"loss\..*",)
"""LPIPS and the discriminator."""
_WAVELETS = "decoder.decoder."
_UNUSED_WITH_WAVELETS = (r"post_quant_conv\..*", r"decoder\.idwt\.g[01]_(row|col)")
"""A second copy that is not used, and the filters of the Haar wavelet, which are constants."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """How a project calls the parts of its VQGAN."""

    family: str
    """For messages."""
    quantizer: Quantizer = "nearest"
    codebook: str = _CODEBOOK
    """The tensor with a row for each code."""
    theirs: Callable[[str], str] = str
    """From taming's names to those in the file."""
    ignorable: tuple[str, ...] = _TRAINING
    """Patterns of names that are passed over."""
    wavelets: bool = False


def from_state(
    state: Mapping[str, Tensor],
    *,
    path: Path,
    family: str = "a VQGAN",
    image_size: tuple[int, int] = (256, 256),
) -> Vqgan:
    """A VQGAN or Gumbel-VQGAN in taming's layout, with ru-DALL·E's wavelet decoder too.

    Args:
        state: taming's keys, all of them with `model.` before or none.
        path: the file, for messages.
        family: for messages.
        image_size: (height, width) of the pictures that its encoder reads; its weights fit any.

    Raises:
        CheckpointError: a tensor is missing, misshapen or not known.
    """
    state = without_prefix(state)
    return filled(state, taming_layout(state, family), path=path, image_size=image_size)


def without_prefix(state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """The state without the `model.` that DALLE-pytorch and ru-DALL·E put before every key."""
    if not all(key.startswith("model.") for key in state):
        return state
    return {key.removeprefix("model."): tensor for key, tensor in state.items()}


def has_vqgan(state: Mapping[str, Tensor]) -> bool:
    """Whether a state dict has the layers of taming's encoder."""
    names = without_prefix(state)
    starts = ("encoder.down.", "encoder.mid.", "quant_conv.")
    return all(any(name.startswith(start) for name in names) for start in starts)


def taming_layout(state: Mapping[str, Tensor], family: str) -> Layout:
    """Which of taming's and ru-DALL·E's variants a state dict is of."""
    wavelets = any(key.startswith(_WAVELETS) for key in state)
    gumbel = any(key in state for key in (_GUMBEL_CODEBOOK, "quantize.proj.weight"))
    return Layout(
        family=family,
        quantizer="gumbel" if gumbel else "nearest",
        codebook=_GUMBEL_CODEBOOK if gumbel else _CODEBOOK,
        theirs=_wavelet_name if wavelets else str,
        ignorable=_TRAINING + (_UNUSED_WITH_WAVELETS if wavelets else ()),
        wavelets=wavelets,
    )


def _wavelet_name(ours: str) -> str:
    """The decoder lies in another one, and has the convolution before it inside."""
    return f"decoder.{ours}" if re.match(r"decoder\.|post_quant_conv\.", ours) else ours


def filled(
    state: Mapping[str, Tensor], layout: Layout, *, path: Path, image_size: tuple[int, int]
) -> Vqgan:
    """A VQGAN of the sizes that its tensors have, with them in it.

    Raises:
        CheckpointError: a tensor is missing, misshapen or not known.
    """
    module = fit(
        Vqgan,
        config_of(state, layout, path=path, image_size=image_size),
        state,
        path=path,
        family=layout.family,
        theirs=layout.theirs,
        ignorable=layout.ignorable,
    )
    assert isinstance(module, Vqgan)
    return module


def config_of(
    state: Mapping[str, Tensor], layout: Layout, *, path: Path, image_size: tuple[int, int]
) -> VqganConfig:
    """The sizes that the tensors have.

    Raises:
        CheckpointError: a tensor that says them is missing.
    """

    def size(*places: tuple[str, int]) -> int:
        named = [(layout.theirs(name), axis) for name, axis in places]
        return agreed_size(state, *named, path=path, family=layout.family)

    def outputs(layer: str) -> int:
        return size(
            *((f"{layer}.{name}", 0) for name in ("conv1.weight", "conv1.bias")),
            (f"{layer}.norm2.weight", 0),
            (f"{layer}.conv2.weight", 0),
        )

    def count(prefix: str) -> int:
        there = [n for n in range(MAX_COUNT) if has(prefix.format(n))]
        return max(there, default=-1) + 1

    def has(prefix: str) -> bool:
        start = layout.theirs(prefix)
        return any(key.startswith(start) for key in state)

    levels = range(count("encoder.down.{}."))
    channels = size(
        ("encoder.conv_in.weight", 0),
        ("encoder.conv_in.bias", 0),
        ("encoder.down.0.block.0.norm1.weight", 0),
    )
    widths = [outputs(f"encoder.down.{level}.block.0") for level in levels]
    latent = size(
        ("encoder.conv_out.weight", 0),
        ("encoder.conv_out.bias", 0),
        ("decoder.conv_in.weight", 1),
    )
    code_width = size((layout.codebook, 1), ("quant_conv.weight", 0), ("quant_conv.bias", 0))
    return configured(
        lambda: VqganConfig(
            image_height=image_size[0] << layout.wavelets,
            image_width=image_size[1] << layout.wavelets,
            num_codes=size(
                (layout.codebook, 0), ("quantize.proj.weight", 0), ("quantize.proj.bias", 0)
            ),
            code_width=code_width,
            channels=channels,
            multipliers=tuple(width // max(1, channels) for width in widths),
            blocks=count("encoder.down.0.block.{}."),
            attention=tuple(n for n in levels if has(f"encoder.down.{n}.attn.")),
            latent=latent,
            quantizer=layout.quantizer,
            wavelets=layout.wavelets,
        ),
        path=path,
        family=layout.family,
    )
