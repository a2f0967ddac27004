"""What training a decoder on captioned pictures minimises, and how those are varied."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dalle.errors import ConfigError
from dalle.tokenizers.slots import LongCaptions


@dataclass(frozen=True, kw_only=True, slots=True)
class DalleObjective:
    """What is minimised, and how captions and pictures are varied; defaults as published."""

    text_weight: float = 1 / 8
    """Share of the text's loss; the image's is the rest."""
    bpe_dropout: float = 0.1
    """Share of the merges that are left out in training, by our own text tokenizer."""
    caption_dropout: float = 0.1
    """Share of the captions that are dropped, so that the model can be guided. Not published."""
    caption_order: float = 0.0
    """Share of the captioned samples whose picture comes first and whose caption is learned from
    it, for a model of both orders. Not published."""
    caption_weight: float | None = None
    """Of such a caption's loss; None: the text's, so that a token of either weighs alike."""
    long_captions: LongCaptions = "cut"
    augment: bool = True
    """The paper's crops; without it the centre of the picture."""

    def __post_init__(self) -> None:
        for name in ("text_weight", "bpe_dropout", "caption_dropout", "caption_weight"):
            value = getattr(self, name)
            if value is not None and not 0.0 <= value <= 1.0:
                raise ConfigError(f"{name} is {value}; expected 0 ... 1")
        if not 0.0 <= self.caption_order < 1.0:
            raise ConfigError(f"caption_order is {self.caption_order}; expected 0 <= share < 1")

    def total(self, losses: Mapping[str, Any]) -> Any:
        """The means of text, image and, with a caption order, caption, in one."""
        total = (
            self.text_weight * losses["loss_text"] + (1.0 - self.text_weight) * losses["loss_image"]
        )
        if self.caption_order > 0.0:
            weight = self.text_weight if self.caption_weight is None else self.caption_weight
            caption = weight * losses["loss_caption"]
            total = (1.0 - self.caption_order) * total + self.caption_order * caption
        return total
