"""The discrete VAE of DALLE-pytorch, as an `ImageTokenizer`, from a `vae.pt` or a `dalle.pt`.

Strided convolutions and a few residual blocks; the codebook's vectors are what the decoder reads.
What its training took (temperature, straight-through, KL weight) is not in the file and changes no
answer.

Source: lucidrains/DALLE-pytorch, dalle_pytorch/dalle_pytorch.py.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from dalle.errors import CheckpointError, ConfigError, InputError
from dalle.pretrained.dalle_pytorch.tensors import check_tensors, shape_of

CHUNK = 64


@dataclass(frozen=True, kw_only=True, slots=True)
class DallePytorchVaeConfig:
    """Sizes of a discrete VAE of DALLE-pytorch."""

    image_height: int
    image_width: int
    channels: int = 3
    """3, or 4 for pictures with transparency."""
    num_codes: int
    codebook_width: int
    hidden: int
    layers: int
    """Each halves the picture."""
    blocks: int
    """Residual blocks at the coarsest size."""

    def __post_init__(self) -> None:
        for name in ("num_codes", "codebook_width", "hidden", "layers"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; expected at least 1")
        if self.blocks < 0:
            raise ConfigError(f"blocks is {self.blocks}; expected 0 or more")
        if self.channels not in (3, 4):
            raise ConfigError(f"channels is {self.channels}; expected 3 or 4")
        for name in ("image_height", "image_width"):
            if getattr(self, name) < 1 or getattr(self, name) % 2**self.layers:
                raise ConfigError(
                    f"{name} is {getattr(self, name)}; expected a multiple of {2**self.layers}"
                )

    @property
    def grid(self) -> tuple[int, int]:
        """(rows, cols) of codes."""
        return self.image_height >> self.layers, self.image_width >> self.layers


class DallePytorchVae(nn.Module):
    """Pictures in [0, 1] to the most likely code of each cell, and back.

    Pictures with transparency are shown over white.
    """

    def __init__(self, config: DallePytorchVaeConfig) -> None:
        super().__init__()
        self.config = config
        self.vocab_size = config.num_codes
        self.image_size = (config.image_height, config.image_width)
        self.grid = config.grid
        hidden, count = config.hidden, config.layers
        self.codebook = nn.Embedding(config.num_codes, config.codebook_width)
        widths = [config.channels] + [hidden] * (count - 1)
        self.down = nn.ModuleList(
            nn.Conv2d(inputs, hidden, 4, stride=2, padding=1) for inputs in widths
        )
        self.encoder_blocks = nn.ModuleList(Residual(hidden) for _ in range(config.blocks))
        self.to_logits = nn.Conv2d(hidden, config.num_codes, 1)
        first = config.codebook_width
        if config.blocks:
            self.from_codebook = nn.Conv2d(first, hidden, 1)
            first = hidden
        self.decoder_blocks = nn.ModuleList(Residual(hidden) for _ in range(config.blocks))
        self.up = nn.ModuleList(
            nn.ConvTranspose2d(inputs, hidden, 4, stride=2, padding=1)
            for inputs in [first] + [hidden] * (count - 1)
        )
        self.to_pixels = nn.Conv2d(hidden, config.channels, 1)

    def encode_logits(
        self, images: Float[Tensor, "b 3 height width"]
    ) -> Float[Tensor, "b codes rows cols"]:
        """Logits of the posterior over codes of each cell; the code is their argmax."""
        x = images * 2 - 1
        if self.config.channels == 4:
            x = F.pad(x, (0, 0, 0, 0, 0, 1), value=1.0)  # opaque; alpha is not moved to -1 ... 1
        for conv in self.down:
            x = F.relu(conv(x))
        for block in self.encoder_blocks:
            x = block(x)
        return self.to_logits(x)

    def decode_codes(
        self, codes: Int[Tensor, "b rows cols"]
    ) -> Float[Tensor, "b channels height width"]:
        """What the decoder makes of codes, colours around -1 ... 1."""
        x = self.codebook(codes).movedim(-1, 1)
        if self.config.blocks:
            x = self.from_codebook(x)
        for block in self.decoder_blocks:
            x = block(x)
        for conv in self.up:
            x = F.relu(conv(x))
        return self.to_pixels(x)

    @torch.no_grad()
    def encode(self, images: Float[Tensor, "b 3 height width"]) -> Int[Tensor, "b rows cols"]:
        """Codes of pictures in [0, 1].

        Raises:
            InputError: the pictures have another size than the tokenizer.
        """
        if tuple(images.shape[-2:]) != self.image_size:
            raise InputError(
                f"pictures of {tuple(images.shape[-2:])} pixels (height, width) came, the image "
                f"tokenizer takes {self.image_size}; resize them"
            )
        parts = [self.encode_logits(part).argmax(dim=1) for part in images.split(CHUNK)]
        return torch.cat(parts) if parts else images.new_zeros((0, *self.grid), dtype=torch.long)

    @torch.no_grad()
    def decode(self, codes: Int[Tensor, "b rows cols"]) -> Float[Tensor, "b 3 height width"]:
        """Pictures in [0, 1] from codes.

        Raises:
            InputError: a code is outside the codebook.
        """
        if codes.numel() and (int(codes.min()) < 0 or int(codes.max()) >= self.vocab_size):
            raise InputError(
                f"codes run from {int(codes.min())} to {int(codes.max())}; "
                f"the codebook has 0 ... {self.vocab_size - 1}"
            )
        parts = [_pixels(self.decode_codes(part)) for part in codes.split(CHUNK)]
        return torch.cat(parts) if parts else torch.zeros(0, 3, *self.image_size)


class Residual(nn.Module):
    """3x3, 3x3, 1x1, a ReLU between them, added to what came."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.path = nn.ModuleList(
            [
                nn.Conv2d(width, width, 3, padding=1),
                nn.Conv2d(width, width, 3, padding=1),
                nn.Conv2d(width, width, 1),
            ]
        )

    def forward(self, x: Float[Tensor, "b c rows cols"]) -> Float[Tensor, "b c rows cols"]:
        first, second, third = self.path
        return third(F.relu(second(F.relu(first(x))))) + x


