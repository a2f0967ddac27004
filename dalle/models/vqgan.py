"""VQGAN: a picture as a grid of entries of a codebook, and back.

Source: arXiv 2012.09841; taming-transformers, ru-DALL·E, minDALL-E and LlamaGen for the layers.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from dalle.errors import ConfigError
from dalle.nn.vqgan_blocks import GROUPS, Level, Middle, from_wavelets, group_norm

Quantizer = Literal["nearest", "nearest_direction", "gumbel"]


@dataclass(frozen=True, kw_only=True, slots=True)
class VqganConfig:
    """Sizes of a VQGAN; the defaults are those of taming's f16 with 1024 codes."""

    image_height: int = 256
    """Of the pictures that go in and come out."""
    image_width: int = 256
    num_codes: int = 1024
    code_width: int = 256
    """Numbers in each entry of the codebook."""
    channels: int = 128
    multipliers: tuple[int, ...] = (1, 1, 2, 2, 4)
    """Channels of each level as multiples of `channels`, the largest pictures first; the picture
    is halved after each level but the last."""
    blocks: int = 2
    """Residual blocks of a level in the encoder; the decoder has one more."""
    attention: tuple[int, ...] = (4,)
    """The levels with attention, counted from 0."""
    latent: int = 256
    """Channels between the encoder and the codebook."""
    quantizer: Quantizer = "nearest"
    """A code is the nearest entry, the entry of the nearest direction (LlamaGen), or the largest of
    logits of its own (the Gumbel variant)."""
    wavelets: bool = False
    """The decoder gives Haar wavelets, of which a picture of twice the size is made; pictures that
    go in are halved first (ru-DALL·E)."""

    def __post_init__(self) -> None:
        for name in ("num_codes", "code_width", "channels", "blocks", "latent"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; expected at least 1")
        if not self.multipliers or min(self.multipliers) < 1 or len(self.multipliers) > 12:
            raise ConfigError(
                f"multipliers is {self.multipliers}; expected 1 to 12 numbers of at least 1"
            )
        if self.channels % GROUPS:
            raise ConfigError(f"channels is {self.channels}; expected a multiple of {GROUPS}")
        if any(not 0 <= level < len(self.multipliers) for level in self.attention):
            raise ConfigError(
                f"attention is {self.attention}; the levels are 0 to {len(self.multipliers) - 1}"
            )
        if self.quantizer not in get_args(Quantizer):
            raise ConfigError(
                f"quantizer is {self.quantizer!r}; expected one of {get_args(Quantizer)}"
            )
        for name in ("image_height", "image_width"):
            size = getattr(self, name)
            if size < 1 or size % self.cell:
                nearest = max(1, round(size / self.cell)) * self.cell
                raise ConfigError(
                    f"{name} is {size}, no multiple of {self.cell}, the pixels of a grid cell; "
                    f"take {nearest}"
                )

    @property
    def cell(self) -> int:
        """Pixels on a side of a grid cell."""
        return 2 ** (len(self.multipliers) - 1 + self.wavelets)

    @property
    def grid(self) -> tuple[int, int]:
        """(rows, cols) of codes."""
        return self.image_height // self.cell, self.image_width // self.cell


class Vqgan(nn.Module):
    """Encoder, codebook and decoder; pictures go in and come out as floats in [0, 1]."""

    def __init__(self, config: VqganConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = _Encoder(config)
        self.quant_conv = nn.Conv2d(config.latent, config.code_width, 1)
        quantizer = _QUANTIZERS[config.quantizer]
        self.quantize: _Nearest | _Gumbel = quantizer(config.num_codes, config.code_width)
        self.post_quant_conv = nn.Conv2d(config.code_width, config.latent, 1)
        self.decoder = _Decoder(config)

    @property
    def vocab_size(self) -> int:
        """Entries of the codebook."""
        return self.config.num_codes

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.config.image_height, self.config.image_width

    @property
    def grid(self) -> tuple[int, int]:
        """(rows, cols) of codes."""
        return self.config.grid

    def latents(self, images: Float[Tensor, "b 3 height width"]) -> Float[Tensor, "b c rows cols"]:
        """What is quantized, from pictures in [0, 1]."""
        if self.config.wavelets:
            images = F.avg_pool2d(images, 2)
        return self.quant_conv(self.encoder(2 * images - 1))

    def codes_of(self, images: Float[Tensor, "b 3 height width"]) -> Int[Tensor, "b rows cols"]:
        """Codes of pictures in [0, 1], without noise."""
        return self.quantize.codes(self.latents(images))

    def decode(self, codes: Int[Tensor, "b rows cols"]) -> Float[Tensor, "b 3 height width"]:
        """Pictures on the scale -1 ... 1, which they may leave."""
        return self._decode_entries(self.quantize.entries(codes).movedim(-1, 1))

    def _decode_entries(
        self, entries: Float[Tensor, "b c rows cols"]
    ) -> Float[Tensor, "b 3 height width"]:
        decoded = self.decoder(self.post_quant_conv(entries))
        return from_wavelets(decoded) if self.config.wavelets else decoded

    def pictures_of(self, codes: Int[Tensor, "b rows cols"]) -> Float[Tensor, "b 3 height width"]:
        """Pictures in [0, 1] from codes."""
        return ((self.decode(codes) + 1) / 2).clamp(0, 1)

    def pictures_of_shares(
        self, shares: Float[Tensor, "b codes rows cols"]
    ) -> Float[Tensor, "b 3 height width"]:
        """Pictures in [0, 1] from the share of each code in every cell; gradients flow through."""
        every_code = torch.arange(shares.shape[1], device=shares.device)[None, None]
        entries = self.quantize.entries(every_code)[0, 0]  # codes c
        mixed = torch.einsum("bvrk,vc->bcrk", shares, entries)
        return ((self._decode_entries(mixed) + 1) / 2).clamp(0, 1)


class _Nearest(nn.Module):
    def __init__(self, num_codes: int, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(num_codes, width)

    def codes(self, z: Float[Tensor, "b c rows cols"]) -> Int[Tensor, "b rows cols"]:
        entries = self.table()
        # |z - e|^2 without |z|^2, which is the same for all entries.
        distances = entries.square().sum(1) - 2 * F.linear(z.movedim(1, -1), entries)
        return distances.argmin(dim=-1)

    def entries(self, codes: Int[Tensor, "b rows cols"]) -> Float[Tensor, "b rows cols c"]:
        return F.embedding(codes, self.table())

    def table(self) -> Float[Tensor, "codes c"]:
        return self.embedding.weight


class _NearestDirection(_Nearest):
    """With entries of length 1 the nearest one is the one of the nearest direction."""

    def table(self) -> Float[Tensor, "codes c"]:
        return F.normalize(self.embedding.weight, dim=-1)


class _Gumbel(nn.Module):
    def __init__(self, num_codes: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(width, num_codes, 1)
        self.embed = nn.Embedding(num_codes, width)

    def codes(self, z: Float[Tensor, "b c rows cols"]) -> Int[Tensor, "b rows cols"]:
        return self.proj(z).argmax(dim=1)

    def entries(self, codes: Int[Tensor, "b rows cols"]) -> Float[Tensor, "b rows cols c"]:
        return self.embed(codes)


_QUANTIZERS: dict[str, type[_Nearest | _Gumbel]] = {
    "nearest": _Nearest,
    "nearest_direction": _NearestDirection,
    "gumbel": _Gumbel,
}


class _Encoder(nn.Module):
    def __init__(self, config: VqganConfig) -> None:
        super().__init__()
        widths = [config.channels * m for m in config.multipliers]
        self.conv_in = nn.Conv2d(3, config.channels, 3, padding=1)
        self.down = nn.ModuleList()
        for number, width in enumerate(widths):
            level = Level(
                widths[number - 1] if number else config.channels,
                width,
                blocks=config.blocks,
                attention=number in config.attention,
                resize="half" if number < len(widths) - 1 else "none",
            )
            self.down.append(level)
        self.mid = Middle(widths[-1])
        self.norm_out = group_norm(widths[-1])
        self.conv_out = nn.Conv2d(widths[-1], config.latent, 3, padding=1)

    def forward(self, x: Float[Tensor, "b 3 height width"]) -> Float[Tensor, "b c rows cols"]:
        x = self.conv_in(x)
        for level in self.down:
            x = level(x)
        x = self.mid(x)
        return self.conv_out(F.silu(self.norm_out(x)))


class _Decoder(nn.Module):
    def __init__(self, config: VqganConfig) -> None:
        super().__init__()
        widths = [config.channels * m for m in config.multipliers]
        self.conv_in = nn.Conv2d(config.latent, widths[-1], 3, padding=1)
        self.mid = Middle(widths[-1])
        self.up = nn.ModuleList()
        """The largest size first, which is run last."""
        for number, width in enumerate(widths):
            level = Level(
                widths[min(number + 1, len(widths) - 1)],
                width,
                blocks=config.blocks + 1,
                attention=number in config.attention,
                resize="double" if number > 0 else "none",
            )
            self.up.append(level)
        self.norm_out = group_norm(widths[0])
        self.conv_out = nn.Conv2d(widths[0], 12 if config.wavelets else 3, 3, padding=1)

    def forward(self, x: Float[Tensor, "b c rows cols"]) -> Float[Tensor, "b d height width"]:
        x = self.mid(self.conv_in(x))
        for level in reversed(self.up):
            x = level(x)
        return self.conv_out(F.silu(self.norm_out(x)))
