"""How likely a model finds given pictures: ln p(picture | text), without sampling."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from dalle.models.dalle import DalleOutput
from dalle.protocols import Decoder

LOGITS_AT_ONCE = 1 << 25
PICTURES_AT_ONCE = 64
"""At most so many go through the model together, fewer where their logits are many."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LogLikelihood:
    """A caption as a reason for a picture."""

    caption: str
    log_prob: float
    """ln p(picture's codes | caption) in nats."""
    no_caption: float
    """The same without a caption: one number for each picture, so that it orders no captions."""

    @property
    def gain(self) -> float:
        """What the caption says of the picture, in nats; about 0 where it is of another one."""
        return self.log_prob - self.no_caption


@torch.inference_mode()
def code_log_probs(
    model: Decoder, texts: Shaped[Tensor, "b *slots"], codes: Int[Tensor, "b image"]
) -> Float[Tensor, "b image"]:
    """ln p(code | text, all codes before it) of every code, in nats.

    Args:
        model: a decoder that is also a module whose forward pass takes whole streams.
        texts: what the decoder reads of each picture's prompt: ids of text slots, or features.
        codes: in raster order.
    """
    logits_of_one = model.layout.image * model.image_vocab
    at_once = min(PICTURES_AT_ONCE, max(1, LOGITS_AT_ONCE // logits_of_one))
    parts = []
    for text, part in zip(texts.split(at_once), codes.split(at_once), strict=True):
        output = model(text, part)  # type: ignore[operator]
        logits = output.image if isinstance(output, DalleOutput) else output
        log_probs = torch.log_softmax(logits.float(), dim=-1)
        parts.append(log_probs.gather(2, part.unsqueeze(2)).squeeze(2))
    return torch.cat(parts)