def _pixels(decoded: Float[Tensor, "b c height width"]) -> Float[Tensor, "b 3 height width"]:
    colours = (decoded[:, :3] / 2 + 0.5).clamp(0, 1)
    if decoded.shape[1] == 3:
        return colours
    alpha = decoded[:, 3:].clamp(0, 1)
    return colours * alpha + (1 - alpha)


@dataclass(frozen=True, kw_only=True, slots=True)
class ConvertedVae:
    """A discrete VAE of DALLE-pytorch, ready to be built and filled."""

    config: DallePytorchVaeConfig
    state: dict[str, Tensor]
    """For `DallePytorchVae.load_state_dict`, strictly."""


_BLOCK = re.compile(r"(encoder|decoder)\.(\d+)\.net\.([024])\.(weight|bias)")
_STRIDED = re.compile(r"(encoder|decoder)\.(\d+)\.0\.(weight|bias)")
_PLAIN = re.compile(r"(encoder|decoder)\.(\d+)\.(weight|bias)")


def convert_vae(weights: Mapping[str, Tensor], parameters: Mapping[str, Any]) -> ConvertedVae:
    """Read sizes from the shapes, and rename every parameter.

    Args:
        weights: the `weights` of a `vae.pt`, or those of a `dalle.pt` below `vae.`.
        parameters: the `hparams` of the one or the `vae_params` of the other: the picture's size is
            nowhere else, and what they say otherwise must be what the weights say.

    Raises:
        CheckpointError: keys, shapes or parameters are not those of this model.
    """
    size = parameters.get("image_size")
    if not isinstance(size, int):
        raise CheckpointError(
            f"hparams of the discrete VAE: image_size is {size!r}; expected the side in pixels"
        )
    codes, width = shape_of(weights, "codebook.weight", axes=2)
    hidden, channels, _, _ = shape_of(weights, "encoder.0.0.weight", axes=4)
    layers = len({m[2] for key in weights if (m := _STRIDED.fullmatch(key)) and m[1] == "encoder"})
    blocks = len({m[2] for key in weights if (m := _BLOCK.fullmatch(key)) and m[1] == "encoder"})
    said = {
        "num_tokens": codes,
        "codebook_dim": width,
        "hidden_dim": hidden,
        "num_layers": layers,
        "num_resnet_blocks": blocks,
        "channels": channels,
    }
    for name, found in said.items():
        if parameters.get(name, found) != found:
            raise CheckpointError(
                f"hparams of the discrete VAE: {name} is {parameters[name]!r}, its weights are "
                f"those of {found}; the file is damaged"
            )
    try:
        config = DallePytorchVaeConfig(
            image_height=size,
            image_width=size,
            channels=channels,
            num_codes=codes,
            codebook_width=width,
            hidden=hidden,
            layers=layers,
            blocks=blocks,
        )
    except ConfigError as error:
        raise CheckpointError(f"this is no discrete VAE of DALLE-pytorch: {error}") from None
    names = {key: _rename(key, config) for key in weights}
    with torch.device("meta"):
        expected = DallePytorchVae(config).state_dict()
    check_tensors(weights, names, expected, what="a discrete VAE of DALLE-pytorch")
    return ConvertedVae(config=config, state={names[key]: t for key, t in weights.items()})


def _rename(key: str, config: DallePytorchVaeConfig) -> str:
    """`decoder.1.net.4.bias` to `decoder_blocks.0.path.2.bias`, by its place in the stack."""
    layers, blocks = config.layers, config.blocks
    if key == "codebook.weight":
        return key
    if match := _BLOCK.fullmatch(key):
        side, place, inner, kind = match.groups()
        number = int(place) - (layers if side == "encoder" else 1)
        return f"{side}_blocks.{number}.path.{int(inner) // 2}.{kind}"
    if match := _STRIDED.fullmatch(key):
        side, place, kind = match.groups()
        if side == "encoder":
            return f"down.{place}.{kind}"
        return f"up.{int(place) - blocks - (blocks > 0)}.{kind}"
    if match := _PLAIN.fullmatch(key):
        side, place, kind = match.groups()
        if side == "decoder" and place == "0" and blocks:
            return f"from_codebook.{kind}"
        last = layers + blocks + (side == "decoder" and blocks > 0)
        if int(place) == last:
            return f"{'to_logits' if side == 'encoder' else 'to_pixels'}.{kind}"
    raise CheckpointError(f"{key} is no tensor of a discrete VAE of DALLE-pytorch")
