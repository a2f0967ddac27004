"""Training the decoder on captioned pictures.

Source: arXiv 2102.12092, section 2.2 and appendix B.2.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from dalle.checkpoint import IMAGE_TOKENIZER, RERANKER, TEXT_TOKENIZER
from dalle.checkpoint.folder import write_neighbour
from dalle.config import to_json
from dalle.data.transforms import center_crop, dalle_augment, to_float
from dalle.errors import ConfigError
from dalle.models.dalle import Dalle, DalleConfig, DalleOutput
from dalle.pictures import grid
from dalle.protocols import Batch, EncodedSample, ImageTokenizer, Loss, Sample
from dalle.sampling.decode import sample_codes
from dalle.sampling.filters import Sampling
from dalle.tokenizers.text import LongCaptions, TextTokenizer, apply_long_captions


@dataclass(frozen=True, kw_only=True, slots=True)
class DalleObjective:
    """What is minimised, and how captions and pictures are varied; defaults as published."""

    text_weight: float = 1 / 8
    """Share of the text's loss; the image's is the rest."""
    bpe_dropout: float = 0.1
    """Share of the merges that are left out in training."""
    caption_dropout: float = 0.1
    """Share of the captions that are dropped, so that the model can be guided. Not published."""
    long_captions: LongCaptions = "cut"
    augment: bool = True
    """The paper's crops; without it the centre of the picture."""

    def __post_init__(self) -> None:
        for name in ("text_weight", "bpe_dropout", "caption_dropout"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ConfigError(f"{name} is {getattr(self, name)}; expected 0 ... 1")


@dataclass(frozen=True, kw_only=True, slots=True)
class Neighbours:
    """Models, or their folders, that a trained DALL·E takes along: its folder is all one needs."""

    image_tokenizer: Path | nn.Module
    reranker: Path | nn.Module | None = None


class DalleTask:
    """A `Task`: next-token prediction over text and image, each mean over its own targets."""

    kind = "dalle"

    def __init__(
        self,
        config: DalleConfig,
        *,
        text_tokenizer: TextTokenizer,
        image_tokenizer: ImageTokenizer,
        objective: DalleObjective,
        neighbours: Neighbours | None = None,
        preview_prompts: tuple[str, ...] = (),
        sampling: Sampling | None = None,
    ) -> None:
        """Args:
        neighbours: what goes into the model's folder beside it.
        preview_prompts: sampled from at times during training.
        sampling: of the previews, and what the trained model samples with unless told otherwise.
        """
        if image_tokenizer.grid != (config.rows, config.cols):
            raise ConfigError(
                f"the image tokenizer has a grid of {image_tokenizer.grid}, the model one of "
                f"{(config.rows, config.cols)}; set rows and cols to the tokenizer's"
            )
        for name, mine, theirs in (
            ("image_vocab", config.image_vocab, image_tokenizer.vocab_size),
            ("text_vocab", config.text_vocab, text_tokenizer.vocab_size),
        ):
            if mine != theirs:
                raise ConfigError(f"{name} is {mine}, the tokenizer has {theirs}; set it to that")
        self.config = config
        self.text_tokenizer = text_tokenizer
        self.image_tokenizer = image_tokenizer
        self.objective = objective
        self.neighbours = neighbours
        self.preview_prompts = preview_prompts
        self.sampling = sampling or Sampling()

    def build(self) -> nn.Module:
        """A fresh decoder; the image tokenizer is no part of it."""
        return Dalle(self.config)

    def view(self, sample: Sample, random: Random, *, train: bool) -> np.ndarray:
        """The picture as the image tokenizer sees it: uint8, height x width x 3."""
        size, augment = self.image_tokenizer.image_size, train and self.objective.augment
        return view_of(sample, random, size=size, augment=augment)

    def read(
        self, sample: Sample | EncodedSample, random: Random, *, train: bool
    ) -> dict[str, np.ndarray] | None:
        """Text ids, and the picture or (from an encoded source) its codes.

        Training draws one of the captions, drops it at times, and breaks its words up; without
        training the first caption is taken as it is. A sample without captions is trained as "no
        caption": whoever does not want that leaves it out of the source.
        """
        text = self._read_text(sample, random, train=train)
        if text is None:
            return None
        if isinstance(sample, EncodedSample):
            view = random.randrange(len(sample.codes)) if train else 0
            return {"text": text, "codes": sample.codes[view].astype(np.int64)}
        return {"text": text, "image": self.view(sample, random, train=train)}

    def _read_text(
        self, sample: Sample | EncodedSample, random: Random, *, train: bool
    ) -> np.ndarray | None:
        slots, tokenizer = self.config.text_slots, self.text_tokenizer
        captions = sample.captions
        if train and random.random() < self.objective.caption_dropout:
            captions = ()
        if not captions:
            return tokenizer.empty_stream(slots)
        chosen = random.choice(range(len(captions))) if train else 0
        dropout = self.objective.bpe_dropout if train else 0.0
        if dropout == 0 and isinstance(sample, EncodedSample) and sample.token_ids is not None:
            stream = tokenizer.stream_of(sample.token_ids[chosen], slots=slots)
        else:
            stream = tokenizer.encode_stream(
                captions[chosen], slots=slots, dropout=dropout, random=random
            )
        kept = apply_long_captions(stream, self.objective.long_captions, key=sample.key)
        return None if kept is None else kept.ids

    @torch.no_grad()
    def prepare(self, arrays: dict[str, Tensor]) -> Batch:
        """Text and codes, and how many targets of each there are."""
        text = arrays["text"]
        if "codes" in arrays:
            codes = arrays["codes"]
        else:
            codes = self.image_tokenizer.encode(to_float(arrays["image"]))
        targets = text_targets(text, self.config.text_vocab)
        return Batch(
            tensors={"text": text, "codes": codes.flatten(1), "text_targets": targets},
            counts={"text": float((targets >= 0).sum()), "image": float(codes.numel())},
        )

    def loss(
        self, model: nn.Module, batch: Batch, *, step: int, counts: Mapping[str, float]
    ) -> Loss:
        """1/8 of the text's and 7/8 of the image's mean cross entropy, in nats per token."""
        output: DalleOutput = model(batch.tensors["text"], batch.tensors["codes"])
        text = _summed_nll(output.text, batch.tensors["text_targets"]) / max(counts["text"], 1.0)
        image = _summed_nll(output.image, batch.tensors["codes"]) / counts["image"]
        weight = self.objective.text_weight
        total = weight * text + (1.0 - weight) * image
        metrics = {"loss": total, "loss_text": text, "loss_image": image}
        return Loss(total=total, metrics={name: x.detach() for name, x in metrics.items()})

    @torch.no_grad()
    def validate(
        self, model: nn.Module, batches: Iterable[Batch], *, step: int
    ) -> dict[str, float]:
        """Losses on held-out pictures, the image's also without its caption: the difference is
        what the model takes from the text."""
        sums = {"text": 0.0, "image": 0.0, "no_caption": 0.0}
        counts = {"text": 0.0, "image": 0.0}
        for batch in batches:
            text, codes = batch.tensors["text"], batch.tensors["codes"]
            output: DalleOutput = model(text, codes)
            sums["text"] += _summed_nll(output.text, batch.tensors["text_targets"]).item()
            sums["image"] += _summed_nll(output.image, codes).item()
            ids = torch.arange(text.shape[1], device=text.device) + self.config.text_vocab
            sums["no_caption"] += _summed_nll(model(ids.expand_as(text), codes).image, codes).item()
            for name in counts:
                counts[name] += batch.counts[name]
        text_loss = sums["text"] / max(counts["text"], 1.0)
        image_loss = sums["image"] / max(counts["image"], 1.0)
        weight = self.objective.text_weight
        return {
            "loss": weight * text_loss + (1.0 - weight) * image_loss,
            "loss_text": text_loss,
            "loss_image": image_loss,
            "loss_image_no_caption": sums["no_caption"] / max(counts["image"], 1.0),
        }

    @torch.no_grad()
    def preview(self, model: nn.Module, batch: Batch, folder: Path) -> list[Path]:
        """Four samples of each preview prompt, one prompt a row."""
        if not self.preview_prompts:
            return []
        assert isinstance(model, Dalle)
        slots = self.config.text_slots
        streams = [self.text_tokenizer.encode_stream(p, slots=slots) for p in self.preview_prompts]
        texts = torch.from_numpy(np.stack([stream.ids for stream in streams])).to(model.device)
        prompt_of = [i for i in range(len(streams)) for _ in range(4)]
        seeds = [i for _ in streams for i in range(4)]
        sampled = sample_codes(
            model, texts, prompt_of=prompt_of, seeds=seeds, sampling=self.sampling
        )
        pictures = self.image_tokenizer.decode(sampled.codes.to(model.device))
        path = folder / "samples.png"
        grid(pictures, columns=4).save(path)
        return [path]

    def export(self, folder: Path) -> dict[str, Any]:
        """Both tokenizers, the reranker if there is one, and the settings of sampling."""
        self.text_tokenizer.save(folder / TEXT_TOKENIZER)
        if self.neighbours:
            write_neighbour(folder / IMAGE_TOKENIZER, self.neighbours.image_tokenizer)
            if self.neighbours.reranker:
                write_neighbour(folder / RERANKER, self.neighbours.reranker)
        return {"sampling": to_json(self.sampling)}


def view_of(sample: Sample, random: Random, *, size: tuple[int, int], augment: bool) -> np.ndarray:
    """The paper's crop of a picture, or its centre: uint8, height x width x 3."""
    crop = dalle_augment if augment else lambda image, _, **target: center_crop(image, **target)
    return crop(sample.image, random, height=size[0], width=size[1])


def text_targets(text: Int[Tensor, "b text"], vocab: int) -> Int[Tensor, "b targets"]:
    """What slots 0 ... text - 2 predict: the next token, the end once, and then nothing (-1).

    A text without tokens (no caption) has no targets.
    """
    following = text[:, 1:]
    is_pad = following > vocab
    first_pad = is_pad & (is_pad.cumsum(1) == 1)
    targets = torch.where(is_pad, -1, following).masked_fill(first_pad, vocab)
    return targets.masked_fill(is_pad[:, :1], -1)


def _summed_nll(logits: Float[Tensor, "b t v"], targets: Int[Tensor, "b t"]) -> Float[Tensor, ""]:
    return F.cross_entropy(
        logits.flatten(0, 1), targets.flatten(), ignore_index=-1, reduction="sum"
    )
