"""Pictures to grids of codes and back."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dalle.errors import InputError
from dalle.models.dvae import Dvae


class DvaeTokenizer:
    """An `ImageTokenizer` over a discrete VAE: the most likely code of each cell, no noise.

    Source: arXiv 2102.12092, section 2.2 (argmax codes); openai/DALL-E, usage notebook.
    """

    def __init__(self, dvae: Dvae, *, chunk: int = 64) -> None:
        """Args:
        dvae: where its weights are, pictures and codes must be too.
        chunk: pictures that go through it at once.
        """
        self.dvae = dvae.eval().requires_grad_(False)
        self.chunk = chunk
        self.vocab_size = dvae.config.num_codes
        self.image_size = (dvae.config.image_height, dvae.config.image_width)
        self.grid = dvae.config.grid

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
        parts = [self.dvae.encode_logits(part).argmax(dim=1) for part in images.split(self.chunk)]
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
        parts = [self.dvae.pixels(self.dvae.decode_codes(part)) for part in codes.split(self.chunk)]
        height, width = self.image_size
        return torch.cat(parts) if parts else torch.zeros(0, 3, height, width, device=codes.device)
