"""What the runs of all our decoders say of the transformer, its condition and how it samples."""

from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True, kw_only=True, slots=True)
class DalleModel:
    """Sizes of the transformer; its grid and its codes are the discrete VAE's."""

    depth: int
    """Layers, each of attention and MLP."""
    width: int
    heads: int
    patterns: tuple[Literal["published", "row", "column", "conv", "full"], ...] = ("published",)
    """The attention of each layer, one name for each; or `published`."""
    conv_kernel: int = 11
    """Side of the conv pattern; 3 for grids below 16 x 16."""
    dropout: float = 0.0
    init_gain: float = 0.125
    """Of the first weights: the published 0.125 for long runs, about 0.5 for a few thousand
    steps."""
    embedding_std: float | None = None
    """Of the first embeddings: None as published, about 0.4 for a few thousand steps."""

    def sizes(self, *, codes: int, grid: tuple[int, int]) -> dict[str, Any]:
        """The fields of a decoder's config, but for those of what stands before the image."""
        names = tuple(name for name in self.patterns if name != "published")
        return {
            "image_vocab": codes,
            "rows": grid[0],
            "cols": grid[1],
            "depth": self.depth,
            "width": self.width,
            "heads": self.heads,
            "patterns": "published" if self.patterns == ("published",) else names,
            "conv_kernel": self.conv_kernel,
            "dropout": self.dropout,
            "init_gain": self.init_gain,
            "embedding_std": self.embedding_std,
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class ConditionSettings:
    """What the decoder is given of a picture: docs/clip-gen.md."""

    condition: Literal["text", "clip"] = "text"
    """text: its caption. clip: its vector by a frozen CLIP, and no caption is opened (CLIP-GEN);
    the rest of this group is for that."""
    condition_clip: str | None = None
    """The CLIP: a folder or run of ours, or a CLIP or SigLIP of `transformers`, as a folder or hub
    name. It goes into the model's folder. --clip is another one, which ranks."""
    vector_slots: int = 1
    """Slots of the stream that a vector is projected to."""
    xi: float = 0.0
    """Length of the noise that is added to a picture's vector of length 1 in training (LAFITE,
    whose code has 3); 0 as CLIP-GEN."""
    center: bool = False
    """Subtract the mean of pictures' vectors from those, and that of texts' from these (C3). It
    needs --center-captions."""
    center_captions: str | None = None
    """A text file with captions, one a line, of no matter what pictures, for the mean of texts'
    vectors. Without any there is only --xi against the gap."""
    condition_dropout: float = 0.1
    """Share of the vectors that a learned one stands in for, so that the model can be guided."""
    embedding_weight: float = 0.0
    """Of the loss that the vector of the predicted picture be the given one; 0, as in CLIP-GEN's
    code, leaves it out."""
    embedding_distance: Literal["cosine", "mse"] = "cosine"
    """Of that loss; mse in CLIP-GEN's code."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SamplingSettings:
    """How previews are drawn, and later pictures where nothing else is asked for."""

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    guidance: float = 1.0
    preview_prompts: tuple[str, ...] = ()
    """What previews during training show; without them, captions of held-out pictures."""
