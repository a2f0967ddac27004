"""Sizes of a VQGAN from the names and shapes of its tensors, in taming's layout."""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from torch import Tensor

from dalle.models.vqgan import Quantizer, Vqgan, VqganConfig
from dalle.pretrained.family import axis, configured, fit

IGNORABLE = (r"loss\..*",)
"""LPIPS and the discriminator, which training needed."""
_WAVELETS = "decoder.decoder."
_WAVELETS_IGNORABLE = (r"post_quant_conv\..*", r"decoder\.idwt\.g[01]_(row|col)")
"""A second copy that is not used, and the filters of the Haar wavelet, which are constants."""


def from_state(
    state: Mapping[str, Tensor],
    *,
    path: Path,
    family: str = "a VQGAN",
    image_size: tuple[int, int] = (256, 256),
) -> Vqgan:
    """A VQGAN or Gumbel-VQGAN, with ru-DALL·E's wavelet decoder too.

    Args:
        state: taming's keys, all of them with `model.` before or none.
        path: the file, for messages.
        family: for messages.
        image_size: (height, width) of the pictures that it encodes; its weights fit any.

    Raises:
        CheckpointError: a tensor is missing, misshapen or not known.
    """
    if all(key.startswith("model.") for key in state):
        state = {key.removeprefix("model."): tensor for key, tensor in state.items()}
    wavelets = any(key.startswith(_WAVELETS) for key in state)
    gumbel = "quantize.embed.weight" in state
    return filled(
        state,
        path=path,
        family=family,
        image_size=(image_size[0] << wavelets, image_size[1] << wavelets),
        codebook="quantize.embed.weight" if gumbel else "quantize.embedding.weight",
        quantizer="gumbel" if gumbel else "nearest",
        theirs=_wavelet_name if wavelets else str,
        ignorable=(*IGNORABLE, *(_WAVELETS_IGNORABLE if wavelets else ())),
        wavelets=wavelets,
    )


def _wavelet_name(ours: str) -> str:
    if ours.startswith("decoder."):
        return f"decoder.{ours}"
    return f"decoder.{ours}" if ours.startswith("post_quant_conv.") else ours


def filled(
    state: Mapping[str, Tensor],
    *,
    path: Path,
    family: str,
    image_size: tuple[int, int],
    codebook: str,
    quantizer: Quantizer,
    theirs: Callable[[str], str] = str,
    ignorable: Sequence[str] = (),
    wavelets: bool = False,
) -> Vqgan:
    """A VQGAN of the sizes that its tensors have.

    Args:
        codebook: the name of the tensor with a row for each code.
        theirs: from taming's names to those in the file.
    """

    def size(name: str, number: int = 0) -> int:
        return axis(state, theirs(name), number, path=path, family=family)

    levels = _count(state, theirs("encoder.down.{}.block.0.conv1.weight"))
    channels = size("encoder.conv_in.weight")
    config = configured(
        lambda: VqganConfig(
            image_height=image_size[0],
            image_width=image_size[1],
            num_codes=axis(state, codebook, 0, path=path, family=family),
            code_width=axis(state, codebook, 1, path=path, family=family),
            channels=channels,
            multipliers=tuple(
                size(f"encoder.down.{level}.block.0.conv1.weight") // max(1, channels)
                for level in range(levels)
            ),
            blocks=_count(state, theirs("encoder.down.0.block.{}.conv1.weight")),
            attention=tuple(
                level
                for level in range(levels)
                if theirs(f"encoder.down.{level}.attn.0.q.weight") in state
            ),
            latent=size("encoder.conv_out.weight"),
            quantizer=quantizer,
            wavelets=wavelets,
        ),
        path=path,
        family=family,
    )
    module = fit(
        Vqgan, config, state, path=path, family=family, theirs=theirs, ignorable=ignorable
    )
    assert isinstance(module, Vqgan)
    return module


def _count(state: Mapping[str, Tensor], name: str) -> int:
    """How many tensors of a name there are, numbered from 0 without a gap."""
    number = 0
    while name.format(number) in state:
        number += 1
    return number


def has_vqgan(state: Mapping[str, Tensor]) -> bool:
    """Whether a state dict has the layers of taming's encoder and a codebook."""
    names = {re.sub(r"^model\.", "", key) for key in state}
    codebooks = {"quantize.embedding.weight", "quantize.embed.weight"}
    return "encoder.down.0.block.0.conv1.weight" in names and bool(codebooks & names)
