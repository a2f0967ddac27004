"""Training the decoder on captioned pictures.

Source: arXiv 2102.12092, section 2.2 and appendix B.2.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor, nn

from dalle.checkpoint import TEXT_TOKENIZER
from dalle.checkpoint.load import model_class
from dalle.config import to_json
from dalle.errors import ConfigError
from dalle.models.dalle import DalleOutput
from dalle.protocols import Batch, EncodedSample, ImageTokenizer, Loss, Sample
from dalle.sampling.filters import Sampling
from dalle.tokenizers.kinds import PromptTokenizer
from dalle.tokenizers.slots import StreamText, apply_long_captions
from dalle.tokenizers.text import TextTokenizer
from dalle.training.caption_order import caption_losses, with_orders
from dalle.training.dalle_objective import DalleObjective
from dalle.training.image_tokens import (
    check_sizes,
    codes_of,
    draw_samples,
    drawn_view,
    summed_nll,
    view_of,
)
from dalle.training.neighbours import Neighbours
from dalle.training.text_targets import family_targets, without_slots_past_all


class DalleTask:
    """A `Task`: next-token prediction over text and image, each mean over its own targets.

    A decoder of any family will do whose `forward` takes ids and codes and gives a `DalleOutput`;
    what its text slots predict is in `training.text_targets`.
    """

    def __init__(
        self,
        config: Any,
        *,
        kind: str = "dalle",
        text_tokenizer: PromptTokenizer,
        image_tokenizer: ImageTokenizer,
        objective: DalleObjective,
        neighbours: Neighbours | None = None,
        preview_prompts: tuple[str, ...] = (),
        sampling: Sampling | None = None,
        source: Mapping[str, Any] | None = None,
    ) -> None:
        """Args:
        config: what the decoder is built from.
        kind: the decoder's, one of `text_targets.FAMILIES`.
        neighbours: what goes into the model's folder beside it.
        preview_prompts: sampled from at times during training.
        sampling: of the previews, and what the trained model samples with unless told otherwise.
        source: where the weights come from that it starts with, for its config.json.
        """
        check_sizes(config.layout, config.image_vocab, image_tokenizer)
        if config.text_vocab != text_tokenizer.vocab_size:
            raise ConfigError(
                f"text_vocab is {config.text_vocab}, the tokenizer has "
                f"{text_tokenizer.vocab_size}; set it to that"
            )
        self.both_orders = bool(kind == "dalle" and config.both_orders)
        if self.both_orders != (objective.caption_order > 0.0):
            raise ConfigError(
                f"both_orders is {self.both_orders} and caption_order {objective.caption_order}; "
                "a model of both orders needs a share above 0, any other the share 0"
            )
        self.config, self.kind = config, kind
        self._text_targets = family_targets(kind)
        self.text_tokenizer = text_tokenizer
        self.image_tokenizer = image_tokenizer
        self.objective = objective
        self.neighbours = neighbours
        self.preview_prompts = preview_prompts
        self.sampling = sampling or Sampling()
        self.source = source

    def build(self) -> nn.Module:
        """A fresh decoder; the image tokenizer is no part of it."""
        return model_class(self.kind)(self.config)

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
        arrays = {"text": text}
        if self.both_orders:
            said = text[1] < self.config.text_vocab
            first = train and bool(said) and random.random() < self.objective.caption_order
            arrays["picture_first"] = np.array(first)
        if isinstance(sample, EncodedSample):
            view = drawn_view(sample, random, train=train)
            return {**arrays, "codes": sample.codes[view].astype(np.int64)}
        return {**arrays, "image": self.view(sample, random, train=train)}

    def _read_text(
        self, sample: Sample | EncodedSample, random: Random, *, train: bool
    ) -> np.ndarray | None:
        captions = sample.captions
        if train and random.random() < self.objective.caption_dropout:
            captions = ()
        if not captions:
            return self.text_tokenizer.empty_stream(self.config.layout.text)
        chosen = random.choice(range(len(captions))) if train else 0
        dropout = self.objective.bpe_dropout if train else 0.0
        ids = sample.token_ids if isinstance(sample, EncodedSample) and dropout == 0 else None
        stream = self._encode(
            captions[chosen], None if ids is None else ids[chosen], dropout=dropout, random=random
        )
        kept = apply_long_captions(stream, self.objective.long_captions, key=sample.key)
        return None if kept is None else kept.ids

    def _encode(
        self, caption: str, ids: np.ndarray | None, *, dropout: float, random: Random
    ) -> StreamText:
        """A caption, whose ids may be known already."""
        slots, tokenizer = self.config.layout.text, self.text_tokenizer
        if not isinstance(tokenizer, TextTokenizer):
            return tokenizer.encode_stream(caption, slots=slots)
        if ids is not None:
            return tokenizer.stream_of(ids, slots=slots)
        return tokenizer.encode_stream(caption, slots=slots, dropout=dropout, random=random)

    @torch.no_grad()
    def prepare(self, arrays: dict[str, Tensor]) -> Batch:
        """Text and codes, and how many targets of each there are."""
        text = arrays["text"]
        codes = codes_of(arrays, self.image_tokenizer)
        targets = without_slots_past_all(self._text_targets(text, self.config))
        batch = Batch(
            tensors={"text": text, "codes": codes, "text_targets": targets},
            counts={"text": float((targets >= 0).sum()), "image": float(codes.numel())},
        )
        return with_orders(batch, arrays["picture_first"]) if self.both_orders else batch

    def loss(
        self, model: nn.Module, batch: Batch, *, step: int, counts: Mapping[str, float]
    ) -> Loss:
        """1/8 of the text's and 7/8 of the image's mean cross entropy, in nats per token.

        With a caption order of p, 1 - p of that, and p times the caption's weight of the mean over
        captions whose picture is first.
        """
        tensors, both = batch.tensors, self.both_orders
        order = (tensors["picture_first"],) if both else ()
        output: DalleOutput = model(
            tensors["text"], tensors["codes"], *order, **self._wanted(tensors["text_targets"])
        )
        text = summed_nll(output.text, tensors["text_targets"]) / max(counts["text"], 1.0)
        codes = tensors["image_targets" if both else "codes"]
        image = summed_nll(output.image, codes) / max(counts["image"], 1.0)
        metrics = {"loss_text": text, "loss_image": image}
        if both:
            caption = summed_nll(output.text, tensors["caption_targets"])
            metrics["loss_caption"] = caption / max(counts["caption"], 1.0)
        total = self.objective.total(metrics)
        metrics = {"loss": total, **metrics}
        return Loss(total=total, metrics={name: x.detach() for name, x in metrics.items()})

    def _wanted(self, targets: Int[Tensor, "b targets"]) -> dict[str, int]:
        """What a decoder is told of the text logits that are needed; others than ours, which learn
        their pads, give them all."""
        return {"text_logits": targets.shape[1]} if self.kind == "dalle" else {}

    @torch.no_grad()
    def validate(
        self, model: nn.Module, batches: Iterable[Batch], *, step: int
    ) -> dict[str, float]:
        """Losses on held-out pictures, the image's also without its caption: the difference is
        what the model takes from the text. Of both orders, captions too, whose own controls are
        `loss_text`, without a picture, and another picture."""
        decoder: Any = model  # a `Decoder`
        batches = list(batches)
        sums = {"text": 0.0, "image": 0.0, "image_no_caption": 0.0}
        counts = {"text": 0.0, "image": 0.0}
        for batch in batches:
            text, codes = batch.tensors["text"], batch.tensors["codes"]
            targets = batch.tensors["text_targets"]
            output: DalleOutput = model(text, codes, **self._wanted(targets))
            sums["text"] += summed_nll(output.text, targets).item()
            sums["image"] += summed_nll(output.image, codes).item()
            none = self._wanted(targets[:, :0])
            no_caption: DalleOutput = model(decoder.no_caption(text), codes, **none)
            sums["image_no_caption"] += summed_nll(no_caption.image, codes).item()
            for name in counts:
                counts[name] += batch.counts[name]
        losses = {
            f"loss_{name}": value / max(counts[name.split("_")[0]], 1.0)
            for name, value in sums.items()
        }
        if self.both_orders:
            losses |= caption_losses(model, batches)
        return {"loss": self.objective.total(losses), **losses}

    @torch.no_grad()
    def preview(self, model: nn.Module, batch: Batch, folder: Path) -> list[Path]:
        """Four samples of each preview prompt, one prompt a row."""
        if not self.preview_prompts:
            return []
        slots = self.config.layout.text
        streams = [self.text_tokenizer.encode_stream(p, slots=slots) for p in self.preview_prompts]
        texts = torch.from_numpy(np.stack([stream.ids for stream in streams]))
        path = folder / "samples.png"
        return [draw_samples(model, texts, self.image_tokenizer, sampling=self.sampling, path=path)]

    def export(self, folder: Path) -> dict[str, Any]:
        """Tokenizers, the reranker if there is one, how to sample, where its weights began."""
        self.text_tokenizer.save(folder / TEXT_TOKENIZER)
        if self.neighbours:
            self.neighbours.write(folder)
        source = {} if self.source is None else {"source": dict(self.source)}
        return {"sampling": to_json(self.sampling), **source}
