"""The discrete VAE of DALLE-pytorch.

Strided convolutions and a few residual blocks; the codebook's vectors are what the decoder reads.
What its training took (temperature, straight-through, KL weight) changes no answer.

Source: lucidrains/DALLE-pytorch, dalle_pytorch/dalle_pytorch.py.
"""

from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from dalle.errors import ConfigError


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

    def codes_of(self, images: Float[Tensor, "b 3 height width"]) -> Int[Tensor, "b rows cols"]:
        """The most likely code of each cell of pictures in [0, 1]."""
        return self.encode_logits(images).argmax(dim=1)

    def pictures_of(self, codes: Int[Tensor, "b rows cols"]) -> Float[Tensor, "b 3 height width"]:
        """Pictures in [0, 1]."""
        return _pixels(self.decode_codes(codes))


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
