"""Vectors of pictures: made once by a CLIP, kept as codes are, and put beside them."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from dalle.data.split import key_at
from dalle.data.token_files import name_of
from dalle.data.tokens import EncodedSource, View
from dalle.data.transforms import to_float
from dalle.errors import DataError
from dalle.protocols import EncodedSample, JointEmbedder, Sample, Source


@dataclass(frozen=True, kw_only=True, slots=True)
class Embedding:
    """How pictures become vectors: a `Making` for the token cache."""

    what = "vectors"
    embedder: JointEmbedder
    fingerprint: str
    """The embedder's, which takes time to find."""
    view: View
    view_name: str
    """What the view does besides the code of `data.transforms`, which is hashed."""
    views: int

    def name(self) -> str:
        """See `Making`."""
        return name_of(self.fingerprint, self.view_name, self.views)

    @property
    def shape(self) -> tuple[int, ...]:
        """Numbers in a vector."""
        return (self.embedder.vector_size,)

    @property
    def dtype(self) -> np.dtype[np.generic]:
        """Four bytes a number."""
        return np.dtype(np.float32)

    @torch.no_grad()
    def make(self, pictures: np.ndarray) -> np.ndarray:
        """See `Making`."""
        vectors = self.embedder.encode_images(to_float(torch.from_numpy(pictures)))
        return vectors.float().cpu().numpy()


def embed_source(
    source: Source, embedding: Embedding, *, progress: Callable[[int], object] = lambda _: None
) -> EncodedSource:
    """The vectors of a source in memory, in the place of codes: for pictures drawn on the fly."""
    vectors = np.zeros((len(source), embedding.views, *embedding.shape), dtype=np.float32)
    damaged: dict[int, str] = {}
    for index in range(len(source)):
        try:
            vectors[index] = embedding.make(_views(source[index], embedding))
        except DataError as error:
            damaged[index] = str(error)
        progress(1)
    keys = [key_at(source, index) for index in range(len(source))]
    return EncodedSource(keys=keys, codes=vectors, captions=[()] * len(keys), damaged=damaged)


def _views(sample: Sample | EncodedSample, embedding: Embedding) -> np.ndarray:
    if not isinstance(sample, Sample):
        raise DataError(f"{sample.key} is encoded already; give a source of pictures")
    views = range(embedding.views)
    return np.stack([embedding.view(sample, Random(f"{sample.key}/{view}")) for view in views])


class WithVectors:
    """A source of codes, each sample with the vectors of the same views, and without captions.

    Args:
        codes: of the pictures.
        vectors: of the same pictures, in the place of codes.

    Raises:
        DataError: they are not as many.
    """

    def __init__(self, codes: Source, vectors: Source) -> None:
        if len(codes) != len(vectors):
            raise DataError(f"{len(vectors)} vectors came for {len(codes)} pictures")
        self.codes, self.vectors = codes, vectors

    def __len__(self) -> int:
        return len(self.codes)

    def __getitem__(self, index: int, /) -> EncodedSample:
        codes, vectors = self.codes[index], self.vectors[index]
        assert isinstance(codes, EncodedSample) and isinstance(vectors, EncodedSample)
        return replace(codes, captions=(), vectors=vectors.codes)

    def key(self, index: int) -> str:
        """The name of a sample."""
        return key_at(self.codes, index)


def mean_vector(vectors: Source) -> Float[Tensor, " e"]:
    """The mean over all views of all pictures, damaged ones aside.

    Raises:
        DataError: no picture can be read.
    """
    total: np.ndarray | float = 0.0
    count = 0
    for index in range(len(vectors)):
        try:
            sample = vectors[index]
        except DataError:
            continue
        assert isinstance(sample, EncodedSample)
        total = total + sample.codes.sum(axis=0, dtype=np.float64)
        count += len(sample.codes)
    if not isinstance(total, np.ndarray):
        raise DataError("no picture of the data set can be read")
    return torch.from_numpy((total / count).astype(np.float32))
