"""The CLIP of DALLE-pytorch: pictures and texts to vectors of one space.

Both towers are transformers in which every position sees every other, and whose outputs are
averaged.

Source: lucidrains/DALLE-pytorch, dalle_pytorch/dalle_pytorch.py.
"""

from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from dalle.errors import ConfigError, InputError
from dalle.pretrained.dalle_pytorch.layers import Stack
from dalle.pretrained.dalle_pytorch.shift import no_shift


@dataclass(frozen=True, kw_only=True, slots=True)
class Tower:
    """Sizes of one of the two transformers."""

    depth: int
    width: int
    heads: int
    head_width: int = 64

    def __post_init__(self) -> None:
        for name in ("depth", "width", "heads", "head_width"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; expected at least 1")


@dataclass(frozen=True, kw_only=True, slots=True)
class DallePytorchClipConfig:
    """Sizes of a CLIP of DALLE-pytorch."""

    text_vocab: int
    """Entries of the text tokenizer; entry 0 stands for no token."""
    text_tokens: int
    """The longest text, in tokens."""
    rows: int
    cols: int
    patch: int
    """Side of a patch of the picture, in pixels."""
    embed_dim: int
    text: Tower
    vision: Tower

    def __post_init__(self) -> None:
        for name in ("text_vocab", "text_tokens", "rows", "cols", "patch", "embed_dim"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; expected at least 1")

    @property
    def text_slots(self) -> int:
        """Of the stream of this project: the start, and the longest text."""
        return 1 + self.text_tokens

    @property
    def image_height(self) -> int:
        """In pixels."""
        return self.rows * self.patch

    @property
    def image_width(self) -> int:
        """In pixels."""
        return self.cols * self.patch


class DallePytorchClip(nn.Module):
    """Vectors of length 1, which are near each other where picture and text belong together."""

    def __init__(self, config: DallePytorchClipConfig) -> None:
        super().__init__()
        self.config = config
        text, vision = config.text, config.vision
        self.text_embedding = nn.Embedding(config.text_vocab, text.width)
        self.text_position = nn.Embedding(config.text_tokens, text.width)
        self.text_stack = _stack(text)
        self.text_latent = nn.Linear(text.width, config.embed_dim, bias=False)
        self.patches = nn.Linear(3 * config.patch**2, vision.width)
        self.patch_position = nn.Embedding(config.rows * config.cols, vision.width)
        self.vision_stack = _stack(vision)
        self.vision_latent = nn.Linear(vision.width, config.embed_dim, bias=False)
        self.logit_scale = nn.Parameter(torch.ones(()))
        """ln of what multiplies the cosine in training."""

    def encode_text(self, tokens: Int[Tensor, "n slots"]) -> Float[Tensor, "n e"]:
        """Unit vectors of texts in the stream of this project: start, tokens, pads.

        Places without a token count as others do, as they did where DALLE-pytorch ranks pictures.
        """
        ids = tokens[:, 1:]
        return self.encode_ids(ids.masked_fill(ids > self.config.text_vocab, 0), None)

    def encode_ids(
        self, ids: Int[Tensor, "n t"], real: Bool[Tensor, "n t"] | None
    ) -> Float[Tensor, "n e"]:
        """Unit vectors of texts whose ids are 0 where there is no token.

        Args:
            real: the places that are looked at and averaged; None: all of them.
        """
        x = self.text_embedding(ids) + self.text_position.weight[: ids.shape[1]]
        hidden = _run(self.text_stack, x, real)
        if real is None:
            mean = hidden.mean(dim=1)
        else:
            mean = (hidden * real.unsqueeze(-1)).sum(dim=1) / real.sum(dim=1, keepdim=True)
        return F.normalize(self.text_latent(mean), dim=-1)

    def encode_image(self, images: Float[Tensor, "n 3 height width"]) -> Float[Tensor, "n e"]:
        """Unit vectors of pictures in [0, 1].

        Raises:
            InputError: they have another size than the model.
        """
        size = (self.config.image_height, self.config.image_width)
        if tuple(images.shape[2:]) != size:
            raise InputError(
                f"pictures of {images.shape[2]} x {images.shape[3]} pixels (height x width) came "
                f"to a CLIP for {size[0]} x {size[1]}; resize them first"
            )
        p = self.config.patch
        cells = rearrange(images, "n c (r p) (q s) -> n (r q) (p s c)", p=p, s=p)
        x = self.patches(cells) + self.patch_position.weight
        return F.normalize(self.vision_latent(_run(self.vision_stack, x, None).mean(dim=1)), dim=-1)


def _stack(tower: Tower) -> Stack:
    own = tuple(range(tower.depth))
    return Stack(
        width=tower.width,
        heads=tower.heads,
        head_width=tower.head_width,
        attention_of=own,
        mlp_of=own,
        sandwich=False,
    )


def _run(
    stack: Stack, x: Float[Tensor, "n t d"], real: Bool[Tensor, "n t"] | None
) -> Float[Tensor, "n t d"]:
    mask = None if real is None else real[:, None, None, :]

    def attend(layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask)

    return stack(x, attend, no_shift)
