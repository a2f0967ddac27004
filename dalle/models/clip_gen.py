"""CLIP-GEN's decoder: image tokens behind one vector of the space that pictures and texts share.

Source: arXiv 2203.00386, section 3.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from dalle.layout import StreamLayout
from dalle.models.image_decoder import ImageDecoder, ImageDecoderConfig, at_least_one


@dataclass(frozen=True, kw_only=True, slots=True)
class ClipGenConfig(ImageDecoderConfig):
    """Sizes of a CLIP-GEN decoder."""

    vector_size: int
    """Numbers in a vector of the CLIP."""
    vector_slots: int = 1
    """Slots of the stream that a vector is projected to; one as published, unCLIP has four."""

    def __post_init__(self) -> None:
        at_least_one("vector_size", self.vector_size)
        at_least_one("vector_slots", self.vector_slots)
        ImageDecoderConfig.__post_init__(self)

    @property
    def layout(self) -> StreamLayout:
        """Projected vector, then image; no text."""
        return StreamLayout(prefix=self.vector_slots, text=0, rows=self.rows, cols=self.cols)


class ClipGen(ImageDecoder):
    """The decoder: a vector of unit length and image tokens in, logits of the next token out.

    A vector of zeros stands for no condition, in whose place there is a learned one.

    Source: arXiv 2203.00386, section 3; the learned null is that of classifier-free guidance,
    arXiv 2207.12598.
    """

    def __init__(self, config: ClipGenConfig) -> None:
        super().__init__(config)
        self.config = config
        self.project = nn.Linear(config.vector_size, config.vector_slots * config.width)
        self.no_vector = nn.Parameter(torch.empty(config.vector_slots, config.width))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw new weights: a projected vector starts with the deviation of an embedding."""
        nn.init.normal_(self.project.weight, std=self.config.first_std)
        nn.init.zeros_(self.project.bias)
        nn.init.normal_(self.no_vector, std=self.config.first_std)
        self.reset_image_half(self.image_embedding)

    @property
    def text_vocab(self) -> int:
        """Numbers in a vector, which is what stands for tokens of a text."""
        return self.config.vector_size

    def no_caption(self, texts: Float[Tensor, "p e"]) -> Float[Tensor, "p e"]:
        """Vectors of zeros, which stand for none."""
        return torch.zeros_like(texts)

    def forward(
        self, vectors: Float[Tensor, "b e"], codes: Int[Tensor, "b image"]
    ) -> Float[Tensor, "b image image_vocab"]:
        """Logits of every code, given the vector and all codes before it.

        Args:
            vectors: of unit length, or zeros for no condition.
            codes: the picture's codes in raster order, 0 <= code < image_vocab.
        """
        hidden = self.run_stream(vectors, codes)
        return self.image_logits(hidden[:, self.layout.image_start :])

    def embed_condition(self, condition: Float[Tensor, "b e"]) -> Float[Tensor, "b slots d"]:
        """The vector in its slots; the learned one where it is zeros."""
        projected = self.project(condition.to(self.project.weight.dtype))
        slots = projected.unflatten(-1, self.no_vector.shape)
        is_none = (condition == 0).all(dim=-1)[:, None, None]
        return torch.where(is_none, self.no_vector.to(slots.dtype), slots)
