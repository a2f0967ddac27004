"""Similarity by a CLIP: the cosine of two pictures' vectors, or of two texts'."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from dalle.errors import InputError
from dalle.models.clip_transformers import TransformersReranker
from dalle.protocols import Reranker
from dalle.sampling.rerank import ClipReranker, load_reranker

AT_ONCE = 32
Space = Literal["projected", "pooler"]


class Encoder(Protocol):
    """A CLIP, as vectors of pictures and of texts."""

    def encode_images(
        self, images: Float[Tensor, "n 3 height width"]
    ) -> Float[Tensor, "n of_image"]: ...

    def encode_texts(self, texts: list[str]) -> Float[Tensor, "n of_text"]: ...


class ClipSimilarity:
    """A `Similarity`: cosines between the vectors of one CLIP.

    Args:
        encoder: the CLIP.
    """

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder

    def images(self, image: Image.Image, others: Sequence[Image.Image]) -> Float[Tensor, " n"]:
        """The cosine of a picture and each of the others, -1 to 1."""
        return _to_first(self.encode_images([image, *others]))

    @torch.no_grad()
    def texts(self, text: str, others: Sequence[str]) -> Float[Tensor, " n"]:
        """The cosine of a text and each of the others, -1 to 1."""
        texts = [text, *others]
        parts = [texts[i : i + AT_ONCE] for i in range(0, len(texts), AT_ONCE)]
        return _to_first(torch.cat([self.encoder.encode_texts(part) for part in parts]))

    @torch.no_grad()
    def encode_images(self, images: Sequence[Image.Image]) -> Float[Tensor, "n e"]:
        """The vectors of pictures; those of one size that follow each other go together."""
        parts: list[list[Image.Image]] = []
        for image in images:
            if not parts or parts[-1][0].size != image.size or len(parts[-1]) == AT_ONCE:
                parts.append([])
            parts[-1].append(image)
        return torch.cat([self.encoder.encode_images(pixels_of(part)) for part in parts])


class PoolerEncoder:
    """The vectors of a CLIP of `transformers` before they are projected into the space of both.

    Source: the published code of arXiv 2212.12249, which compares these.
    """

    def __init__(self, reranker: TransformersReranker) -> None:
        self._reranker = reranker

    def encode_images(self, images: Float[Tensor, "n 3 height width"]) -> Float[Tensor, "n e"]:
        """What the vision tower gives of pictures in [0, 1]."""
        seen: Any = self._reranker.model.vision_model(**self._reranker.image_inputs(images))
        return seen.pooler_output.float()

    def encode_texts(self, texts: list[str]) -> Float[Tensor, "n e"]:
        """What the text tower gives."""
        read: Any = self._reranker.model.text_model(input_ids=self._reranker.text_ids(texts))
        return read.pooler_output.float()


def similarity_of(reranker: Reranker, *, space: Space) -> ClipSimilarity:
    """The similarity that a reranker's CLIP gives.

    Args:
        reranker: one of our CLIPs, or one of `transformers`.
        space: "projected" is the space that both towers share; "pooler" what is before it.

    Raises:
        InputError: it is another reranker, or has no such space.
    """
    if space == "pooler":
        if not isinstance(reranker, TransformersReranker):
            raise InputError(
                "the space pooler is that of CLIPs of transformers; with one of ours take projected"
            )
        return ClipSimilarity(PoolerEncoder(reranker))
    if not isinstance(reranker, ClipReranker | TransformersReranker):
        raise InputError(
            f"a {type(reranker).__name__} has no vectors of pictures and texts; name a CLIP to "
            "compare with"
        )
    return ClipSimilarity(reranker)


def load_similarity(
    where: str | Path, *, space: Space, device: str | torch.device
) -> ClipSimilarity:
    """The similarity by the CLIP in a folder or on the hub, as `load_reranker` takes it.

    Raises:
        InputError: there is no such folder or model, it is no CLIP, or it has no such space.
        CheckpointError: our folder is damaged, of another kind or of a newer format.
    """
    return similarity_of(load_reranker(where, device), space=space)


def pixels_of(images: Sequence[Image.Image]) -> Float[Tensor, "n 3 height width"]:
    """Pictures of one size, in [0, 1]."""
    levels = np.stack([np.asarray(image.convert("RGB")) for image in images])
    return rearrange(torch.from_numpy(levels), "n height width c -> n c height width") / 255


def _to_first(vectors: Float[Tensor, "some e"]) -> Float[Tensor, " others"]:
    unit = F.normalize(vectors.float(), dim=-1)
    return unit[1:] @ unit[0]
