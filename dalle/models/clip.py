"""CLIP: one vector for a picture, one for a text, near each other when they belong together."""

import math
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from dalle.errors import ConfigError, InputError
from dalle.models.clip_encoder import Encoder, gelu

INITIAL_LOGIT_SCALE = math.log(1 / 0.07)
HIGHEST_LOGIT_SCALE = math.log(100.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class TowerConfig:
    """The size of one transformer encoder."""

    width: int = 128
    depth: int = 2
    """Blocks; 0 only where the config of the whole says so."""
    heads: int = 2

    def __post_init__(self) -> None:
        _require_positive("width", self.width)
        _require_positive("heads", self.heads)
        if self.width % self.heads:
            raise ConfigError(
                f"a tower of width {self.width} cannot be split over {self.heads} heads; "
                "choose a width that is a multiple of the heads"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class ClipConfig:
    """Everything that a CLIP is built from."""

    image_height: int
    """In pixels; a multiple of the pixels that one position sees."""
    image_width: int
    text_vocab: int
    """Entries of the text tokenizer, without start and pads."""
    text_slots: int
    """Slots of the text stream: the start and at most `text_slots - 1` tokens."""
    embed_dim: int = 64
    stem: tuple[int, ...] = (16, 32)
    """Channels of the convolutions before the patches, each of which halves the picture; empty
    for the plain vision transformer."""
    patch: int = 2
    """The side of a patch of the stem's output; one patch is one position."""
    readout: Literal["flat", "summary"] = "summary"
    """How the positions become one vector. "summary": read at a position of its own, which needs
    a transformer over them. "flat": all of them through one MLP, in which every place has weights
    of its own, with or without a transformer before; on small pictures it learns places soonest."""
    text_kernel: int = 1
    """So many neighbouring tokens a convolution mixes before the text's transformer; 1 is none.
    It makes one thing of "a small red circle" at once, where a transformer with learned positions
    has to find out first that neighbours belong together, and may not in a short training."""
    vision: TowerConfig = field(default_factory=TowerConfig)
    """Its depth may be 0 with the readout "flat"."""
    text: TowerConfig = field(default_factory=TowerConfig)

    def __post_init__(self) -> None:
        for name in ("image_height", "image_width", "text_vocab", "embed_dim", "patch"):
            _require_positive(name, getattr(self, name))
        for channels in self.stem:
            _require_positive("stem", channels)
        if self.text_kernel < 1 or self.text_kernel % 2 == 0:
            raise ConfigError(
                f"text_kernel is {self.text_kernel}; expected an odd number of at least 1"
            )
        if self.text_slots < 2:
            raise ConfigError(
                f"text_slots is {self.text_slots}; a start and a token need at least 2"
            )
        for name, least in (("text", 1), ("vision", 0 if self.readout == "flat" else 1)):
            if getattr(self, name).depth < least:
                raise ConfigError(
                    f"{name}.depth is {getattr(self, name).depth}; expected at least {least} with "
                    f"the readout {self.readout!r}"
                )
        for name in ("image_height", "image_width"):
            if getattr(self, name) % self.position_pixels:
                raise ConfigError(
                    f"{name} is {getattr(self, name)}, which {self.position_pixels} "
                    "(2 for each layer of the stem, times the patch) does not divide; choose a "
                    "multiple, another stem or another patch"
                )

    @property
    def position_pixels(self) -> int:
        """The side in pixels of what one position of the vision tower stands for."""
        return self.patch * 2 ** len(self.stem)

    @property
    def grid(self) -> tuple[int, int]:
        """(rows, cols) of the vision tower's positions."""
        return self.image_height // self.position_pixels, self.image_width // self.position_pixels


@dataclass(frozen=True, kw_only=True, slots=True)
class ClipOutput:
    """Features of pictures and texts, and how sharply their similarity is to be read."""

    image_features: Float[Tensor, "b e"]
    """Of unit length, float32."""
    text_features: Float[Tensor, "n e"]
    """Of unit length, float32."""
    logit_scale: Float[Tensor, ""]
    """What cosines are multiplied with to be logits, at most 100."""


class Clip(nn.Module):
    """A dual encoder of pictures and texts.

    Pictures go through convolutions, patches and a transformer, texts through a transformer
    without causality, read at the start. Nothing is averaged over places, which would lose what
    stands where.

    Source: arXiv 2103.00020, sections 2.4 and 2.5; the stem: arXiv 2106.14881.
    """

    def __init__(self, config: ClipConfig) -> None:
        super().__init__()
        self.config = config
        self.vision = VisionTower(config)
        self.text = TextTower(config)
        # One axis, because neither FSDP2 nor DeepSpeed divides a number without any.
        self.logit_scale = nn.Parameter(torch.tensor([INITIAL_LOGIT_SCALE]))
        self.register_load_state_dict_pre_hook(_accept_bare_scale)

    def encode_image(self, images: Float[Tensor, "b 3 height width"]) -> Float[Tensor, "b e"]:
        """Unit vectors of pictures in [0, 1] of the config's height and width."""
        return F.normalize(self.vision(images).float(), dim=-1)

    def encode_text(self, tokens: Int[Tensor, "n text"]) -> Float[Tensor, "n e"]:
        """Unit vectors of text streams: start, tokens, pads; at most `text_slots` of them.

        What stands in the pad slots, and how many there are, changes nothing.
        """
        return F.normalize(self.text(tokens).float(), dim=-1)

    def forward(
        self, images: Float[Tensor, "b 3 height width"], tokens: Int[Tensor, "n text"]
    ) -> ClipOutput:
        """Both sides at once; there may be more texts than pictures, or fewer."""
        return ClipOutput(
            image_features=self.encode_image(images),
            text_features=self.encode_text(tokens),
            logit_scale=self.logit_scale.float().clamp(max=HIGHEST_LOGIT_SCALE).exp().squeeze(0),
        )


class VisionTower(nn.Module):
    """Pictures to vectors of the shared space."""

    def __init__(self, config: ClipConfig) -> None:
        super().__init__()
        self.config = config
        width, num_cells = config.vision.width, math.prod(config.grid)
        self.stem = _stem(config.stem)
        self.patches = nn.Conv2d(
            (3, *config.stem)[-1], width, kernel_size=config.patch, stride=config.patch
        )
        self.positions = nn.Parameter(torch.randn(num_cells, width) * width**-0.5)
        self.encoder = Encoder(width, heads=config.vision.heads, depth=config.vision.depth)
        if config.readout == "summary":
            self.summary = nn.Parameter(torch.randn(width) * width**-0.5)
            self.project = _projection(width, config.embed_dim)
        else:
            self.mlp_in = nn.Linear(num_cells * width, 4 * width)
            self.project = _projection(4 * width, config.embed_dim)

    def forward(self, images: Float[Tensor, "b 3 height width"]) -> Float[Tensor, "b e"]:
        size = (self.config.image_height, self.config.image_width)
        if tuple(images.shape[2:]) != size:
            raise InputError(
                f"pictures of {images.shape[2]} x {images.shape[3]} pixels (height x width) came "
                f"to a CLIP for {size[0]} x {size[1]}; resize them first"
            )
        cells = self.patches(self.stem(images * 2 - 1))
        stream = rearrange(cells, "b d rows cols -> b (rows cols) d") + self.positions
        if self.config.readout == "summary":
            summary = self.summary.to(stream.dtype).expand(len(stream), 1, -1)
            first = self.encoder.read_first(torch.cat([summary, stream], dim=1), None)
            return self.project(first)
        everywhere = rearrange(self.encoder(stream, None), "b t d -> b (t d)")
        return self.project(gelu(self.mlp_in(everywhere)))


class TextTower(nn.Module):
    """Text streams to vectors of the shared space."""

    def __init__(self, config: ClipConfig) -> None:
        super().__init__()
        width = config.text.width
        self.start = config.text_vocab
        self.embedding = nn.Embedding(config.text_vocab + 1, width)
        nn.init.normal_(self.embedding.weight, std=0.02)
        self.mix = (
            nn.Conv1d(width, width, config.text_kernel, padding="same")
            if config.text_kernel > 1
            else None
        )
        self.positions = nn.Parameter(torch.randn(config.text_slots, width) * 0.01)
        self.encoder = Encoder(width, heads=config.text.heads, depth=config.text.depth)
        self.project = _projection(width, config.embed_dim)

    def forward(self, tokens: Int[Tensor, "n text"]) -> Float[Tensor, "n e"]:
        if tokens.shape[1] > len(self.positions):
            raise InputError(
                f"a text of {tokens.shape[1]} slots came to a CLIP with {len(self.positions)}; "
                "cut it first"
            )
        real = tokens <= self.start
        embedded = self.embedding(tokens.clamp(max=self.start))
        if self.mix is not None:
            # Beyond the last token there are zeros, whether pads stand there or nothing.
            embedded = embedded * real.unsqueeze(-1)
            embedded = embedded + gelu(self.mix(embedded.mT).mT)
        stream = embedded + self.positions[: tokens.shape[1]]
        return self.project(self.encoder.read_first(stream, real))


def _accept_bare_scale(
    module: nn.Module, state_dict: dict[str, Any], prefix: str, *more: object
) -> None:
    """Earlier files hold the scale without an axis."""
    name = f"{prefix}logit_scale"
    if name in state_dict:
        state_dict[name] = state_dict[name].reshape(1)


def _stem(channels: tuple[int, ...]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for before, after in zip((3, *channels), channels, strict=False):
        convolution = nn.Conv2d(before, after, kernel_size=3, stride=2, padding=1)
        layers += [convolution, nn.GELU(approximate="tanh")]
    return nn.Sequential(*layers)


def _projection(width: int, embed_dim: int) -> nn.Linear:
    layer = nn.Linear(width, embed_dim, bias=False)
    nn.init.normal_(layer.weight, std=width**-0.5)
    return layer


def _require_positive(name: str, value: int) -> None:
    if value < 1:
        raise ConfigError(f"{name} is {value}; expected a whole number of at least 1")
