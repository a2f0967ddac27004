"""The discrete VAE: a picture as a grid of codes, and back.

Source: arXiv 2102.12092, section 2.1 and appendix A; openai/DALL-E for every layer.
"""

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from dalle.errors import ConfigError
from dalle.nn.convs import Conv, DecoderBlock, EncoderBlock, Float32Conv
from dalle.nn.likelihood import logit_laplace_nll, map_pixels, unmap_pixels
from dalle.nn.quantize import gumbel_softmax

Likelihood = Literal["logit_laplace", "mse"]
MAX_GROUPS = 16
"""Each doubles the width."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DvaeConfig:
    """Sizes of a discrete VAE; the defaults are the published ones."""

    image_height: int = 256
    image_width: int = 256
    num_codes: int = 8192
    hidden: int = 256
    """Channels of the first group; each further group of the encoder has twice as many."""
    groups: int = 4
    blocks: int = 2
    """Residual blocks in each group."""
    downsampling: int = 8
    """Pixels on a side of a grid cell: a power of 2, halved after each of the first groups, but
    not after the last: the decoder would paint 2 x 2 pixels alike."""
    embed_dim: int = 128
    """Channels after the decoder's first layer, which is the codebook."""
    likelihood: Likelihood = "logit_laplace"

    def __post_init__(self) -> None:
        for name in ("num_codes", "hidden", "groups", "blocks", "embed_dim"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; expected at least 1")
        if self.hidden % 4:
            raise ConfigError(
                f"hidden is {self.hidden}; expected a multiple of 4, as blocks are "
                "a quarter as wide inside"
            )
        if self.groups > MAX_GROUPS:
            raise ConfigError(f"groups is {self.groups}; expected at most {MAX_GROUPS}")
        factors = [2**n for n in range(self.groups)]
        if self.downsampling not in factors:
            raise ConfigError(
                f"downsampling is {self.downsampling}; with {self.groups} groups it can be "
                f"{', '.join(map(str, factors))}; more groups allow more"
            )
        if self.likelihood not in get_args(Likelihood):
            raise ConfigError(
                f"likelihood is {self.likelihood!r}; expected one of {get_args(Likelihood)}"
            )
        for name in ("image_height", "image_width"):
            size = getattr(self, name)
            if size < 1 or size % self.downsampling:
                nearest = max(1, round(size / self.downsampling)) * self.downsampling
                raise ConfigError(
                    f"{name} is {size}, no multiple of the downsampling {self.downsampling}; "
                    f"take {nearest}"
                )

    @property
    def grid(self) -> tuple[int, int]:
        """(rows, cols) of codes."""
        return self.image_height // self.downsampling, self.image_width // self.downsampling

    @property
    def poolings(self) -> int:
        """After how many groups the encoder halves the picture."""
        return self.downsampling.bit_length() - 1

    @property
    def gain(self) -> float:
        """Of every residual path: 1 / (number of blocks)^2."""
        return 1 / (self.groups * self.blocks) ** 2


@dataclass(frozen=True, slots=True)
class DvaeOutput:
    """What a picture became on its way through the relaxed codes."""

    logits: Float[Tensor, "b codes rows cols"]
    """Of the posterior over codes, float32."""
    decoded: Float[Tensor, "b 6 height width"]
    """Mean and ln scale of each colour, float32."""


class Dvae(nn.Module):
    """Encoder and decoder; pictures go in and come out as floats in [0, 1].

    In mixed precision the encoder's last and the decoder's first layer stay in float32.
    """

    def __init__(self, config: DvaeConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = _encoder(config)
        self.decoder = _decoder(config)

    def encode_logits(
        self, images: Float[Tensor, "b 3 height width"]
    ) -> Float[Tensor, "b codes rows cols"]:
        """Logits of the posterior over codes of each cell, float32; the code is their argmax."""
        inputs = map_images(images, self.config.likelihood)
        if inputs.device.type == "cpu":
            # Half the time of a training step in bfloat16; the layers follow their input's format.
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        return self.encoder(inputs)

    def decode(
        self, relaxed: Float[Tensor, "b codes rows cols"]
    ) -> Float[Tensor, "b 6 height width"]:
        """Mean and ln scale of the pixels from one-hot or relaxed one-hot codes, float32."""
        return self.decoder(relaxed).float()

    def decode_codes(self, codes: Int[Tensor, "b rows cols"]) -> Float[Tensor, "b 6 height width"]:
        """The same as `decode` of the one-hot codes, which are never made: a lookup."""
        first = self.decoder[0]
        assert isinstance(first, Float32Conv)
        embedded = F.embedding(codes, first.weight.flatten(1).t()).float() + first.bias
        return self.decoder[1:](embedded.movedim(-1, 1)).float()

    def pixels(
        self, decoded: Float[Tensor, "b 6 height width"]
    ) -> Float[Tensor, "b 3 height width"]:
        """The picture that a decoder's output means, in [0, 1]."""
        mean = decoded[:, :3]
        if self.config.likelihood == "mse":
            return ((mean + 1) / 2).clamp(0, 1)
        return unmap_pixels(torch.sigmoid(mean))

    @property
    def vocab_size(self) -> int:
        """How many codes there are."""
        return self.config.num_codes

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.config.image_height, self.config.image_width

    @property
    def grid(self) -> tuple[int, int]:
        """(rows, cols) of codes."""
        return self.config.grid

    def codes_of(self, images: Float[Tensor, "b 3 height width"]) -> Int[Tensor, "b rows cols"]:
        """The most likely code of each cell, from pictures in [0, 1]."""
        return self.encode_logits(images).argmax(dim=1)

    def pictures_of(self, codes: Int[Tensor, "b rows cols"]) -> Float[Tensor, "b 3 height width"]:
        """Pictures in [0, 1] from codes."""
        return self.pixels(self.decode_codes(codes))

    def pictures_of_shares(
        self, shares: Float[Tensor, "b codes rows cols"]
    ) -> Float[Tensor, "b 3 height width"]:
        """Pictures in [0, 1] from the share of each code in every cell; gradients flow through."""
        return self.pixels(self.decode(shares))

    def forward(self, images: Float[Tensor, "b 3 height width"], temperature: float) -> DvaeOutput:
        """A picture through relaxed codes: the training pass.

        Args:
            images: in [0, 1].
            temperature: of the Gumbel-softmax, above 0.
        """
        logits = self.encode_logits(images)
        return DvaeOutput(logits, self.decode(gumbel_softmax(logits, temperature)))


def _encoder(config: DvaeConfig) -> nn.Sequential:
    layers: list[nn.Module] = [Conv(3, config.hidden, 7)]
    width = config.hidden
    for group in range(config.groups):
        outputs = config.hidden * 2**group
        for _ in range(config.blocks):
            layers.append(EncoderBlock(width, outputs, gain=config.gain))
            width = outputs
        if group < config.poolings:
            layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers, nn.ReLU(), Float32Conv(width, config.num_codes))


class _Decoder(nn.Sequential):
    """The layers in their order; each upsampling is left to the block after it."""

    def forward(self, x: Float[Tensor, "b c rows cols"]) -> Float[Tensor, "b 6 height width"]:
        upsample = None
        for layer in self:
            if isinstance(layer, nn.Upsample):
                upsample = layer
            elif upsample is not None and isinstance(layer, DecoderBlock):
                x, upsample = layer.upsampled(x, upsample), None
            else:
                x = layer(x)
        return x


def _decoder(config: DvaeConfig) -> _Decoder:
    layers: list[nn.Module] = [Float32Conv(config.num_codes, config.embed_dim)]
    width = config.embed_dim
    for group in range(config.groups):
        outputs = config.hidden * 2 ** (config.groups - 1 - group)
        for _ in range(config.blocks):
            layers.append(DecoderBlock(width, outputs, gain=config.gain))
            width = outputs
        if group < config.poolings:
            layers.append(nn.Upsample(scale_factor=2, mode="nearest"))
    return _Decoder(*layers, nn.ReLU(), Conv(width, 6, 1))


def map_images(images: Float[Tensor, "*shape"], likelihood: Likelihood) -> Float[Tensor, "*shape"]:
    """[0, 1] to the scale on which the model sees pictures and their likelihood is taken."""
    return 2 * images - 1 if likelihood == "mse" else map_pixels(images)


def reconstruction_nll(
    images: Float[Tensor, "b 3 height width"],
    decoded: Float[Tensor, "b 6 height width"],
    likelihood: Likelihood,
) -> Float[Tensor, "b 3 height width"]:
    """Loss of each sub-pixel: nats, or the squared error on the scale -1 ... 1."""
    target = map_images(images, likelihood)
    mean, log_scale = decoded[:, :3], decoded[:, 3:]
    if likelihood == "mse":
        return (mean - target) ** 2
    return logit_laplace_nll(target, mean, log_scale)


def psnr(
    images: Float[Tensor, "b 3 height width"], reconstructed: Float[Tensor, "b 3 height width"]
) -> Float[Tensor, " b"]:
    """Peak signal-to-noise ratio of each picture, in dB, for pixels in [0, 1]."""
    error = ((images - reconstructed) ** 2).mean(dim=(1, 2, 3)).clamp(min=1e-10)
    return -10 / math.log(10) * error.log()
