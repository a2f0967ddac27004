"""Models of this project as generator, as captioner, and as scorers of captions."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from dalle.protocols import Reranker
from dalle.sampling.pipeline import Pipeline
from dalle.sampling.request import Request
from dalle.systems.round_trip.similarity import pixels_of


class PipelineGenerator:
    """A `Generator`: any model that `dalle.load` takes.

    Args:
        pipeline: the model.
        request: how codes are drawn; its number of pictures and its seed are those of each call.
        progress: called with the number of codes just sampled.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        *,
        request: Request | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> None:
        self.pipeline = pipeline
        self.request = request or Request()
        self.progress = progress

    def generate(
        self, texts: Sequence[str], *, num_pictures: int, seed: int
    ) -> list[list[Image.Image]]:
        """`num_pictures` of each text, in the order of their seeds.

        Raises:
            InputError: a setting cannot be used.
            OutOfMemoryError: even half a launch is too much for the device.
        """
        request = Request(
            num_samples=num_pictures,
            seed=seed,
            temperature=self.request.temperature,
            top_k=self.request.top_k,
            top_p=self.request.top_p,
            guidance=self.request.guidance,
            launch=self.request.launch,
            rank_by="log_prob",
        )
        return [
            [picture.image for picture in sorted(pictures, key=lambda picture: picture.seed)]
            for pictures in self.pipeline.generate_each(texts, request, progress=self.progress)
        ]


class PipelineCaptioner:
    """A `Captioner`: a decoder that was trained on pictures before texts, too.

    Args:
        pipeline: the model.
        temperature, top_k, top_p: how tokens are drawn, as in `Pipeline.caption`.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        *,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = 0.9,
    ) -> None:
        self.pipeline = pipeline
        self.temperature, self.top_k, self.top_p = temperature, top_k, top_p

    def caption(
        self, images: Sequence[Image.Image], *, num_captions: int, seed: int
    ) -> list[list[str]]:
        """`num_captions` of each picture; caption i has the seed `seed + i`.

        Raises:
            InputError: the model writes no captions.
        """
        return [
            self.pipeline.caption(
                image,
                num_samples=num_captions,
                seed=seed,
                temperature=self.temperature,
                top_k=self.top_k,
                top_p=self.top_p,
            )
            for image in images
        ]


class PipelineScorer:
    """A `CaptionScorer`: ln p(picture | caption) by the decoder, in nats.

    What the caption itself has of probability does not count, since ln p(picture) is the same for
    all captions of a picture.
    """

    def __init__(self, pipeline: Pipeline) -> None:
        self.pipeline = pipeline

    def score(self, image: Image.Image, captions: Sequence[str]) -> Float[Tensor, " n"]:
        """Of each caption, by one pass of the decoder over the picture's codes."""
        found = self.pipeline.log_likelihoods(image, list(captions))
        return torch.tensor([one.log_prob for one in found], dtype=torch.float64)


class RerankerScorer:
    """A `CaptionScorer`: what a reranker makes of the picture beside each caption."""

    def __init__(self, reranker: Reranker) -> None:
        self.reranker = reranker

    def score(self, image: Image.Image, captions: Sequence[str]) -> Float[Tensor, " n"]:
        """Of each caption, by the reranker's own measure."""
        pixels = pixels_of([image]).expand(len(captions), -1, -1, -1)
        return self.reranker.score(list(captions), pixels)
