"""What a DALLE-pytorch model keeps between the steps of decoding."""

from dataclasses import dataclass

from torch import Tensor

from dalle.nn.cache import Cache
from dalle.nn.first_slot import FirstSlotCache
from dalle.pretrained.dalle_pytorch.config import DallePytorchConfig
from dalle.pretrained.dalle_pytorch.shift import ShiftCache


@dataclass(frozen=True, kw_only=True, slots=True)
class Decoding:
    """What is kept between steps."""

    attention: FirstSlotCache
    shift: ShiftCache | None

    @property
    def bytes_per_sample(self) -> int:
        """Memory of one more sample, in bytes; the text is shared."""
        keys = self.attention.keys.bytes_per_sample
        return keys + (self.shift.bytes_per_sample if self.shift else 0)


def new_decoding(
    config: DallePytorchConfig, *, prompts: int, samples: int, nulls: int, like: Tensor
) -> Decoding:
    """Room for what is kept of `prompts` texts with `samples` pictures each, and for those without
    a caption, in the type of `like` and where that is."""
    dtype, device = like.dtype, like.device
    keys = Cache(
        layout=config.layout,
        patterns=config.patterns,
        prompts=prompts,
        samples=samples,
        nulls=nulls,
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
            prompts=keys.prompts,
            prompt_of=keys.prompt_of,
            width=config.width,
            dtype=dtype,
        )
    return Decoding(attention=FirstSlotCache.empty(keys, width=config.width), shift=shift)
