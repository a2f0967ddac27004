"""Pictures to grids of codes and back."""

from typing import Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from dalle.errors import InputError
from dalle.models.dvae import Dvae


class Codec(Protocol):
    """A model of pictures as codes; pictures are floats in [0, 1]."""

    @property
    def vocab_size(self) -> int: ...

    @property
    def image_size(self) -> tuple[int, int]: ...

    @property
    def grid(self) -> tuple[int, int]: ...

    def codes_of(self, images: Float[Tensor, "b 3 height width"]) -> Int[Tensor, "b rows cols"]: ...

    def pictures_of(
        self, codes: Int[Tensor, "b rows cols"]
    ) -> Float[Tensor, "b 3 height width"]: ...


class ModelTokenizer:
    """An `ImageTokenizer` over any model of pictures as codes: no noise, a few pictures at a time.

    Source: arXiv 2102.12092, section 2.2 (argmax codes); openai/DALL-E, usage notebook.
    """

    def __init__(self, model: nn.Module, *, chunk: int = 8) -> None:
        """Args:
        model: a `Codec`; where its weights are, pictures and codes must be too.
        chunk: pictures that go through it at once.
        """
        self.model = model.eval().requires_grad_(False)
        self.chunk = chunk
        codec: Codec = model  # type: ignore[assignment]
        self._codec = codec
        self.vocab_size = codec.vocab_size
        self.image_size = codec.image_size
        self.grid = codec.grid

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
        parts = [self._codec.codes_of(part) for part in images.split(self.chunk)]
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
        parts = [self._codec.pictures_of(part) for part in codes.split(self.chunk)]
        height, width = self.image_size
        return torch.cat(parts) if parts else torch.zeros(0, 3, height, width, device=codes.device)


def tokenizer_of(model: nn.Module) -> ModelTokenizer:
    """The image tokenizer over a model that was loaded from a folder."""
    return DvaeTokenizer(model) if isinstance(model, Dvae) else ModelTokenizer(model)


class DvaeTokenizer(ModelTokenizer):
    """An `ImageTokenizer` over a discrete VAE, which takes more pictures at once."""

    def __init__(self, dvae: Dvae, *, chunk: int = 64) -> None:
        super().__init__(dvae, chunk=chunk)
        self.dvae = dvae
