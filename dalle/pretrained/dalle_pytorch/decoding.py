"""What a DALLE-pytorch model keeps between the steps of decoding."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from dalle.nn.cache import Cache
from dalle.pretrained.dalle_pytorch.config import DallePytorchConfig
from dalle.pretrained.dalle_pytorch.shift import ShiftCache


@dataclass(frozen=True, kw_only=True, slots=True)
class Decoding:
    """What is kept between steps."""

    attention: Cache
    shift: ShiftCache | None
    first: Float[Tensor, "prompts image_vocab"]
    """Logits of the first token of the picture, which the last text slot predicts."""

    @property
    def bytes_per_sample(self) -> int:
        """Memory of one more sample, in bytes; the text is shared."""
        row = self.shift.row[:, 0] if self.shift else self.first[:0]
        return self.attention.bytes_per_sample + row.numel() * row.element_size()


def new_decoding(
    config: DallePytorchConfig, *, prompts: int, samples: int, like: Tensor
) -> Decoding:
    """Room for what is kept of `prompts` texts with `samples` pictures each, in the type of
    `like` and where that is."""
    dtype, device = like.dtype, like.device
    attention = Cache(
        layout=config.layout,
        patterns=config.patterns,
        prompts=prompts,
        samples=samples,
        heads=config.heads,
        head_width=config.head_width,
        dtype=dtype,
        device=device,
    )
    shift = None
    if config.token_shift:
        shift = ShiftCache(
            layout=config.layout,
            branches=2 * len(config.attention),
            prompts=prompts,
            samples=samples,
            width=config.width,
            dtype=dtype,
            device=device,
        )
    first = torch.zeros(prompts, config.image_vocab, device=device)
    return Decoding(attention=attention, shift=shift, first=first)
