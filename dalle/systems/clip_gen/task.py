"""Training CLIP-GEN's decoder on pictures without captions.

Source: arXiv 2203.00386, section 3.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from dalle.checkpoint import TEXT_TOKENIZER
from dalle.config import to_json
from dalle.data.transforms import to_float
from dalle.errors import ConfigError, DataError
from dalle.models.clip_gen import ClipGen, ClipGenConfig
from dalle.protocols import Batch, EncodedSample, ImageTokenizer, Loss, Sample
from dalle.sampling.filters import Sampling
from dalle.sampling.joint_prompts import JointPrompts
from dalle.systems.clip_gen.embedding_loss import Distance, embedding_loss, share_decoder
from dalle.training.image_tokens import (
    check_sizes,
    codes_of,
    draw_samples,
    drawn_view,
    summed_nll,
    view_of,
)
from dalle.training.neighbours import Neighbours

PREVIEW_PICTURES = 4
"""Whose vectors previews show, where there are no prompts."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ClipGenObjective:
    """What is minimised; the recipe of the condition is the condition's own."""

    condition_dropout: float = 0.1
    """Share of the conditions that are dropped in training, so that the model can be guided.
    Source: arXiv 2207.12598; not CLIP-GEN's."""
    embedding_weight: float = 0.0
    """Of the embedding loss; 0, the default of the published code, leaves it out."""
    embedding_distance: Distance = "cosine"
    augment: bool = True
    """The paper's crops; without it the centre of the picture."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.condition_dropout <= 1.0:
            raise ConfigError(f"condition_dropout is {self.condition_dropout}; expected 0 ... 1")
        if not self.embedding_weight >= 0.0:
            raise ConfigError(f"embedding_weight is {self.embedding_weight}; expected 0 or more")


class ClipGenTask:
    """A `Task`: next-token prediction over codes, given the vector of the same picture.

    Captions are never looked at. Noise and dropped conditions are drawn in `loss`, whose generator
    is a function of the seed, the step and the place in the batch.
    """

    kind = "clip_gen"

    def __init__(
        self,
        config: ClipGenConfig,
        *,
        prompts: JointPrompts,
        image_tokenizer: ImageTokenizer,
        objective: ClipGenObjective,
        neighbours: Neighbours | None = None,
        preview_prompts: tuple[str, ...] = (),
        sampling: Sampling | None = None,
    ) -> None:
        """Args:
        prompts: the CLIP, and how its vectors become conditions.
        neighbours: what goes into the model's folder beside it.
        preview_prompts: sampled from at times during training; without them, held-out pictures.
        sampling: of the previews, and what the trained model samples with unless told otherwise.
        """
        check_sizes(config.layout, config.image_vocab, image_tokenizer)
        if config.vector_size != prompts.vocab_size:
            raise ConfigError(
                f"vector_size is {config.vector_size}, the CLIP's vectors have "
                f"{prompts.vocab_size} numbers; set it to that"
            )
        self.config = config
        self.prompts = prompts
        self.image_tokenizer = image_tokenizer
        self.objective = objective
        self.neighbours = neighbours
        self.preview_prompts = preview_prompts
        self.sampling = sampling or Sampling()
        self._shares = share_decoder(image_tokenizer) if objective.embedding_weight else None

    def build(self) -> nn.Module:
        """A fresh decoder; neither the image tokenizer nor the CLIP is a part of it."""
        return ClipGen(self.config)

    def read(
        self, sample: Sample | EncodedSample, random: Random, *, train: bool
    ) -> dict[str, np.ndarray] | None:
        """The picture; or, from an encoded source, the codes and the vector of one view of it.

        Raises:
            DataError: there are codes without vectors.
        """
        if isinstance(sample, Sample):
            size, augment = self.image_tokenizer.image_size, train and self.objective.augment
            return {"image": view_of(sample, random, size=size, augment=augment)}
        if sample.vectors is None or len(sample.vectors) != len(sample.codes):
            raise DataError(f"{sample.key} has codes without as many vectors; embed the source too")
        view = drawn_view(sample, random, train=train)
        return {"codes": sample.codes[view].astype(np.int64), "vectors": sample.vectors[view]}

    @torch.no_grad()
    def prepare(self, arrays: dict[str, Tensor]) -> Batch:
        """Codes, and the vectors that were read or those of the same crops."""
        codes = codes_of(arrays, self.image_tokenizer)
        vectors = arrays.get("vectors")
        if vectors is None:
            vectors = self.prompts.embedder.encode_images(to_float(arrays["image"]))
        return Batch(
            tensors={"codes": codes, "vectors": vectors.to(codes.device)},
            counts={"image": float(codes.numel()), "pictures": float(len(codes))},
        )

    def loss(
        self, model: nn.Module, batch: Batch, *, step: int, counts: Mapping[str, float]
    ) -> Loss:
        """The mean cross entropy in nats per code, and where asked for the embedding loss."""
        codes, vectors = batch.tensors["codes"], batch.tensors["vectors"]
        conditions = self.prompts.condition.noisy(self.prompts.condition.of_images(vectors))
        logits = model(drop(conditions, self.objective.condition_dropout), codes)
        image = summed_nll(logits, codes) / counts["image"]
        total, metrics = image, {"loss_image": image}
        if self._shares is not None:
            distances = embedding_loss(
                logits,
                vectors,
                decoder=self._shares,
                embedder=self.prompts.embedder,
                grid=self.image_tokenizer.grid,
                distance=self.objective.embedding_distance,
            )
            metrics["loss_embedding"] = distances.sum() / counts["pictures"]
            total = image + self.objective.embedding_weight * metrics["loss_embedding"]
        metrics = {"loss": total, **metrics}
        return Loss(total=total, metrics={name: x.detach() for name, x in metrics.items()})

    @torch.no_grad()
    def validate(
        self, model: nn.Module, batches: Iterable[Batch], *, step: int
    ) -> dict[str, float]:
        """The loss on held-out pictures with their own vectors, without noise; with those of other
        pictures; and with none: the differences are what the model takes from a vector."""
        sums = dict.fromkeys(("loss_image", "loss_image_other_vector", "loss_image_no_vector"), 0.0)
        count = 0.0
        for batch in batches:
            codes = batch.tensors["codes"]
            own = self.prompts.condition.of_images(batch.tensors["vectors"])
            for name, conditions in zip(
                sums, (own, own.roll(1, dims=0), torch.zeros_like(own)), strict=True
            ):
                sums[name] += summed_nll(model(conditions, codes), codes).item()
            count += batch.counts["image"]
        means = {name: value / max(count, 1.0) for name, value in sums.items()}
        return {"loss": means["loss_image"], **means}

    @torch.no_grad()
    def preview(self, model: nn.Module, batch: Batch, folder: Path) -> list[Path]:
        """Four samples of each preview prompt, one prompt a row; without prompts, of the vectors of
        some held-out pictures."""
        conditions = self._preview_conditions(batch)
        path = folder / "samples.png"
        tokenizer, sampling = self.image_tokenizer, self.sampling
        return [draw_samples(model, conditions, tokenizer, sampling=sampling, path=path)]

    def export(self, folder: Path) -> dict[str, Any]:
        """The condition with its CLIP, the image tokenizer, the reranker if there is one, and the
        settings of sampling."""
        self.prompts.save(folder / TEXT_TOKENIZER)
        if self.neighbours:
            self.neighbours.write(folder)
        return {"sampling": to_json(self.sampling)}

    def _preview_conditions(self, batch: Batch) -> Float[Tensor, "p e"]:
        condition = self.prompts.condition
        if not self.preview_prompts:
            return condition.of_images(batch.tensors["vectors"][:PREVIEW_PICTURES])
        return condition.of_texts(self.prompts.embedder.encode_texts(list(self.preview_prompts)))


def drop(conditions: Float[Tensor, "b e"], share: float) -> Float[Tensor, "b e"]:
    """Conditions of which about a share are zeros, the learned null; from torch's generator."""
    draws = torch.rand(len(conditions), 1, device=conditions.device)
    return torch.where(draws < share, 0.0, conditions)
