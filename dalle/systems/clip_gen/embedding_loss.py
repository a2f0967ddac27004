"""CLIP-GEN's second loss: the picture that a decoder predicts should have the vector it was given.

Source: arXiv 2203.00386, section 3; HFAiLab/clip-gen, train_gpt.py, whose default weight is 0.
"""

from typing import Any, Literal, Protocol

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from dalle.errors import ConfigError
from dalle.protocols import ImageTokenizer, JointEmbedder

Distance = Literal["cosine", "mse"]
"""1 - cosine; or the mean squared difference, as the published code has it."""


class ShareDecoder(Protocol):
    """A model of pictures as codes that also takes shares of codes; see `models.dvae.Dvae`."""

    def pictures_of_shares(
        self, shares: Float[Tensor, "b codes rows cols"]
    ) -> Float[Tensor, "b 3 height width"]: ...


def share_decoder(tokenizer: ImageTokenizer) -> ShareDecoder:
    """The frozen model through which gradients can flow.

    Raises:
        ConfigError: it has no such way.
    """
    model: Any = getattr(tokenizer, "model", None)
    if not hasattr(model, "pictures_of_shares"):
        raise ConfigError(
            f"no gradient flows through a {type(model).__name__}, so the embedding loss cannot be "
            "had; leave out --embedding-weight, or take a discrete VAE or VQGAN"
        )
    decoder: ShareDecoder = model
    return decoder


def straight_through(logits: Float[Tensor, "b image v"]) -> Float[Tensor, "b image v"]:
    """The most likely codes, one-hot; backward they are the softmax."""
    shares = logits.softmax(dim=-1)
    hard = F.one_hot(logits.argmax(dim=-1), logits.shape[-1]).to(shares.dtype)
    return hard + shares - shares.detach()


def embedding_loss(
    logits: Float[Tensor, "b image v"],
    vectors: Float[Tensor, "b e"],
    *,
    decoder: ShareDecoder,
    embedder: JointEmbedder,
    grid: tuple[int, int],
    distance: Distance,
) -> Float[Tensor, " b"]:
    """How far the vector of each predicted picture is from the one it should have.

    The codes are predicted each from the true ones before it. The picture goes through the CLIP's
    own resizing and normalisation.

    Args:
        logits: of every code.
        vectors: of the true pictures, of unit length.
        grid: (rows, cols) of the codes.
    """
    shares = straight_through(logits).mT.unflatten(2, grid)
    found = embedder.encode_images_smoothly(decoder.pictures_of_shares(shares))
    if distance == "cosine":
        return 1 - (found * vectors).sum(dim=-1)
    return (found - vectors).square().mean(dim=-1)
